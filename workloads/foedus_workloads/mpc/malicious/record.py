"""The operations that leave claims behind, and the record of one session that keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus_workloads.mpc import arithmetic, conversion
from foedus_workloads.mpc.arithmetic import ARITHMETIC, BOOLEAN, Domain
from foedus_workloads.mpc.malicious.bits import Numbers, convert, make_bits
from foedus_workloads.mpc.malicious.claims import Claims, MatrixClaim, ProductClaim
from foedus_workloads.mpc.malicious.coins import Coins
from foedus_workloads.mpc.malicious.local import pack
from foedus_workloads.mpc.malicious.transcripts import Transcripts
from foedus_workloads.mpc.malicious.wire import unpack_bits
from foedus_workloads.mpc.party import Party, Shared, Summand
from foedus_workloads.mpc.ring import WORD_BITS
from foedus_workloads.mpc.rounds import Exchange, Operation

# As many random bits are made as two comparisons are enough for, once an eighth of that many was asked for. Before,
# it is what is asked for and as many again, so that a short program makes few in vain, and seldom.
_MANY, _FEW = 1 << 20, 1 << 10


@dataclass
class Stock:
    """Random bits of one width: what is left, and how many were taken, are reserved, or being made."""

    left: Numbers | None = None
    taken: int = 0
    reserved: int = 0
    coming: int = 0
    fillings: int = 0

    @property
    def count(self) -> int:
        """How many are left."""
        return self.left.count if self.left else 0

    def reserve(self, count: int) -> int:
        """Reserve so many, and return how many are to be made for that."""
        self.reserved += count
        missing = self.reserved - self.count - self.coming
        if missing <= 0:
            return 0
        asked = self.taken + self.reserved
        making = max(missing, _MANY if asked > _MANY // 8 else max(asked, _FEW))
        self.coming += making
        return making

    def add(self, made: Numbers, wanted: int) -> None:
        """Put in what was made, when so many were to be."""
        self.left = made if self.left is None else self.left + made
        self.coming -= wanted
        self.fillings += 1

    def take(self, count: int) -> Numbers:
        """Return the next `count`, which are reserved and there."""
        assert self.left is not None, "what is reserved is there before it is taken"
        found, self.left = self.left.part(0, count), self.left.part(count, self.left.count)
        self.taken += count
        self.reserved -= count
        return found


@dataclass(frozen=True)
class Mark:
    """How much is in a record: claims of each kind, bits of each width that were taken, how often bits were made."""

    claims: Mapping[str, int]
    taken: Mapping[int, int]
    fillings: int


@dataclass(frozen=True)
class Traces:
    """What a step of a program leaves in a record."""

    claims: Claims
    bits: Mapping[int, int]  # taken, by width


@dataclass
class Record:
    """What one party has claimed and noted in a session since the last check, and random bits that it may use.

    `toss` gives coins, each time others.
    """

    transcripts: Transcripts
    toss: Callable[[Party], Operation[Coins]]
    claims: Claims = field(default_factory=Claims)
    stocks: dict[int, Stock] = field(default_factory=dict)  # by the bits of their numbers

    def mark(self) -> Mark:
        """Return how much is here."""
        taken = {width: stock.taken for width, stock in self.stocks.items()}
        return Mark(self.claims.lengths(), taken, sum(stock.fillings for stock in self.stocks.values()))

    def traces(self, mark: Mark) -> Traces | None:
        """Return what came since the mark; nothing when bits were made, which another time are in stock or not."""
        if self.mark().fillings != mark.fillings:
            return None
        bits = {width: stock.taken - mark.taken.get(width, 0) for width, stock in self.stocks.items()}
        return Traces(self.claims.since(mark.claims), bits)

    def repeat(self, traces: Traces) -> bool:
        """Leave such traces once more, if there are bits enough; tell whether there are."""
        if any(count > self.stocks.setdefault(width, Stock()).count for width, count in traces.bits.items()):
            return False
        for width, count in traces.bits.items():
            if count:
                self.stocks[width].reserve(count)
                self.stocks[width].take(count)
        self.claims.extend(traces.claims)
        return True

    def multiply(
        self, party: Party, x: Shared, y: Shared, domain: Domain = ARITHMETIC, *, bits: int | None = None
    ) -> Operation[Shared]:
        """Return x * y in the domain, and claim it: 1 round, one element a party."""
        z = yield from arithmetic.multiply(party, x, y, domain, bits=bits)
        (self.claims.ands if domain is BOOLEAN else self.claims.products).append(ProductClaim(x, y, z))
        return z

    def bitwise_and(self, party: Party, x: Shared, y: Shared) -> Operation[Shared]:
        """Return the AND of single bits, 64 of them to a word, and claim it: 1 round."""
        if party.ring.bits != WORD_BITS:  # a test's small ring enumerates each element's draws
            return (yield from self.multiply(party, x, y, BOOLEAN, bits=1))
        count = x.own.numel()
        words = yield from self.multiply(party, x.map(pack), y.map(pack), BOOLEAN)
        return words.map(lambda t: unpack_bits(t, count))

    def bit_to_arithmetic(self, party: Party, bit: Shared, *, bits: int | None = None) -> Operation[Shared]:
        """Return Boolean bits as numbers mod 2^bits, of the type that holds them: 1 round, when bits are in stock."""
        width = bits or party.ring.bits
        yield from self.supply(party, width, bit.own.numel())
        return (yield from self.convert(party, bit, width))

    def convert(self, party: Party, bit: Shared, width: int) -> Operation[Shared]:
        """Do the same with bits that `supply` has reserved: 1 round."""
        return convert(party, bit, self.stocks[width].take(bit.own.numel()), self.transcripts)

    def supply(self, party: Party, width: int, count: int) -> Operation[None]:
        """Reserve random bits, and make them if they lack: 5 rounds, or what another operation still needs for them."""
        stock = self.stocks.setdefault(width, Stock())
        if making := stock.reserve(count):
            stock.add((yield from self.made(party, width, making)), making)
        while stock.count < stock.reserved:
            yield Exchange()

    def made(self, party: Party, width: int, count: int) -> Operation[Numbers]:
        """Make random bits; nothing of it depends on what they will be used for."""
        return make_bits(party, width, count, self.toss(party), self.transcripts)


@dataclass(frozen=True)
class Weight:
    """A right-hand factor as it was shared: its check wants it so, and packed beside that it would be there twice."""

    shares: Shared


@dataclass(frozen=True)
class Pending:
    """A product that is not shared yet: its summand, what will be claimed, and what comes after."""

    summand: Summand
    claim: Callable[[Shared], None]
    local: Callable[[Tensor], Tensor] | None = None
    added: Shared | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the secret."""
        if self.local is None:
            return self.summand.shape
        return tuple(self.local(self.summand.value).shape)

    def __add__(self, other: Shared) -> Pending:
        return Pending(self.summand, self.claim, self.local, other if self.added is None else self.added + other)


def reshare(party: Party, z: Pending) -> Operation[Shared]:
    """Share the product, claim it, and return it with what was added: 1 round."""
    shared = yield from arithmetic.reshare(party, z.summand)
    z.claim(shared)
    if z.local is not None:
        shared = shared.map(z.local)
    return shared if z.added is None else shared + z.added


def product(record: Record, party: Party, x: Shared, y: Shared) -> Pending:
    """Return x * y, element by element, to be shared and claimed; shapes broadcast."""
    shape = torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]  # torch has none
    wide = x.map(lambda t: t.expand(shape)), y.map(lambda t: t.expand(shape))
    return Pending(arithmetic.product(party, x, y), lambda z: record.claims.products.append(ProductClaim(*wide, z)))


def square(record: Record, party: Party, x: Shared) -> Pending:
    """Return x squared, element by element, to be shared and claimed."""
    return Pending(arithmetic.square(party, x), lambda z: record.claims.squares.append(ProductClaim(x, None, z)))


def square_sum(record: Record, party: Party, x: Shared) -> Pending:
    """Return the sum of squares over the last dimension: each square is shared and claimed, the sum is local."""
    made = square(record, party, x)
    return Pending(made.summand, made.claim, lambda t: t.sum(-1))


def prepare(y: Shared) -> Weight:
    """Return `y` as `matrix_product` and its check want it."""
    return Weight(y)


def matrix_product(record: Record, party: Party, x: Shared, weight: Weight) -> Pending:
    """Return x @ y to be shared and claimed."""
    return Pending(
        arithmetic.matrix_product(party, x, arithmetic.prepare(weight.shares)),
        lambda z: record.claims.matrices.append(MatrixClaim(x, weight.shares, z)),
    )


def inject(record: Record, party: Party, pairs: Sequence[conversion.Pair]) -> Operation[Shared]:
    """Return the sum of bit * x over the pairs: their bits become numbers, which multiply: 3 rounds."""
    bits = Shared(torch.stack([pair.bit.own for pair in pairs]), torch.stack([pair.bit.next for pair in pairs]))
    x = Shared(torch.stack([pair.x.own for pair in pairs]), torch.stack([pair.x.next for pair in pairs]))
    numbers = yield from record.bit_to_arithmetic(party, bits)
    products = yield from reshare(party, product(record, party, numbers, x))
    return products.map(lambda t: t.sum(0))

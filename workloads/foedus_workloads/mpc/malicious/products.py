"""Check B: products of numbers, and ANDs of words, against random ones in buckets (`buckets`).

Ahead, for c comparisons of n units:
1. The parties draw c rows of n units of random sharings a, b, each component from the stream of its two holders, and
   compute their products as every product is computed: shared anew, with an error if a party wants one.
2. They toss coins, when all of these have arrived, and turn each row but row 0 by them.
3. They compare row 0, as claims, with each other row (steps 5 and 6): row 0 is what claims are compared with.
For claims z = x y (arithmetic mod 2^k, or Boolean word by word):
4. They toss coins, when all z have arrived, and turn row 0 by them.
5. For each claim and its random product c = a b they open rho = x - a and sigma = y - b. a and b of row 0 are used as
   masks once, as claims in each comparison of step 3 under fresh masks, and no party knows more than two of any mask's
   components, so what is opened is uniform.
6. z - c - sigma a - rho b - rho sigma is zero if both are right: that goes into the transcripts, not onto the wire.
Of squares, a = b and rho = sigma: one opening instead of two.

A wrong claim passes when the random product that it meets is wrong by the same number, and so on: see `buckets`. Cost:
ahead an element for each random product, and one or two for each comparison; then one or two a claim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from foedus_workloads.mpc.arithmetic import ARITHMETIC, BOOLEAN, Domain, product, reshare, square
from foedus_workloads.mpc.malicious.buckets import Buckets, fit
from foedus_workloads.mpc.malicious.claims import ProductClaim, counted
from foedus_workloads.mpc.malicious.coins import Coins
from foedus_workloads.mpc.malicious.local import Row, conceal, remain
from foedus_workloads.mpc.malicious.opening import opened_of
from foedus_workloads.mpc.malicious.transcripts import Transcripts
from foedus_workloads.mpc.malicious.wire import has_content
from foedus_workloads.mpc.party import Party, Shared, expected, to_wire
from foedus_workloads.mpc.ring import WORD_BITS
from foedus_workloads.mpc.rounds import Exchange, Operation, together

_LEFT, _RIGHT = range(2)  # slots
_PART = 1 << 16  # words that are gone through at a time: a few arrays of them stay in the cache


@dataclass(frozen=True)
class Kind:
    """What is multiplied, and whether the factors are one."""

    domain: Domain
    squares: bool = False

    def random(self, party: Party, shape: tuple[int, ...]) -> tuple[Shared, ...]:
        """Return random factors (step 1)."""
        step = party.begin()
        slots = (_LEFT,) if self.squares else (_LEFT, _RIGHT)
        return tuple(
            Shared(step.draw(party.index, slot, shape), step.draw(party.following, slot, shape)) for slot in slots
        )

    def multiplied(self, party: Party, factors: Sequence[Shared]) -> Operation[Shared]:
        """Return the product of the random factors, as every product is computed."""
        if self.squares:
            return (yield from reshare(party, square(party, factors[0])))
        return (yield from reshare(party, product(party, factors[0], factors[1], self.domain), self.domain))

    def bits(self, party: Party) -> int:
        """Return the bits of what is opened."""
        return WORD_BITS if self.domain is BOOLEAN else party.ring.bits


PRODUCTS, SQUARES, ANDS = Kind(ARITHMETIC), Kind(ARITHMETIC, squares=True), Kind(BOOLEAN)


def check_products(
    party: Party,
    kind: Kind,
    claims: Sequence[ProductClaim],
    random: ProductClaim,
    tossed: Operation[Coins],
    transcripts: Transcripts,
) -> Operation[None]:
    """Check claims with what `make_products` made for as many: 3 rounds, and a comparison (steps 4 to 6)."""
    buckets = fit(counted(claims))
    coins = yield from tossed
    turn = coins.turn(0, buckets.units) * buckets.width
    yield from _compare(party, kind, [claim.flat() for claim in claims], random, turn, transcripts)


def make_products(
    party: Party, kind: Kind, count: int, tossed: Operation[Coins], transcripts: Transcripts
) -> Operation[ProductClaim]:
    """Return random products to check `count` claims with: 4 rounds, and a comparison (steps 1 to 3)."""
    buckets = fit(count)
    factors = kind.random(party, (buckets.depth * buckets.size,))
    made = yield from kind.multiplied(party, factors)
    coins = yield from tossed
    rows = list(_rows(ProductClaim(factors[0], None if kind.squares else factors[1], made), buckets))
    turns = [coins.turn(number, buckets.units) * buckets.width for number in range(buckets.depth - 1)]
    yield from together(
        [_compare(party, kind, rows[:1], row, turn, transcripts) for row, turn in zip(rows[1:], turns, strict=True)]
    )
    return rows[0]


def _rows(made: ProductClaim, buckets: Buckets) -> Iterator[ProductClaim]:
    for row in range(buckets.depth):
        yield made.part(row * buckets.size, (row + 1) * buckets.size)


def _compare(
    party: Party, kind: Kind, claims: Sequence[ProductClaim], random: ProductClaim, turn: int, transcripts: Transcripts
) -> Operation[None]:
    """Compare claims, one after the other and then zeros, with random products from place `turn` on (steps 5, 6).

    The zeros are products of zeros, which no message has made. What came is gone through part by part, the same at all
    parties: what is made of a part lies in the cache and not in new memory.
    """
    own, following = (_Component(name, kind, claims, random, turn) for name in ("own", "next"))
    whole, bits = range(random.count), kind.bits(party)
    secrets = own.concealed(whole)
    received = yield Exchange(
        to_next=tuple(to_wire(each, bits) for each in secrets),
        from_previous=tuple(expected((random.count,), bits) for _ in secrets),
    )
    if not has_content(random.z.own):
        return
    for start in range(0, random.count, _PART):
        places = whole[start : start + _PART]
        opened = [
            opened_of(mine[start : start + _PART], held, missing[start : start + _PART], kind.domain, transcripts, bits)
            for mine, held, missing in zip(secrets, following.concealed(places), received.from_previous, strict=True)
        ]
        rest = own.rest(places, opened, first=party.index == 0)
        other = following.rest(places, opened, first=party.following == 0)
        if kind.domain is BOOLEAN:
            transcripts.zero_words(rest, other)
        else:
            transcripts.zero(rest, other, bits)


class _Component:
    """A component of claims, and of the random products that they are compared with."""

    def __init__(self, name: str, kind: Kind, claims: Sequence[ProductClaim], random: ProductClaim, turn: int) -> None:
        self._domain, self._turn = kind.domain, turn
        self._factors = [
            Row(tuple(getattr(each, name) for each in one))
            for one in zip(*(claim.factors for claim in claims), strict=True)
        ]
        self._results = Row(tuple(getattr(claim.z, name) for claim in claims))
        self._random = [getattr(each, name) for each in random.factors]
        self._made = getattr(random.z, name)

    def concealed(self, places: range) -> list[Tensor]:
        """Return this component of rho and sigma."""
        rows = zip(self._factors, self._random, strict=True)
        return [conceal(row, random, self._turn, places, self._domain) for row, random in rows]

    def rest(self, places: range, opened: Sequence[Tensor], *, first: bool) -> Tensor:
        """Return this component of what must be zero (step 6)."""
        (a, b), (rho, sigma) = (*self._random, None)[:2], (*opened, None)[:2]
        assert a is not None, "there is a factor"
        assert rho is not None, "there is a factor"
        return remain(self._results, (self._made, a, b), self._turn, places, (rho, sigma), self._domain, first=first)

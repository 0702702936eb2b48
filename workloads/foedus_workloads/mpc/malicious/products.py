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

import torch
from torch import Tensor

from foedus_workloads.mpc.arithmetic import ARITHMETIC, BOOLEAN, Domain, product, reshare, square
from foedus_workloads.mpc.malicious.buckets import Buckets, fit
from foedus_workloads.mpc.malicious.claims import ProductClaim, counted
from foedus_workloads.mpc.malicious.coins import Coins
from foedus_workloads.mpc.malicious.opening import open_to_all
from foedus_workloads.mpc.malicious.transcripts import Transcripts
from foedus_workloads.mpc.malicious.wire import has_content
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.ring import WORD_BITS
from foedus_workloads.mpc.rounds import Operation, together

_LEFT, _RIGHT = range(2)  # slots


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

    def rest(self, component: int, gap: Tensor, factors: Sequence[Tensor], opened: Sequence[Tensor]) -> Tensor:
        """Return a component of gap - sigma a - rho b - rho sigma (step 6)."""
        if self.squares:
            (a,), (rho,) = factors, opened
            return gap - 2 * rho * a - (rho * rho if component == 0 else 0)
        (a, b), (rho, sigma), domain = factors, opened, self.domain
        terms = domain.add(domain.multiply(sigma, a), domain.multiply(rho, b))
        if component == 0:
            terms = domain.add(terms, domain.multiply(rho, sigma))
        return domain.subtract(gap, terms)


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
    """Compare claims, one after the other and then zeros, with random products from place `turn` on (steps 5, 6)."""
    masked = [_like(factor) for factor in random.factors]
    pieces = list(_pieces(claims, random, turn)) if has_content(random.z.own) else []
    for place, claim, other in pieces:
        for out, x, a in zip(masked, claim.factors, other.factors, strict=True):
            end = place + claim.count
            kind.domain.subtract(x.own, a.own, out=out.own[place:end])
            kind.domain.subtract(x.next, a.next, out=out.next[place:end])
    opened = yield from open_to_all(party, masked, kind.domain, transcripts, bits=kind.bits(party))
    rest = _like(random.z)
    for place, claim, other in pieces:
        end = place + claim.count
        public = [each[place:end] for each in opened]
        for component, name in ((party.index, "own"), (party.following, "next")):
            gap = kind.domain.subtract(getattr(claim.z, name), getattr(other.z, name))
            factors = [getattr(each, name) for each in other.factors]
            getattr(rest, name)[place:end] = kind.rest(component, gap, factors, public)
    if kind.domain is BOOLEAN:
        transcripts.zero_words(rest.own, rest.next)
    else:
        transcripts.zero(rest.own, rest.next, kind.bits(party))


def _pieces(
    claims: Sequence[ProductClaim], random: ProductClaim, turn: int
) -> Iterator[tuple[int, ProductClaim, ProductClaim]]:
    """Yield the place of each piece of a claim, the piece, and the random products that it is compared with."""
    place = 0
    for claim in (*claims, _zeros(random, random.count - counted(claims))):
        start = (place + turn) % random.count
        cut = min(claim.count, random.count - start)
        for begin, end, other in ((0, cut, start), (cut, claim.count, 0)):
            if begin < end:
                yield place + begin, claim.part(begin, end), random.part(other, other + end - begin)
        place += claim.count


def _zeros(like: ProductClaim, count: int) -> ProductClaim:
    """Return filling: products of zeros, which no message has made."""
    zero = torch.zeros(count, dtype=torch.int64)
    both = Shared(zero, zero)
    return ProductClaim(both, None if like.y is None else both, both)


def _like(x: Shared) -> Shared:
    return Shared(torch.empty_like(x.own), torch.empty_like(x.next))

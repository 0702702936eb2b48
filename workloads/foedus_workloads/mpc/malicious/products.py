"""Check B: products of numbers, and ANDs of words, against random ones in shuffled buckets.

Steps, for claims z = x y (arithmetic mod 2^k, or Boolean word by word), n units of them (`buckets`):
1. The parties draw n B units of random sharings a, b, each component from the stream of its two holders, and compute
   c = a b as every product is computed: shared anew, with an error if a party wants one.
2. They toss coins, when all z and c have arrived, and order the random units by them.
3. For each claim and each random product of its bucket they open rho = x - a and sigma = y - b. a and b are used once,
   and no party knows more than two of their components, so what is opened is uniform.
4. z - c - sigma a - rho b - rho sigma is zero if both are right: that goes into the transcripts, not onto the wire.
Of squares, a = b and rho = sigma: one opening instead of two.

A wrong claim passes when every random product in its bucket is wrong by the same number: see `buckets`. Cost: an
element for each random product, one or two for its comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from foedus_workloads.mpc.arithmetic import ARITHMETIC, BOOLEAN, Domain, product, reshare, square
from foedus_workloads.mpc.malicious.buckets import Buckets, fit
from foedus_workloads.mpc.malicious.claims import ProductClaim, joined, taken
from foedus_workloads.mpc.malicious.coins import Coins
from foedus_workloads.mpc.malicious.opening import open_to_all
from foedus_workloads.mpc.malicious.transcripts import Transcripts
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.ring import WORD_BITS
from foedus_workloads.mpc.rounds import Operation

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

    def subtract(self, left: Shared, right: Shared) -> Shared:
        """Return the difference."""
        return Shared(self.domain.subtract(left.own, right.own), self.domain.subtract(left.next, right.next))

    def rest(self, party: Party, gap: Shared, factors: Sequence[Shared], opened: Sequence[Tensor]) -> Shared:
        """Return gap - sigma a - rho b - rho sigma (step 4)."""
        if self.squares:
            (rho,) = opened
            return party.add_public(gap - factors[0] * (rho * 2), -rho * rho)
        (a, b), (rho, sigma) = factors, opened
        domain = self.domain
        public = domain.multiply(rho, sigma)

        def one(component: int, own: Tensor, left: Tensor, right: Tensor) -> Tensor:
            terms = domain.add(domain.multiply(sigma, left), domain.multiply(rho, right))
            return domain.subtract(own, domain.add(terms, public) if component == 0 else terms)

        return Shared(one(party.index, gap.own, a.own, b.own), one(party.following, gap.next, a.next, b.next))


PRODUCTS, SQUARES, ANDS = Kind(ARITHMETIC), Kind(ARITHMETIC, squares=True), Kind(BOOLEAN)


def check_products(
    party: Party, kind: Kind, claims: Sequence[ProductClaim], tossed: Operation[Coins], transcripts: Transcripts
) -> Operation[None]:
    """Check claims of one kind: 4 rounds, whose comparison is left to the transcripts."""
    buckets = fit(sum(claim.count for claim in claims))
    shape = (buckets.units * buckets.depth, buckets.width)
    factors = kind.random(party, shape)
    products = yield from kind.multiplied(party, factors)
    coins = yield from tossed
    order = coins.order(shape[0])
    claimed = _claimed(kind, claims, buckets)
    z = joined([claim.z for claim in claims], buckets.size).map(lambda t: t.reshape(-1, buckets.width))
    random = [_bucket(buckets, order, place, [*factors, products]) for place in range(buckets.depth)]
    masked = [[kind.subtract(x, a) for x, a in zip(claimed, each, strict=False)] for each in random]
    bits = WORD_BITS if kind.domain is BOOLEAN else party.ring.bits
    flat = [each for differences in masked for each in differences]
    opened = iter((yield from open_to_all(party, flat, kind.domain, transcripts, bits=bits)))
    for *parts, c in random:
        differences = [next(opened) for _ in parts]
        rest = kind.rest(party, kind.subtract(z, c), parts, differences)
        if kind.domain is BOOLEAN:
            transcripts.zero_words(rest.own, rest.next)
        else:
            transcripts.zero(rest.own, rest.next, bits)


def _claimed(kind: Kind, claims: Sequence[ProductClaim], buckets: Buckets) -> list[Shared]:
    factors = [[claim.x for claim in claims]]
    if not kind.squares:
        factors.append([claim.y for claim in claims if claim.y is not None])
    return [joined(each, buckets.size).map(lambda t: t.reshape(-1, buckets.width)) for each in factors]


def _bucket(buckets: Buckets, order: Tensor, place: int, shared: Sequence[Shared]) -> list[Shared]:
    chosen = order[place * buckets.units : (place + 1) * buckets.units]
    return [taken(each, chosen) for each in shared]

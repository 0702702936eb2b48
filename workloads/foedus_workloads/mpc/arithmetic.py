"""Sharing, opening and products, over Z_2^k or, for Boolean words, over Z_2 bit by bit.

Product (Araki et al. 2016, section 3; Mohassel and Rindal 2018, section 3), per party i:
1. z_i = x_i y_i + x_i y_{i+1} + x_{i+1} y_i locally; the three z_i add up to xy. A dot product or matrix product sums
   here, so it costs one element per result whatever its inner length.
2. Add F(k_i) - F(k_{i+1}), which add up to zero over the parties: z_i is now uniform to each other party.
3. Send z_i to party i - 1, which then holds (z_{i-1}, z_i).
A summand is masked where it leaves: in `reshare` by step 2, in `truncation` by masks of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus_workloads.mpc import ring as rings
from foedus_workloads.mpc.party import PARTIES, Party, Shared, Step, Summand, expected, from_wire, to_wire
from foedus_workloads.mpc.rounds import Exchange, Operation
from foedus_workloads.mpc.streams import expand

_ZERO_SLOT = 0


@dataclass(frozen=True)
class Domain:
    """How components add up and multiply: arithmetic mod 2^k, or XOR and AND of words."""

    add: Callable[[Tensor, Tensor], Tensor]
    subtract: Callable[[Tensor, Tensor], Tensor]
    multiply: Callable[[Tensor, Tensor], Tensor]


ARITHMETIC = Domain(torch.add, torch.sub, torch.mul)
BOOLEAN = Domain(torch.bitwise_xor, torch.bitwise_xor, torch.bitwise_and)


@dataclass(frozen=True)
class Dealt:
    """What an input's owner sends each party: seeds of the two random components, and the third in full."""

    seeds: tuple[bytes, bytes] = field(repr=False)
    rest: Tensor = field(repr=False)


def deal(secret: Tensor, seeds: tuple[bytes, bytes], ring: rings.Ring) -> Dealt:
    """Share a secret: components 0 and 1 come from fresh seeds of 32 bytes, component 2 is what is missing."""
    shape = tuple(secret.shape)
    zero, one = (_random_component(seed, shape, ring) for seed in seeds)
    return Dealt(seeds, rings.low_bits(secret - zero - one, ring.bits))


def dealt_to(party: int, dealt: Dealt, ring: rings.Ring) -> Shared:
    """Return party's two components; it is sent seed 0 and 1, seed 1 and the rest, or the rest and seed 0."""
    shape = tuple(dealt.rest.shape)

    def component(index: int) -> Tensor:
        return dealt.rest if index == PARTIES - 1 else _random_component(dealt.seeds[index], shape, ring)

    return Shared(component(party), component((party + 1) % PARTIES))


def _random_component(seed: bytes, shape: tuple[int, ...], ring: rings.Ring) -> Tensor:
    return expand(seed, 0, 0, ring.bits, shape).to(torch.int64)


def open_to_all(party: Party, x: Shared) -> Operation[Tensor]:
    """Return the secret to every party: 1 round, one element a party.

    1. Send x_i to party i + 1, which lacks exactly that one. 2. Add the three components.
    Of a secret that comes straight from a truncation its dealer learns, beside the value, how it was rounded.
    """
    bits = party.ring.bits
    received = yield Exchange(to_next=(to_wire(x.own, bits),), from_previous=(expected(x.shape, bits),))
    missing = from_wire(received.from_previous[0], bits)
    return rings.low_bits(x.own + x.next + missing, bits)


def zero_summands(step: Step, shape: tuple[int, ...], *, bits: int | None = None) -> tuple[Tensor, Tensor]:
    """Return what this party draws of a fresh sharing of zero: its summand is the first less the second."""
    party = step.party
    return step.draw(party.index, _ZERO_SLOT, shape, bits), step.draw(party.following, _ZERO_SLOT, shape, bits)


def zero_mask(step: Step, shape: tuple[int, ...], domain: Domain = ARITHMETIC, *, bits: int | None = None) -> Tensor:
    """Return this party's summand of a fresh sharing of zero; `bits` as `reshare`."""
    return domain.subtract(*zero_summands(step, shape, bits=bits))


def product(party: Party, x: Shared, y: Shared, domain: Domain = ARITHMETIC) -> Summand:
    """Return this party's summand of x * y, element by element (step 1)."""
    if passes := rings.passes_for(rings.WORD_BITS, (x.own, x.next, y.own, y.next)):
        return Summand(passes.product((x.own, x.next), (y.own, y.next), bits=domain is BOOLEAN))
    return Summand(domain.add(domain.multiply(x.own, domain.add(y.own, y.next)), domain.multiply(x.next, y.own)))


def dot(party: Party, pairs: list[tuple[Shared, Shared]]) -> Summand:
    """Return this party's summand of the sum of x * y over all pairs (step 1)."""
    terms = [product(party, x, y).value for x, y in pairs]
    return Summand(sum(terms[1:], terms[0]))


def square(party: Party, x: Shared) -> Summand:
    """Return this party's summand of x squared, element by element (step 1)."""
    if passes := rings.passes_for(rings.WORD_BITS, (x.own, x.next)):
        return Summand(passes.square(x.own, x.next))
    return Summand(x.own * (x.own + 2 * x.next))


def square_sum(party: Party, x: Shared) -> Summand:
    """Return this party's summand of the sum of x squared over the last dimension (step 1)."""
    return Summand(square(party, x).value.sum(-1))


@dataclass(frozen=True)
class Weight:
    """The right-hand factor of matrix products, [..., k, n], prepared once: y_i + y_{i+1} above y_i."""

    stacked: rings.Factor = field(repr=False)


def prepare(y: Shared) -> Weight:
    """Return `y` as `matrix_product` wants it."""
    return Weight(rings.prepare(torch.cat([y.own + y.next, y.own], dim=-2)))


def matrix_product(party: Party, x: Shared, weight: Weight) -> Summand:
    """Return this party's summand of x @ y: [..., m, k] x [..., k, n], one ring product of inner length 2k (step 1)."""
    return Summand(rings.matmul(torch.cat([x.own, x.next], dim=-1), weight.stacked))


def reshare(party: Party, z: Summand, domain: Domain = ARITHMETIC, *, bits: int | None = None) -> Operation[Shared]:
    """Turn summands into a sharing (steps 2 and 3): 1 round, one element a party.

    `bits` are those of Boolean words where they are fewer than the ring's.
    """
    width = party.ring.bits if bits is None else bits
    value = domain.add(z.value, zero_mask(party.begin(), z.shape, domain, bits=width))
    return (yield from _exchanged(value, width))


def _exchanged(value: Tensor, bits: int) -> Operation[Shared]:
    """Return the sharing whose component this party has in a masked summand (step 3)."""
    received = yield Exchange(to_previous=(to_wire(value, bits),), from_next=(expected(tuple(value.shape), bits),))
    return Shared(value, from_wire(received.from_next[0], bits))


def multiply(
    party: Party, x: Shared, y: Shared, domain: Domain = ARITHMETIC, *, bits: int | None = None
) -> Operation[Shared]:
    """Return a sharing of x * y: 1 round, one element a party; `bits` as `reshare`."""
    if domain is BOOLEAN and (passes := rings.passes_for(bits or party.ring.bits, (x.own, x.next, y.own, y.next))):
        masks = zero_summands(party.begin(), x.shape)
        return (yield from _exchanged(passes.masked_bits((x.own, x.next), (y.own, y.next), masks), rings.WORD_BITS))
    return (yield from reshare(party, product(party, x, y, domain), domain, bits=bits))

"""From a Boolean bit to an arithmetic one, and products of secrets with such bits.

With roles as in `party.Roles`, b = b_first XOR b_second XOR b_dealer is e XOR n: first knows e = b_first XOR b_second,
second and dealer know n = b_dealer.

Bit to arithmetic: b = e + n - 2 e n. `known_factor` shares e and e n in 2 rounds, the rest is local.

Injection, the sum of b x over pairs (b, x): with u = e (x_first + x_second), which first knows,
    b x = n x + (1 - 2n) (u + e x_dealer).
1. For each pair dealer and first draw u_f and e_f; first sends u_s = u - u_f and e_s = e - e_f to second.
2. With w = u_f + e_f x_dealer, the dealer's summand of b x is w, or x_first - w where n = 1; with
   w = u_s + e_s x_dealer, second's is w, or x_second + x_dealer - w where n = 1. First has none. Both add theirs up
   over the pairs.
3. first and dealer draw g_f, first and second draw g_s. The dealer sends its sum - g_f to second, second its sum - g_s
   to the dealer; both together are g_d. The result's components are g_f, g_s, g_d.
What second sees hides under u_f, e_f and then g_f, what the dealer sees under g_s; first receives nothing.
Cost: 2 rounds; first sends two elements a pair, second and dealer one in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foedus_workloads.mpc.arithmetic import ARITHMETIC
from foedus_workloads.mpc.known_factor import share_and_multiply
from foedus_workloads.mpc.party import Party, Roles, Shared, Step, expected, from_wire, to_wire
from foedus_workloads.mpc.ring import container, passes_for
from foedus_workloads.mpc.rounds import Exchange, Operation

_RESULT_FIRST, _RESULT_SECOND, _PAIRS = range(3)  # slots; from the last one on two for each pair


def bit_to_arithmetic(party: Party, bit: Shared, *, bits: int | None = None) -> Operation[Shared]:
    """Return an arithmetic sharing of a Boolean bit: 2 rounds, one element a party in both together.

    With `bits` it is mod 2^bits, in the smallest type that holds them.
    """
    step = party.begin()
    roles = step.roles()
    known = _known(party, roles, bit).to(torch.int64 if bits is None else container(bits))
    zero = torch.zeros_like(known)
    n = Shared(own=known if party.index == roles.dealer else zero, next=known if party.index == roles.second else zero)
    e, both = yield from share_and_multiply(party, step, known, ARITHMETIC, bits=bits)
    return e + n - both * 2


def _known(party: Party, roles: Roles, bit: Shared) -> Tensor:
    """Return what this party knows of a Boolean bit: e at first, n at the two others."""
    if party.index == roles.first:
        return bit.own ^ bit.next
    return bit.next if party.index == roles.second else bit.own


@dataclass(frozen=True)
class Pair:
    """A Boolean bit, and the secret that counts where it is 1."""

    bit: Shared
    x: Shared


def inject(party: Party, pairs: Sequence[Pair]) -> Operation[Shared]:
    """Return a sharing of the sum of bit * x over the pairs, element by element: 2 rounds."""
    step = party.begin()
    roles = step.roles()
    if party.index == roles.first:
        return (yield from _first(step, roles, pairs))
    if party.index == roles.second:
        return (yield from _second(step, roles, pairs))
    return (yield from _dealer(step, roles, pairs))


def _first(step: Step, roles: Roles, pairs: Sequence[Pair]) -> Operation[Shared]:
    shape, bits = pairs[0].x.shape, step.party.ring.bits
    sent = []
    for index, pair in enumerate(pairs):
        e = _known(step.party, roles, pair.bit)
        u_first, e_first = (step.draw(roles.first, _PAIRS + 2 * index + i, shape) for i in range(2))
        sent += [to_wire(each, bits) for each in _offered(pair, e, (u_first, e_first), bits)]
    yield Exchange(to_next=tuple(sent))
    yield Exchange()
    return Shared(step.draw(roles.first, _RESULT_FIRST, shape), step.draw(roles.second, _RESULT_SECOND, shape))


def _second(step: Step, roles: Roles, pairs: Sequence[Pair]) -> Operation[Shared]:
    shape, bits = pairs[0].x.shape, step.party.ring.bits
    received = yield Exchange(from_previous=(expected(shape, bits),) * (2 * len(pairs)))
    g_second = step.draw(roles.second, _RESULT_SECOND, shape)
    part = -g_second
    for index, pair in enumerate(pairs):
        u_second, e_second = (from_wire(each, bits) for each in received.from_previous[2 * index : 2 * index + 2])
        known = _known(step.party, roles, pair.bit)
        part = _added(part, known, (pair.x.own, pair.x.next), (u_second, e_second, pair.x.next), bits)
    received = yield Exchange(to_next=(to_wire(part, bits),), from_next=(expected(shape, bits),))
    return Shared(g_second, part + from_wire(received.from_next[0], bits))


def _dealer(step: Step, roles: Roles, pairs: Sequence[Pair]) -> Operation[Shared]:
    shape, bits = pairs[0].x.shape, step.party.ring.bits
    yield Exchange()
    g_first = step.draw(roles.first, _RESULT_FIRST, shape)
    part = -g_first
    for index, pair in enumerate(pairs):
        u_first, e_first = (step.draw(roles.first, _PAIRS + 2 * index + i, shape) for i in range(2))
        known = _known(step.party, roles, pair.bit)
        part = _added(part, known, (pair.x.next,), (u_first, e_first, pair.x.own), bits)
    received = yield Exchange(to_previous=(to_wire(part, bits),), from_previous=(expected(shape, bits),))
    return Shared(part + from_wire(received.from_previous[0], bits), g_first)


def _offered(pair: Pair, e: Tensor, masks: tuple[Tensor, Tensor], bits: int) -> tuple[Tensor, Tensor]:
    """Return u = e x and e, each without its mask."""
    x = pair.x.own, pair.x.next
    if e.dtype == torch.int8 and (passes := passes_for(bits, (*x, *masks), (e,))):
        return passes.offer(e, x, masks)
    return e * (x[0] + x[1]) - masks[0], e - masks[1]


def _added(part: Tensor, n: Tensor, known: tuple[Tensor, ...], w: tuple[Tensor, Tensor, Tensor], bits: int) -> Tensor:
    """Return part with u + e x added, or with the known sum less that where n = 1; w is (u, e, x). Uses `part` up."""
    if n.dtype == torch.int8 and (passes := passes_for(bits, (part, *known, *w), (n,))):
        passes.choose(part, n, known, w)
        return part
    value = w[0] + w[1] * w[2]
    return part + n * sum(known[1:], known[0]) + (1 - 2 * n) * value

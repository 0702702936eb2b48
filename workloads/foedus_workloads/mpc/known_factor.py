"""A product in which one factor is known to one party and the other to the two others; both get shared on the way.

Roles as in `party.Roles`: first knows e, second and dealer know n. In either domain (written arithmetically):
1. dealer and first draw e_f, first sends e_s = e - e_f to second: e's components are e_f, e_s and 0.
2. first and second draw g_s, first and dealer draw g_f. second sends e_s n - g_s to dealer, dealer sends e_f n - g_f to
   second; both add up to g_d. The product's components are g_f, g_s, g_d.

What second sees is masked by e_f and then by g_f, what dealer sees by g_s; first receives nothing.
Cost: 2 rounds; first, second and dealer send one element each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foedus_workloads.mpc.arithmetic import Domain
from foedus_workloads.mpc.party import Party, Roles, Shared, Step, expected, to_wire
from foedus_workloads.mpc.ring import low_bits
from foedus_workloads.mpc.rounds import Exchange, Operation

_KNOWN, _PRODUCT_FIRST, _PRODUCT_SECOND = range(3)


def share_and_multiply(
    party: Party, step: Step, known: Tensor, domain: Domain, *, bits: int | None = None
) -> Operation[tuple[Shared, Shared]]:
    """Return sharings of e and of e * n, in the type of `known`, which is e at first and n at the two others.

    `bits` are those of Boolean words where they are fewer than the ring's.
    """
    roles, width = step.roles(), party.ring.bits if bits is None else bits
    if party.index == roles.first:
        return (yield from _first(step, roles, known, domain, width))
    if party.index == roles.second:
        return (yield from _second(step, roles, known, domain, width))
    return (yield from _dealer(step, roles, known, domain, width))


def _first(step: Step, roles: Roles, e: Tensor, domain: Domain, bits: int) -> Operation[tuple[Shared, Shared]]:
    e_first = _drawn(step, roles.first, _KNOWN, e, bits)
    e_second = domain.subtract(e, e_first)
    yield Exchange(to_next=(to_wire(e_second, bits),))
    yield Exchange()
    g_first = _drawn(step, roles.first, _PRODUCT_FIRST, e, bits)
    return Shared(e_first, e_second), Shared(g_first, _drawn(step, roles.second, _PRODUCT_SECOND, e, bits))


def _second(step: Step, roles: Roles, n: Tensor, domain: Domain, bits: int) -> Operation[tuple[Shared, Shared]]:
    shape = tuple(n.shape)
    whole = (expected(shape, bits),)
    received = yield Exchange(from_previous=whole)
    e_second = _arrived(received.from_previous[0], n, bits)
    g_second = _drawn(step, roles.second, _PRODUCT_SECOND, n, bits)
    part = domain.subtract(domain.multiply(e_second, n), g_second)
    received = yield Exchange(to_next=(to_wire(part, bits),), from_next=whole)
    g_dealer = domain.add(part, _arrived(received.from_next[0], n, bits))
    return Shared(e_second, torch.zeros_like(n)), Shared(g_second, g_dealer)


def _dealer(step: Step, roles: Roles, n: Tensor, domain: Domain, bits: int) -> Operation[tuple[Shared, Shared]]:
    shape = tuple(n.shape)
    yield Exchange()
    e_first = _drawn(step, roles.first, _KNOWN, n, bits)
    g_first = _drawn(step, roles.first, _PRODUCT_FIRST, n, bits)
    part = domain.subtract(domain.multiply(e_first, n), g_first)
    received = yield Exchange(to_previous=(to_wire(part, bits),), from_previous=(expected(shape, bits),))
    g_dealer = domain.add(part, _arrived(received.from_previous[0], n, bits))
    return Shared(torch.zeros_like(n), e_first), Shared(g_dealer, g_first)


def _drawn(step: Step, component: int, slot: int, like: Tensor, bits: int) -> Tensor:
    return step.draw_narrow(component, slot, tuple(like.shape), bits).to(like.dtype)


def _arrived(values: Tensor, like: Tensor, bits: int) -> Tensor:
    return low_bits(values.to(like.dtype), bits)

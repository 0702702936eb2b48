"""Division by 2^t with probabilistic rounding, for a sharing or straight from a product's summands.

Idea: open the masked secret to two parties, while the third, who dealt the mask, sees nothing of it (after Escudero
et al., "Improved Primitives for MPC over Mixed Arithmetic-Binary Circuits", CRYPTO 2020, section 5, with the third
party of ABY3 as dealer). Unlike shifting shares locally it never errs by 2^(k-t).

Steps, for |x| < 2^(k-2) - 2^(t-1); first, second and dealer as in `party.Roles`, all values mod 2^k and unsigned:
1. Dealer and first draw a, dealer and second draw b; r = a + b is the mask. Neither first nor second knows r.
2. first sends its summand + 2^(k-2) + 2^(t-1) + a to second, second sends its summand + b to first. From a product
   the dealer sends both its own summand, which is masked already. So first and second know c = x' + r, where
   x' = x + 2^(k-2) + 2^(t-1) lies in [0, 2^(k-1)); the dealer does not.
3. The dealer computes u = [a + b wraps at 2^k] and v = the top bit of r, and shares both mod 2^t between first (drawn
   with it) and second (sent in the same round).
4. x' = c - a - b + 2^k w with w = u + v (1 - top bit of c): x' has a top bit of 0, so c overflowed exactly when r has
   that bit and c has not. first and second compute their shares of w, mask them by s (drawn by dealer and first) and
   s' (by dealer and second), and exchange them; they add up to m = w + s + s' mod 2^t.
5. Components: (c >> t) + 2^(k-t) m - 2^(k-2-t) - 1 at first and second, -(a >> t) - 2^(k-t) s at dealer and first,
   -(b >> t) - 2^(k-t) s' at dealer and second.

What first sees is uniform: second's message hides under b, the dealer's summand under its zero mask, the share of w
under s'; likewise for second. The dealer receives nothing.

Result: x / 2^t + e with |e| < 1.5 in units of the last place: three floors, whose mean the 2^(t-1) and the -1 take out.
e has mean 0 (within 2^-t) and depends on low bits of c, a and b: this rounding is part of the functionality.

Cost: 2 rounds. With w(t) the bytes of the smallest integer type of t bits, first and second send 8 + w(t) each and the
dealer 2 w(t), from a product 16 more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foedus_workloads.mpc.party import Party, Roles, Shared, Step, Summand, expected, from_wire, to_wire
from foedus_workloads.mpc.ring import carries, low_bits, shift_right, top_bit
from foedus_workloads.mpc.rounds import Exchange, Operation

_FIRST_MASK, _SECOND_MASK, _WRAP, _TOP, _FIRST_PAD, _SECOND_PAD = range(6)


@dataclass(frozen=True)
class _Cut:
    """One truncation: its step, who does what, how many bits are cut and of what shape."""

    step: Step
    roles: Roles
    count: int
    shape: tuple[int, ...]

    @property
    def bits(self) -> int:
        return self.step.party.ring.bits

    def mask(self, slot: int, bits: int | None = None) -> Tensor:
        """Draw what the dealer has in common with first (or with second, whose slots are named so)."""
        second = slot in {_SECOND_MASK, _SECOND_PAD}
        return self.step.draw(self.roles.dealer if second else self.roles.first, slot, self.shape, bits)

    def component(self, mask: Tensor, pad: Tensor) -> Tensor:
        """Return -(mask >> t) - 2^(k-t) pad: the dealer's component with one neighbour."""
        return -(shift_right(mask, self.count, self.bits) + (pad << (self.bits - self.count)))


def truncate(party: Party, x: Shared | Summand, count: int) -> Operation[Shared]:
    """Return a sharing of x / 2^count, rounded as the module says; `count` from 1 to k - 2."""
    step = party.begin()
    cut = _Cut(step, step.roles(), count, x.shape)
    if party.index == cut.roles.dealer:
        return (yield from _dealer(cut, x))
    if party.index == cut.roles.first:
        return (yield from _first(cut, x))
    return (yield from _second(cut, x))


def _dealer(cut: _Cut, x: Shared | Summand) -> Operation[Shared]:
    a, b = cut.mask(_FIRST_MASK), cut.mask(_SECOND_MASK)
    wrap = carries(a, b, cut.bits) - cut.mask(_WRAP, cut.count)
    top = top_bit(a + b, cut.bits) - cut.mask(_TOP, cut.count)
    summand = (to_wire(x.take(), cut.bits),) if isinstance(x, Summand) else ()
    hints = (to_wire(wrap, cut.count), to_wire(top, cut.count))
    yield Exchange(to_next=summand, to_previous=(*summand, *hints))
    yield Exchange()
    first, second = cut.mask(_FIRST_PAD, cut.count), cut.mask(_SECOND_PAD, cut.count)
    return Shared(own=cut.component(b, second), next=cut.component(a, first))


def _first(cut: _Cut, x: Shared | Summand) -> Operation[Shared]:
    a = cut.mask(_FIRST_MASK)
    whole = expected(cut.shape, cut.bits)
    part = x.take() if isinstance(x, Summand) else x.own + x.next
    masked = part + a + ((1 << (cut.bits - 2)) + (1 << (cut.count - 1)))
    received = yield Exchange(
        to_next=(to_wire(masked, cut.bits),),
        from_next=(whole,),
        from_previous=(whole,) if isinstance(x, Summand) else (),
    )
    c = masked + _total(received.from_next + received.from_previous, cut.bits)
    pad = cut.mask(_FIRST_PAD, cut.count)
    share = _overflow(cut, c, cut.mask(_WRAP, cut.count), cut.mask(_TOP, cut.count)) + pad
    received = yield Exchange(to_next=(to_wire(share, cut.count),), from_next=(expected(cut.shape, cut.count),))
    common = _common(cut, c, share + from_wire(received.from_next[0], cut.count))
    return Shared(own=cut.component(a, pad), next=common)


def _second(cut: _Cut, x: Shared | Summand) -> Operation[Shared]:
    b = cut.mask(_SECOND_MASK)
    whole, narrow = expected(cut.shape, cut.bits), expected(cut.shape, cut.count)
    masked = (x.take() if isinstance(x, Summand) else x.next) + b
    received = yield Exchange(
        to_previous=(to_wire(masked, cut.bits),),
        from_previous=(whole,),
        from_next=(*((whole,) if isinstance(x, Summand) else ()), narrow, narrow),
    )
    *summand, wrap, top = received.from_next
    c = masked + _total((*received.from_previous, *summand), cut.bits)
    pad = cut.mask(_SECOND_PAD, cut.count)
    share = _overflow(cut, c, from_wire(wrap, cut.count), from_wire(top, cut.count)) + pad
    received = yield Exchange(to_previous=(to_wire(share, cut.count),), from_previous=(expected(cut.shape, cut.count),))
    common = _common(cut, c, share + from_wire(received.from_previous[0], cut.count))
    return Shared(own=common, next=cut.component(b, pad))


def _total(parts: tuple[Tensor, ...], bits: int) -> Tensor:
    return (
        torch.stack([from_wire(part, bits) for part in parts]).sum(0) if len(parts) > 1 else from_wire(parts[0], bits)
    )


def _overflow(cut: _Cut, c: Tensor, wrap: Tensor, top: Tensor) -> Tensor:
    """Return this party's share of w mod 2^t."""
    return low_bits(wrap + top * (1 - top_bit(c, cut.bits)), cut.count)


def _common(cut: _Cut, c: Tensor, m: Tensor) -> Tensor:
    """Return the component that first and second have in common."""
    offset = (1 << (cut.bits - 2 - cut.count)) + 1
    return shift_right(c, cut.count, cut.bits) + (m << (cut.bits - cut.count)) - offset

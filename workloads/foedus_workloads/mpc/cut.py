"""The local arithmetic of a truncation: mod 2^k on words, mod 2^t on what only decides an overflow.

What is mod 2^t lies in the smallest type that holds t bits; its higher bits mean nothing until it is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foedus_workloads.mpc.ring import carries, container, low_bits, passes_for, shift_right, top_bit


@dataclass(frozen=True)
class Cut:
    """A division by 2^count in the ring of `bits` bits; `truncation` numbers the steps that are meant here."""

    bits: int
    count: int

    @property
    def offset(self) -> int:
        """What makes a value with |x| < 2^(k-2) positive, and half a unit of the result."""
        return (1 << (self.bits - 2)) + (1 << (self.count - 1))

    def component(self, mask: Tensor, pad: Tensor) -> Tensor:
        """Return -(mask >> t) - 2^(k-t) pad: the dealer's component with one neighbour (step 5)."""
        if passes := passes_for(self.bits, (mask,), (pad,)):
            return passes.component(mask, pad, self.count)
        return -(shift_right(mask, self.count, self.bits) + self._wrapped(pad))

    def hints(self, a: Tensor, b: Tensor, wrap_mask: Tensor, top_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return second's shares of u = [a + b wraps] and v = the top bit of a + b (step 3)."""
        if passes := passes_for(self.bits, (a, b), (wrap_mask, top_mask)):
            return passes.hints(a, b, (wrap_mask, top_mask), self.count)
        kind = container(self.count)
        wrap = carries(a, b, self.bits).to(kind) - wrap_mask
        top = top_bit(a + b, self.bits).to(kind) - top_mask
        return low_bits(wrap, self.count), low_bits(top, self.count)

    def overflow(self, c: Tensor, wrap: Tensor, top: Tensor, pad: Tensor) -> Tensor:
        """Return this party's masked share of w = u + v (1 - top bit of c) (step 4)."""
        if passes := passes_for(self.bits, (c,), (wrap, top, pad)):
            return passes.overflow(c, wrap, top, pad, self.count)
        positive = (1 - top_bit(c, self.bits)).to(container(self.count))
        return low_bits(wrap + top * positive + pad, self.count)

    def common(self, c: Tensor, share: Tensor, other: Tensor) -> Tensor:
        """Return the component that first and second have in common, from c and m = w + s + s', their shares' sum."""
        if passes := passes_for(self.bits, (c,), (share, other)):
            return passes.common(c, share, other, self.count)
        offset = (1 << (self.bits - 2 - self.count)) + 1
        return shift_right(c, self.count, self.bits) + self._wrapped(share + other) - offset

    def _wrapped(self, m: Tensor) -> Tensor:
        return m.to(torch.int64) << (self.bits - self.count)

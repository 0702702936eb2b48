"""The local arithmetic of a truncation: mod 2^k on words, mod 2^t on what only decides an overflow.

What is mod 2^t lies in the smallest type that holds t bits; its higher bits mean nothing until it is sent. Each
function is one native pass where there are kernels, and beside it what it means, in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus_workloads.mpc.ring import carries, container, low_bits, passes_for, shift_right, top_bit, total


@dataclass(frozen=True)
class Mask:
    """a, or b: from a product in two parts, of which `part` masks the dealer's neighbour and `rest` the dealer."""

    part: Tensor = field(repr=False)
    rest: Tensor | None = field(repr=False)

    @property
    def total(self) -> Tensor:
        """Both parts' sum."""
        return self.part if self.rest is None else total((self.part, self.rest))

    @property
    def words(self) -> tuple[Tensor, ...]:
        """The parts that there are."""
        return (self.part,) if self.rest is None else (self.part, self.rest)


@dataclass(frozen=True)
class Narrow:
    """What the dealer draws mod 2^t: masks of both hints, and the pads that it has in common with first and second."""

    wrap: Tensor = field(repr=False)
    top: Tensor = field(repr=False)
    first_pad: Tensor = field(repr=False)
    second_pad: Tensor = field(repr=False)

    @property
    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All of them."""
        return self.wrap, self.top, self.first_pad, self.second_pad


@dataclass(frozen=True)
class Dealt:
    """What the dealer sends, of a product's summand to each neighbour and of hints to second, and its components."""

    to_first: Tensor | None = field(repr=False)
    to_second: Tensor | None = field(repr=False)
    own: Tensor = field(repr=False)
    next: Tensor = field(repr=False)
    hints: tuple[Tensor, Tensor] = field(repr=False)


@dataclass(frozen=True)
class Cut:
    """A division by 2^count in the ring of `bits` bits; `truncation` numbers the steps that are meant here."""

    bits: int
    count: int

    @property
    def offset(self) -> int:
        """What makes a value with |x| < 2^(k-2) positive, and half a unit of the result."""
        return (1 << (self.bits - 2)) + (1 << (self.count - 1))

    def deal(self, x: Tensor | None, a: Mask, b: Mask, narrow: Narrow) -> Dealt:
        """Return what the dealer sends and keeps; x is its summand of a product (steps 2, 3 and 5)."""
        words = (*a.words, *b.words, *(() if x is None else (x,)))
        if passes := passes_for(self.bits, words, narrow.all):
            found = passes.deal(x, (a.part, a.rest), (b.part, b.rest), narrow.all, self.count)
            return Dealt(*found[:4], hints=found[4:])
        to_first = None if x is None or b.rest is None else x + b.rest
        to_second = None if x is None or a.rest is None else x + a.rest
        own, following = self.component(b.total, narrow.second_pad), self.component(a.total, narrow.first_pad)
        return Dealt(to_first, to_second, own, following, self._hints(a.total, b.total, narrow.wrap, narrow.top))

    def send(self, parts: Sequence[Tensor], mask: Mask, pad: Tensor, constant: int) -> tuple[Tensor, Tensor]:
        """Return what first or second sends, its parts under the mask, and its component with the dealer."""
        if passes := passes_for(self.bits, (*parts, *mask.words), (pad,)):
            x, also = (*parts, None)[:2]
            assert x is not None, "there is a part"
            return passes.send((x, also), (mask.part, mask.rest), pad, self.count, constant)
        return total((*parts, mask.part), constant, self.bits), self.component(mask.total, pad)

    def open(
        self, sent: Tensor, came: Sequence[Tensor], rest: Tensor | None, narrow: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return c, from what was sent, what came and the rest of the mask, and this party's masked share of w.

        `narrow` are this party's shares of u and v, and its pad (step 4).
        """
        known = (sent, *came) if rest is None else (sent, rest, *came)
        if passes := passes_for(self.bits, known, narrow):
            return passes.open(sent, came, rest, narrow, self.count)
        c, (wrap, top, pad) = total(known, bits=self.bits), narrow
        positive = (1 - top_bit(c, self.bits)).to(container(self.count))
        return c, low_bits(wrap + top * positive + pad, self.count)

    def common(self, c: Tensor, share: Tensor, other: Tensor) -> Tensor:
        """Return the component that first and second have in common, from c and m = w + s + s', their shares' sum.

        Uses c up.
        """
        if passes := passes_for(self.bits, (c,), (share, other)):
            return passes.common(c, share, other, self.count)
        offset = (1 << (self.bits - 2 - self.count)) + 1
        return shift_right(c, self.count, self.bits) + self._wrapped(share + other) - offset

    def component(self, mask: Tensor, pad: Tensor) -> Tensor:
        """Return -(mask >> t) - 2^(k-t) pad: the dealer's component with one neighbour (step 5)."""
        return -(shift_right(mask, self.count, self.bits) + self._wrapped(pad))

    def _hints(self, a: Tensor, b: Tensor, wrap_mask: Tensor, top_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return second's shares of u = [a + b wraps] and v = the top bit of a + b (step 3)."""
        kind = container(self.count)
        wrap = carries(a, b, self.bits).to(kind) - wrap_mask
        top = top_bit(a + b, self.bits).to(kind) - top_mask
        return low_bits(wrap, self.count), low_bits(top, self.count)

    def _wrapped(self, m: Tensor) -> Tensor:
        return m.to(torch.int64) << (self.bits - self.count)

"""Correlated randomness: what the dealer knows, what each party is dealt, and what has to be sent for it.

A deal is values that are uniform and values that follow from them. Steps, for n parties:
1. The dealer has drawn a key of 32 bytes for each party and sent it over the party's own connection.
2. Of a uniform value each party's share is the next stretch of its own stream; the value is what they come to.
3. Of a value that follows, parties 0 to n - 2 draw their shares alike. The last party's is what is missing: the
   *correction*, which the dealer computes, since it can draw all of the others, and sends to the last party.
So the dealer sends one party the values that follow, and nothing else to anybody; a correction is masked by the shares
of the n - 1 others, each of which is uniform.

All make the same deals in the same order, and a deal's number goes into every draw, so none is drawn twice under a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from foedus_workloads.mpc.comparison import Words
from foedus_workloads.mpc.ring import WORD_BITS, Factor, container, matmul
from foedus_workloads.mpc.streams import expand

Shape = tuple[int, ...]
Masks = Mapping[str, Factor]  # of the weights, by their names: the dealer's alone
_TOP = WORD_BITS - 1


@dataclass(frozen=True)
class Part:
    """One value of a deal: its shape, and whether shares XOR (words) or add up, as numbers of `lane` bits.

    Of narrower numbers than a word's 64 bits several lie side by side, and carry nothing into each other.
    """

    shape: Shape
    words: bool = False
    lane: int = WORD_BITS

    def together(self, shares: Sequence[Tensor]) -> Tensor:
        """Return what shares come to."""
        if self.words:
            return reduce(torch.bitwise_xor, shares)
        lanes = (share.view(container(self.lane)) for share in shares)
        return reduce(torch.add, lanes).view(torch.int64)

    def missing(self, value: Tensor, shares: Sequence[Tensor]) -> Tensor:
        """Return the share that is missing to `value`."""
        rest = self.together(shares)
        return value ^ rest if self.words else value - rest


Follow = Callable[[Sequence[Tensor], Masks], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Deal:
    """What is dealt at once: uniform values, and those that follow from them by a function of the dealer's."""

    uniform: tuple[Part, ...]
    following: tuple[Part, ...]
    follow: Follow = field(compare=False, repr=False)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All values, in the order in which they are drawn."""
        return (*self.uniform, *self.following)

    @property
    def corrections(self) -> int:
        """How many integers of 64 bits the dealer sends for it."""
        return sum(prod(part.shape) for part in self.following)


class Deals(Protocol):
    """A party's source of dealt shares."""

    def take(self, deal: Deal) -> tuple[Tensor, ...]:
        """Return the party's shares of the next deal's values, in the order of its parts."""
        ...


class Streams:
    """One party's stream of shares: a key that is good for one session, and the number of the next deal."""

    def __init__(self, key: bytes) -> None:
        self._key, self._next = key, 0

    def draw(self, parts: Sequence[Part]) -> tuple[Tensor, ...]:
        """Return uniform shares of the next deal's parts."""
        number, self._next = self._next, self._next + 1
        return tuple(expand(self._key, number, slot, WORD_BITS, part.shape) for slot, part in enumerate(parts))


class DrawnDeals:
    """What parties 0 to n - 2 are dealt: all from their stream."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def take(self, deal: Deal) -> tuple[Tensor, ...]:
        """Return this party's shares."""
        return self._streams.draw(deal.parts)


class CorrectedDeals:
    """What the last party is dealt: uniform values from its stream, the rest from what the dealer has sent."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._sent = torch.empty(0, dtype=torch.int64)

    def feed(self, corrections: Tensor) -> None:
        """Take what the dealer sent for the deals up to the next opening; all of the last must be used."""
        if self._sent.numel():
            raise RuntimeError("the dealer sent more than is used")
        self._sent = corrections

    def take(self, deal: Deal) -> tuple[Tensor, ...]:
        """Return this party's shares."""
        sizes = [prod(part.shape) for part in deal.following]
        if sum(sizes) > self._sent.numel():
            raise RuntimeError("more is dealt than the dealer has sent for")
        *parts, self._sent = pieces(self._sent, [*sizes, self._sent.numel() - sum(sizes)])
        corrections = (piece.reshape(part.shape) for piece, part in zip(parts, deal.following, strict=True))
        return (*self._streams.draw(deal.uniform), *corrections)


class Dealer:
    """The dealer's side: it has every party's stream and the weights' masks, and makes the corrections."""

    def __init__(self, streams: Sequence[Streams], masks: Masks) -> None:
        *self._others, self._last = streams
        self._masks = masks

    def corrections(self, deal: Deal) -> list[Tensor]:
        """Return the last party's shares of what follows in the next deal, one flat tensor a value."""
        drawn = [streams.draw(deal.parts) for streams in self._others]
        own = self._last.draw(deal.uniform)
        uniform = [
            part.together([*(each[place] for each in drawn), own[place]]) for place, part in enumerate(deal.uniform)
        ]
        count = len(deal.uniform)
        return [
            part.missing(value, [each[count + place] for each in drawn]).reshape(-1)
            for place, (part, value) in enumerate(zip(deal.following, deal.follow(uniform, self._masks), strict=True))
        ]


def triple(left: Shape, right: Shape) -> Deal:
    """Deal a, b and a * b, by element and broadcast."""
    shape = np.broadcast_shapes(left, right)  # torch.broadcast_shapes imports a symbolic algebra, for seconds
    return Deal((Part(left), Part(right)), (Part(shape),), lambda values, _: (values[0] * values[1],))


def matrix_triple(left: Shape, right: Shape) -> Deal:
    """Deal a, b and a @ b: [..., m, k] x [..., k, n]."""
    shape = (*left[:-1], right[-1])
    return Deal((Part(left), Part(right)), (Part(shape),), lambda values, _: (matmul(values[0], values[1]),))


def square_pair(shape: Shape) -> Deal:
    """Deal a and its square."""
    return Deal((Part(shape),), (Part(shape),), lambda values, _: (values[0] * values[0],))


def word_triple(shape: Shape) -> Deal:
    """Deal words a, b and a AND b."""
    part = Part(shape, words=True)
    return Deal((part, part), (part,), lambda values, _: (values[0] & values[1],))


def masked_input(shape: Shape, weight: str, outputs: int) -> Deal:
    """Deal a and a @ b, where b is the mask of a weight, which the dealer was given by the weights' owner."""
    return Deal(
        (Part(shape),), (Part((*shape[:-1], outputs)),), lambda values, masks: (matmul(values[0], masks[weight]),)
    )


def cut(shape: Shape, count: int) -> Deal:
    """Deal r, floor(r / 2^count) and the top bit of r, all of them as numbers that add up."""
    part = Part(shape)

    def follow(values: Sequence[Tensor], _: Masks) -> tuple[Tensor, ...]:
        return logical_shift(values[0], count), logical_shift(values[0], _TOP)

    return Deal((part,), (part, part), follow)


def bits(count: int, words: Words) -> Deal:
    """Deal r, a number a window, the words of its bits, and of neighbouring bits of r << 1 their AND at the even place.

    `count` words hold windows side by side.
    """
    flat = Part((count,), words=True)

    def follow(values: Sequence[Tensor], _: Masks) -> tuple[Tensor, ...]:
        shifted = words.raise_bits(values[0])
        return values[0], (shifted >> 1) & shifted & EVEN

    return Deal((Part((count,), lane=words.window.width),), (flat, flat), follow)


def packed_bits(count: int, words: Words) -> Deal:
    """Deal random words, and the bits at their odd places, in the order of the elements, as numbers that add up."""

    def follow(values: Sequence[Tensor], _: Masks) -> tuple[Tensor, ...]:
        return (words.carries(values[0]).to(torch.int64),)

    return Deal((Part((count,), words=True),), (Part((count * WORD_BITS // 2,)),), follow)


def zero(shape: Shape) -> Deal:
    """Deal shares of zero."""
    return Deal((), (Part(shape),), lambda *_: (torch.zeros(shape, dtype=torch.int64),))


def pieces(values: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    """Yield stretches of the last dimension."""
    start = 0
    for size in sizes:
        yield values[..., start : start + size]
        start += size


EVEN = 0x5555_5555_5555_5555


def logical_shift(values: Tensor, count: int) -> Tensor:
    """Return floor(v / 2^count) for the unsigned representatives v; `count` from 1 to 63."""
    return (values >> count) & ((1 << (WORD_BITS - count)) - 1)

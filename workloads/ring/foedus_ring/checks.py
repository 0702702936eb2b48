"""Passes of the checks that find out a party which deviates, each of which walks through memory once.

What each computes stands in `native/checks.h`. They take tensors of this process's memory alone, contiguous ones; a
caller asks `takes`, and has its own way, which is the reference, for all others.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from foedus_ring.passes import WORD_BITS, Types, Unit, bind, pointer, units

_SIZE, _NUMBER, _STRIDE, _POINTER = ctypes.c_size_t, ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p
_CLAIMS: Types = [_SIZE, _POINTER, _POINTER, *[_SIZE] * 4, _NUMBER]
_ARGUMENTS: dict[str, Types] = {
    "conceal": [*_CLAIMS, *[_POINTER] * 2],
    "remain": [*_CLAIMS, _NUMBER, *[_POINTER] * 6],
    "project": [_SIZE, _SIZE, _STRIDE, _STRIDE, _NUMBER, *[_POINTER] * 3],
    "pack": [_SIZE, *[_POINTER] * 3],
    "flip": [_SIZE, _NUMBER, _NUMBER, *[_POINTER] * 4],
}


class Row:
    """Claims, one after the other, in the form in which passes take them."""

    def __init__(self, claims: Sequence[Tensor]) -> None:
        """Keep the claims: contiguous tensors of int64."""
        count = len(claims)
        self._claims = claims  # what is pointed to
        pointers = (_POINTER * count)(*(each.data_ptr() for each in claims))
        self.operands = count, pointers, (_SIZE * count)(*(each.numel() for each in claims))


@functools.cache
def fastest() -> Checks | None:
    """Return the passes for this CPU, or None where there are no kernels."""
    return Checks(units()[0]) if units() else None


class Checks:
    """The passes of one unit. Operands are as `takes` wants them, results new tensors."""

    def __init__(self, unit: Unit) -> None:
        """Bind the unit's functions; it is one of `units()`."""
        self._passes = bind(unit, _ARGUMENTS)

    @staticmethod
    def takes(kind: torch.dtype, operands: Sequence[Tensor]) -> bool:
        """Tell whether all are contiguous, on the CPU and of this type."""
        return all(each.dtype == kind and each.is_cpu and each.is_contiguous() for each in operands)

    def conceal(self, claims: Row, random: Tensor, turn: int, places: range, *, bits: bool) -> Tensor:
        """Return claims, and zeros behind them, less the random words that they meet from place `turn` on."""
        out = torch.empty(len(places), dtype=torch.int64)
        sizes = random.numel(), turn, places.start, places.stop
        self._passes["conceal"](*claims.operands, *sizes, bits, out.data_ptr(), random.data_ptr())
        return out

    def remain(
        self,
        claims: Row,
        random: tuple[Tensor, Tensor, Tensor | None],
        turn: int,
        places: range,
        opened: tuple[Tensor, Tensor | None],
        *,
        bits: bool,
        first: bool,
    ) -> Tensor:
        """Return claims less what the random words c, a, b and the opened rho, sigma of these places say they are.

        b and sigma are None, both together, where claims are squares.
        """
        out = torch.empty(len(places), dtype=torch.int64)
        sizes = random[0].numel(), turn, places.start, places.stop
        pointers = map(pointer, (out, *random, *opened))
        self._passes["remain"](*claims.operands, *sizes, bits, first, *pointers)
        return out

    def project(self, values: Tensor, coins: Tensor, repetitions: int) -> Tensor:
        """Return [rows, inner] -> [rows, repetitions]: sums of the words whose coins, `inner` words, have each bit.

        `values` may have any strides.
        """
        rows, inner = values.shape
        out = torch.empty(rows, repetitions, dtype=torch.int64)
        operands = out.data_ptr(), values.data_ptr(), coins.data_ptr()
        self._passes["project"](rows, inner, *values.stride(), repetitions, *operands)
        return out

    def pack(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        """Return the lowest bits of int8 as words, 64 to each; or of the sum of two bit by bit."""
        count = left.numel()
        words = torch.empty(-(-count // WORD_BITS), dtype=torch.int64)
        self._passes["pack"](count, *map(pointer, (words, left, right)))
        return words

    def flip(self, words: Tensor, number: Tensor, *, first: bool, base: Tensor | None = None) -> Tensor:
        """Return numbers, negative where the words' bits are 1, the bits added where `first`; or the base less that."""
        out = torch.empty_like(number)
        pointers = map(pointer, (out, words, number, base))
        self._passes["flip"](number.numel(), number.itemsize, first, *pointers)
        return out

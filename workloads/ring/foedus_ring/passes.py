"""Passes over the elements of shares that read and write memory once, where torch would make one for each operation.

What each computes stands in `native/ring.h`. They take contiguous tensors of this process's memory alone; a caller asks
`takes` and has its own way, which is the reference, for all others.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from foedus_ring.native import available, library

Unit = Literal["plain", "avx2", "avx512"]
WORD_BITS = 64
_UNITS: dict[str, Unit] = {"amx": "avx512", "avx512": "avx512", "avx2": "avx2", "plain": "plain"}
_WORD = (1 << WORD_BITS) - 1
_SIZE, _NUMBER, _WHOLE, _POINTER = ctypes.c_size_t, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p
_ARGUMENTS: dict[str, list[type[ctypes._SimpleCData]]] = {  # type: ignore[type-arg]
    "total": [_SIZE, *[_POINTER] * 5, _WHOLE],
    "product": [_SIZE, *[_POINTER] * 5],
    "product_bits": [_SIZE, *[_POINTER] * 5],
    "square": [_SIZE, *[_POINTER] * 3],
    "component": [_SIZE, _NUMBER, _NUMBER, *[_POINTER] * 3],
    "hints": [_SIZE, _NUMBER, _NUMBER, *[_POINTER] * 6],
    "overflow": [_SIZE, _NUMBER, _NUMBER, *[_POINTER] * 5],
    "common": [_SIZE, _NUMBER, _NUMBER, *[_POINTER] * 4],
    "pairs": [_SIZE, *[_POINTER] * 4],
    "groups": [_SIZE, _NUMBER, _WHOLE, _WHOLE, *[_POINTER] * 4],
    "offer": [_SIZE, *[_POINTER] * 7],
    "choose": [_SIZE, *[_POINTER] * 7],
    "carries": [_SIZE, _NUMBER, *[_POINTER] * 3],
}


def units() -> tuple[Unit, ...]:
    """Return the units that run here, the fastest first; none where there are no kernels."""
    return tuple(dict.fromkeys(_UNITS[path] for path in available() if path in _UNITS))


@functools.cache
def fastest() -> Passes | None:
    """Return the passes for this CPU, or None where there are no kernels."""
    return Passes(units()[0]) if units() else None


class Passes:
    """The passes of one unit. Operands are as `takes` wants them; results are new tensors."""

    def __init__(self, unit: Unit) -> None:
        """Bind the unit's functions; it is one of `units()`."""
        kernels = library()
        assert kernels is not None, "a unit of `units` has its kernels"
        self._passes = {}
        for name, arguments in _ARGUMENTS.items():
            function = getattr(kernels, f"ring_{name}_{unit}")
            function.argtypes, function.restype = arguments, None
            self._passes[name] = function

    @staticmethod
    def takes(words: Sequence[Tensor], narrow: Sequence[Tensor] = ()) -> bool:
        """Tell whether all are contiguous, on the CPU and of one shape: words of int64, narrow ones of one type."""
        shape, kind = words[0].shape, narrow[0].dtype if narrow else None
        return all(
            each.dtype == wanted and each.shape == shape and each.is_cpu and each.is_contiguous()
            for wanted, group in ((torch.int64, words), (kind, narrow))
            for each in group
        )

    def total(self, terms: Sequence[Tensor], constant: int = 0) -> Tensor:
        """Return the sum of two to four terms and a constant."""
        out = torch.empty_like(terms[0])
        pointers: list[int | None] = [each.data_ptr() for each in terms]
        pointers += [None] * (4 - len(terms))
        self._passes["total"](out.numel(), out.data_ptr(), *pointers, constant & _WORD)
        return out

    def product(self, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], *, bits: bool = False) -> Tensor:
        """Return x0 (y0 + y1) + x1 y0, or the same over Z_2 bit by bit."""
        return self._words("product_bits" if bits else "product", *x, *y)

    def square(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Return x0 (x0 + 2 x1)."""
        return self._words("square", x0, x1)

    def component(self, mask: Tensor, pad: Tensor, cut: int) -> Tensor:
        """Return -(mask >> cut) - 2^(64 - cut) pad."""
        return self._words("component", mask, pad, sizes=(pad.itemsize, cut))

    def common(self, c: Tensor, share: Tensor, other: Tensor, cut: int) -> Tensor:
        """Return (c >> cut) + 2^(64 - cut) (share + other) - 2^(62 - cut) - 1."""
        return self._words("common", c, share, other, sizes=(share.itemsize, cut))

    def hints(self, a: Tensor, b: Tensor, masks: tuple[Tensor, Tensor], cut: int) -> tuple[Tensor, Tensor]:
        """Return whether a + b carries and its top bit, less their masks, as signed numbers of `cut` bits."""
        out = torch.empty_like(masks[0]), torch.empty_like(masks[1])
        self._run("hints", a.numel(), (masks[0].itemsize, cut), *out, a, b, *masks)
        return out

    def overflow(self, c: Tensor, wrap: Tensor, top: Tensor, pad: Tensor, cut: int) -> Tensor:
        """Return wrap + top (1 - c's top bit) + pad as a signed number of `cut` bits."""
        out = torch.empty_like(pad)
        self._run("overflow", c.numel(), (pad.itemsize, cut), out, c, wrap, top, pad)
        return out

    def pairs(self, passes: Tensor, arises: Tensor) -> tuple[Tensor, Tensor]:
        """Return both factors of a comparison's first level."""
        out = torch.empty_like(passes), torch.empty_like(passes)
        self._run("pairs", passes.numel(), (), *out, passes, arises)
        return out

    def groups(self, words: Tensor, half: int, lower: int, p_places: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return both factors of a level, and what is added to their product, of words [2 n] -> [n] each."""
        count = words.shape[0] // 2
        out = words.new_empty(count), words.new_empty(count), words.new_empty(count)
        self._run("groups", count, (half, lower & _WORD, p_places & _WORD), *out, words)
        return out

    def offer(self, e: Tensor, x: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return e (x0 + x1) - mask and e - mask; e is int8."""
        out = torch.empty_like(x[0]), torch.empty_like(x[0])
        self._run("offer", x[0].numel(), (), *out, e, *x, *masks)
        return out

    def choose(self, total: Tensor, bit: Tensor, known: Sequence[Tensor], w: tuple[Tensor, Tensor, Tensor]) -> None:
        """Add to `total`, in place, product + e x where the bit is 0, and the known sum less it where it is 1."""
        pointers: list[int | None] = [total.data_ptr(), bit.data_ptr(), *(each.data_ptr() for each in known)]
        pointers += [None] * (4 - len(pointers))
        self._passes["choose"](total.numel(), *pointers, *(each.data_ptr() for each in w))

    def carries(self, words: Tensor, width: int, order: Tensor) -> Tensor:
        """Return, slice by slice in the `order` (int8) of places, a bit of each lane of each word, as int8."""
        out = torch.empty(words.numel() * (WORD_BITS // width) * order.numel(), dtype=torch.int8)
        self._passes["carries"](words.numel(), width, order.data_ptr(), out.data_ptr(), words.data_ptr())
        return out

    def _words(self, name: str, *operands: Tensor, sizes: tuple[int, ...] = ()) -> Tensor:
        out = torch.empty_like(operands[0])
        self._run(name, out.numel(), sizes, out, *operands)
        return out

    def _run(self, name: str, count: int, sizes: tuple[int, ...], *tensors: Tensor) -> None:
        self._passes[name](count, *sizes, *(each.data_ptr() for each in tensors))

"""Passes over the elements of shares that read and write memory once, where torch would make one for each operation.

What each computes stands in `native/ring.h`. They take contiguous tensors of this process's memory alone; a caller asks
`takes` and has its own way, which is the reference, for all others.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from foedus_ring.native import available, library

Unit = Literal["plain", "avx2", "avx512"]
WORD_BITS = 64
_UNITS: dict[str, Unit] = {"amx": "avx512", "avx512": "avx512", "avx2": "avx2", "plain": "plain"}
_WORD = (1 << WORD_BITS) - 1
_SIZE, _NUMBER, _WHOLE, _POINTER = ctypes.c_size_t, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p
Types = list[type[ctypes._SimpleCData]]  # type: ignore[type-arg]
_ARGUMENTS: dict[str, Types] = {
    "total": [_SIZE, *[_POINTER] * 5, _WHOLE],
    "product": [_SIZE, *[_POINTER] * 5],
    "product_bits": [_SIZE, *[_POINTER] * 5],
    "square": [_SIZE, *[_POINTER] * 3],
    "combine": [_SIZE, *[_POINTER] * 3, *[_WHOLE] * 3],
    "masked_bits": [_SIZE, *[_POINTER] * 7],
    "deal": [_SIZE, _NUMBER, _NUMBER, *[_POINTER] * 15],
    "send": [_SIZE, _NUMBER, _NUMBER, *[_POINTER] * 7, _WHOLE],
    "open": [_SIZE, _NUMBER, _NUMBER, *[_POINTER] * 9],
    "common": [_SIZE, _NUMBER, _NUMBER, *[_POINTER] * 3],
    "window": [_SIZE, _NUMBER, _NUMBER, *[_POINTER] * 3],
    "pairs": [_SIZE, _WHOLE, *[_POINTER] * 5],
    "groups": [_SIZE, _NUMBER, _WHOLE, _WHOLE, *[_POINTER] * 4],
    "offer": [_SIZE, *[_POINTER] * 7],
    "choose": [_SIZE, *[_POINTER] * 7],
    "carries": [_SIZE, _NUMBER, *[_POINTER] * 3],
}


def units() -> tuple[Unit, ...]:
    """Return the units that run here, the fastest first; none where there are no kernels."""
    return tuple(dict.fromkeys(_UNITS[path] for path in available() if path in _UNITS))


def bind(unit: Unit, arguments: Mapping[str, Types]) -> dict[str, Callable[..., None]]:
    """Return the unit's functions by name, each bound to the types of its arguments; the unit is one of `units()`."""
    kernels = library()
    assert kernels is not None, "a unit of `units` has its kernels"
    passes: dict[str, Callable[..., None]] = {}
    for name, types in arguments.items():
        function = getattr(kernels, f"ring_{name}_{unit}")
        function.argtypes, function.restype = types, None
        passes[name] = function
    return passes


def pointer(tensor: Tensor | None) -> int | None:
    """Return where a tensor lies, as passes take it; None where there is none."""
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def fastest() -> Passes | None:
    """Return the passes for this CPU, or None where there are no kernels."""
    return Passes(units()[0]) if units() else None


class Passes:
    """The passes of one unit. Operands are as `takes` wants them; results are new tensors."""

    def __init__(self, unit: Unit) -> None:
        """Bind the unit's functions; it is one of `units()`."""
        self._passes = bind(unit, _ARGUMENTS)

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

    def combine(self, terms: Sequence[tuple[Tensor, int]], constant: int = 0) -> Tensor:
        """Return the sum of one or two terms, each times its public factor, and a constant."""
        (a, fa), (b, fb) = (*terms, (None, 0))[:2]
        assert a is not None, "there is a first term"
        out = torch.empty_like(a)
        factors = fa & _WORD, fb & _WORD, constant & _WORD
        self._passes["combine"](out.numel(), out.data_ptr(), a.data_ptr(), pointer(b), *factors)
        return out

    def masked_bits(self, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]) -> Tensor:
        """Return the product over Z_2 bit by bit, with both masks added."""
        return self._words("masked_bits", *x, *y, *masks)

    def deal(
        self,
        x: Tensor | None,
        a: tuple[Tensor, Tensor | None],
        b: tuple[Tensor, Tensor | None],
        narrow: tuple[Tensor, Tensor, Tensor, Tensor],
        cut: int,
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
        """Return what a truncation's dealer sends and keeps: to_first, to_second, own, next, wrap, top.

        `narrow` are both hints' masks and both neighbours' pads. The first two are None where x is, and the masks'
        second parts must be, too.
        """
        sent = (None, None) if x is None else (torch.empty_like(x), torch.empty_like(x))
        kept = torch.empty_like(a[0]), torch.empty_like(a[0])
        hints = torch.empty_like(narrow[0]), torch.empty_like(narrow[0])
        self._run("deal", a[0].numel(), (narrow[0].itemsize, cut), *sent, *kept, *hints, x, *a, *b, *narrow)
        return *sent, *kept, *hints

    def send(
        self, x: tuple[Tensor, Tensor | None], mask: tuple[Tensor, Tensor | None], pad: Tensor, cut: int, constant: int
    ) -> tuple[Tensor, Tensor]:
        """Return x0 + x1 + mask + constant, and -((mask + rest) >> cut) - 2^(64 - cut) pad.

        x1 or the mask's rest, or both, is None.
        """
        out = torch.empty_like(x[0]), torch.empty_like(x[0])
        operands = map(pointer, (*out, *x, *mask, pad))
        self._passes["send"](x[0].numel(), pad.itemsize, cut, *operands, constant & _WORD)
        return out

    def open(
        self, sent: Tensor, came: Sequence[Tensor], rest: Tensor | None, narrow: tuple[Tensor, Tensor, Tensor], cut: int
    ) -> tuple[Tensor, Tensor]:
        """Return c, the sum of all words, and wrap + top (1 - c's top bit) + pad as a signed number of `cut` bits.

        `narrow` are wrap, top and pad; of `came` there are two where there is a rest, else one.
        """
        c, share = torch.empty_like(sent), torch.empty_like(narrow[2])
        first, second = (*came, None)[:2]
        self._run("open", c.numel(), (share.itemsize, cut), c, share, sent, first, rest, second, *narrow)
        return c, share

    def common(self, c: Tensor, share: Tensor, other: Tensor, cut: int) -> Tensor:
        """Put (c >> cut) + 2^(64 - cut) (share + other) - 2^(62 - cut) - 1 in place of c, and return it."""
        self._run("common", c.numel(), (share.itemsize, cut), c, share, other)
        return c

    def window(self, terms: Sequence[Tensor], low: int, out: Tensor) -> None:
        """Write the bits of the sum of one or two terms from `low` on, as many as fit, to the beginning of `out`."""
        first, second = (*terms, None)[:2]
        assert first is not None, "there is a first term"
        self._run("window", first.numel(), (out.itemsize, low), out, first, second)

    def pairs(self, passes: Tensor, arises: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return both factors of a comparison's first level, and what is added to their product."""
        out = torch.empty_like(passes), torch.empty_like(passes), torch.empty_like(passes)
        self._run("pairs", passes.numel(), (keep & _WORD,), *out, passes, arises)
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

    def _run(self, name: str, count: int, sizes: tuple[int, ...], *tensors: Tensor | None) -> None:
        self._passes[name](count, *sizes, *map(pointer, tensors))

"""The kernels behind their C interface (`native/ring.h`), and which of them this CPU runs.

A foreign call releases the interpreter's lock, so threads of Python compute side by side.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import pathlib
from contextlib import suppress
from typing import Literal, get_args

import torch

from foedus_ring.errors import OperandRefused

NativePath = Literal["amx", "avx512", "avx2", "plain"]
Path = Literal["amx", "avx512", "avx2", "plain", "torch"]
"""A way to compute. All give the same bits; `torch` needs no kernel."""

_NUMBERS: dict[NativePath, int] = {"plain": 0, "avx2": 1, "avx512": 2, "amx": 3}  # enum ring_path
PANEL = 32  # RING_PANEL: a call computes whole panels of this many columns
_LIBRARY = pathlib.Path(__file__).with_name("_kernels.so")


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the kernels, or None when this installation was built without a compiler."""
    if not _LIBRARY.exists():
        return None
    kernels = ctypes.CDLL(str(_LIBRARY))
    number, size, stride, pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_ssize_t, ctypes.c_void_p
    kernels.ring_paths.argtypes, kernels.ring_paths.restype = [], ctypes.c_uint32
    kernels.ring_packed_bytes.argtypes, kernels.ring_packed_bytes.restype = [number, size, size], size
    kernels.ring_pack.argtypes = [number, pointer, pointer, size, size, stride, stride]
    kernels.ring_pack.restype = None
    kernels.ring_multiply.argtypes = [
        number, pointer, stride, pointer, stride, pointer, size, size, size, size, size,
    ]  # fmt: skip
    kernels.ring_multiply.restype = number
    kernels.ring_products.argtypes = [
        number, pointer, pointer, stride, stride, pointer, stride, stride, stride, size, size, size, size,
    ]  # fmt: skip
    kernels.ring_products.restype = number
    return kernels


@functools.cache
def available() -> tuple[Path, ...]:
    """Return the paths that run here; products take the first, which is the fastest."""
    kernels = library()
    if kernels is None:
        return ("torch",)
    found = kernels.ring_paths()
    vector: list[Path] = [path for path in ("amx", "avx512", "avx2") if found >> _NUMBERS[path] & 1]
    return (*vector, "plain", "torch")


def choose(path: Path | None) -> Path:
    """Return the path asked for, or the fastest; one that does not run here is refused."""
    if path is None:
        return available()[0]
    if path not in get_args(Path):
        raise OperandRefused(f"there is no path {path!r}: {', '.join(get_args(Path))}")
    if path not in available():
        raise OperandRefused(f"path {path!r} does not run here: {', '.join(available())} do")
    return path


def packed_buffer(path: NativePath, k: int, n: int) -> torch.Tensor:
    """Return memory for a packed k × n operand: uint8, aligned, its content undefined.

    It is mapped for itself: weights live long, and among the heap's short-lived tensors they would leave holes that
    nothing fits in. Huge pages, where the system has them, spare a product the walk through its page tables.
    """
    size = _loaded().ring_packed_bytes(_NUMBERS[path], k, n)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # aligned to pages
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def pack_into(path: NativePath, buffer: torch.Tensor, w: torch.Tensor) -> None:
    """Write w [k, n], of any strides, into a `packed_buffer` of its size."""
    _loaded().ring_pack(_NUMBERS[path], buffer.data_ptr(), w.data_ptr(), *w.shape, *w.stride())


def multiply(
    path: NativePath, out: torch.Tensor, x: torch.Tensor, buffer: torch.Tensor, columns: tuple[int, int]
) -> None:
    """Write columns first..last of x [m, k] times the packed operand into out [m, n].

    Rows of x and out must be contiguous and no dimension zero; the first column is a multiple of PANEL.
    """
    (m, k), n = x.shape, out.shape[1]
    _check(
        _loaded().ring_multiply(
            _NUMBERS[path],
            out.data_ptr(),
            out.stride(0),
            x.data_ptr(),
            x.stride(0),
            buffer.data_ptr(),
            m,
            k,
            n,
            *columns,
        )
    )


def products(path: NativePath, out: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> None:
    """Write x [b, m, k] times w [b, k, n], matrix by matrix, into the contiguous out [b, m, n].

    Rows of x must be contiguous and no dimension zero; w has any strides.
    """
    (count, m, k), n = x.shape, w.shape[2]
    _check(
        _loaded().ring_products(
            _NUMBERS[path], out.data_ptr(), x.data_ptr(), *x.stride()[:2], w.data_ptr(), *w.stride(), count, m, k, n
        )
    )


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the scratch of a ring product")


def _loaded() -> ctypes.CDLL:
    kernels = library()
    assert kernels is not None, "only paths of `available` come here"
    return kernels

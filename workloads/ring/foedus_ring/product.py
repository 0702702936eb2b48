"""The product: operands are checked and brought into shape, the work is dealt to threads, the kernels compute."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from foedus_ring import native
from foedus_ring.errors import OperandRefused
from foedus_ring.native import PANEL, Path
from foedus_ring.packed import Packed, check_operand, pack

# Multiply-adds that are worth a thread of their own. On a busy machine of two cores a second thread made products of
# 12 million slower (attention's, at 128 tokens) and some of 200 million nearly twice as fast.
THREAD_WORK = 1 << 25

Range = tuple[int, int]


def matmul(x: torch.Tensor, w: torch.Tensor | Packed, *, threads: int = 1, path: Path | None = None) -> torch.Tensor:
    """Return x · w modulo 2^64, exactly: a new contiguous int64 tensor [..., m, n].

    x: int64 [..., m, k]; w: int64 [..., k, n], whose leading dimensions broadcast with x's as in `torch.matmul`, or a
    `Packed` k × n. Both lie on the CPU, with any strides; any dimension may be 0. There is no bound on k.
    `threads` is the most that compute at a time; the result does not depend on it. `path` names a way to compute, for
    tests and benchmarks. Raises OperandRefused for other operands, before anything is computed.
    """
    check_operand("x", x)
    if threads < 1:
        raise OperandRefused(f"threads must be at least 1, not {threads}")
    if not isinstance(w, Packed):
        check_operand("w", w)
        if w.dim() > 2:
            return _batched(x, w, threads, native.choose(path))
        _check_inner(x, w.shape[0])
        w = pack(w, path=path)
    elif path not in (None, w.path):
        raise OperandRefused(f"w is packed for path {w.path!r}, not {path!r}")
    _check_inner(x, w.k)
    out = torch.empty(*x.shape[:-1], w.n, dtype=torch.int64)
    if 0 in (out.numel(), w.k):
        return out.zero_()
    _multiply(out.view(-1, w.n), _rows(x.reshape(-1, w.k)), w, threads)
    return out


def _check_inner(x: torch.Tensor, k: int) -> None:
    if x.shape[-1] != k:
        raise OperandRefused(f"x has {x.shape[-1]} columns, w has {k} rows")


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Return x with contiguous rows, copied only when they are not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _multiply(out: torch.Tensor, x: torch.Tensor, w: Packed, threads: int) -> None:
    """One product [m, k] · [k, n]: kernels share it by columns, torch by rows."""
    threads = min(threads, max(1, x.numel() * w.n // THREAD_WORK))
    if w.path == "torch":
        _share(lambda rows: _by_torch(out[slice(*rows)], x[slice(*rows)], w.data), x.shape[0], threads)
        return
    path = w.path
    _share(lambda columns: native.multiply(path, out, x, w.data, columns), w.n, threads, unit=PANEL)


def _batched(x: torch.Tensor, w: torch.Tensor, threads: int, path: Path) -> torch.Tensor:
    """Many products, both operands fresh (attention): threads share the batch."""
    _check_inner(x, w.shape[-2])
    batch = _broadcast(x.shape[:-2], w.shape[:-2])
    m, k, n = x.shape[-2], x.shape[-1], w.shape[-1]
    out = torch.empty(*batch, m, n, dtype=torch.int64)
    if 0 in (out.numel(), k):
        return out.zero_()
    lefts = _rows(x.expand(*batch, m, k).reshape(-1, m, k))
    rights, outs = w.expand(*batch, k, n).reshape(-1, k, n), out.view(-1, m, n)

    def products(part: Range) -> None:
        run = slice(*part)
        if path == "torch":
            _by_torch(outs[run], lefts[run], rights[run])
        else:
            native.products(path, outs[run], lefts[run], rights[run])

    _share(products, len(outs), min(threads, max(1, outs.numel() * k // THREAD_WORK)))
    return out


def _broadcast(left: torch.Size, right: torch.Size) -> torch.Size:
    if left == right:  # and torch's function would bring in its compiler, for a second
        return left
    try:
        both: torch.Size = torch.broadcast_shapes(left, right)  # type: ignore[no-untyped-call]  # torch has none
    except RuntimeError as error:
        raise OperandRefused(f"batches {list(left)} and {list(right)} do not broadcast") from error
    return both


def _by_torch(out: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> None:
    torch.matmul(x, w, out=out)


def _share(work: Callable[[Range], None], count: int, threads: int, unit: int = 1) -> None:
    """Deal 0..count to threads in runs of whole units, and wait; a thread's error is raised here."""
    units = -(-count // unit)
    threads = min(threads, units)
    cuts = [min(count, units * part // threads * unit) for part in range(threads + 1)]
    parts = list(itertools.pairwise(cuts))
    if len(parts) == 1:
        work(parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(work, parts))

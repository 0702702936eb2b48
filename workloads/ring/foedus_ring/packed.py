"""Right operands that are used often (weights), brought into their kernel's layout once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foedus_ring import native
from foedus_ring.errors import OperandRefused
from foedus_ring.native import Path


@dataclass(frozen=True, eq=False)
class Packed:
    """A k × n right operand, copied in the layout of `path`'s kernel; it lives in memory only, 8 bytes an element.

    The layout belongs to this CPU and this version: never store it or send it.
    """

    path: Path
    k: int
    n: int
    data: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Return (k, n)."""
        return self.k, self.n

    @property
    def nbytes(self) -> int:
        """Return the bytes that it takes, padding included."""
        return self.data.nbytes


def pack(w: torch.Tensor, *, path: Path | None = None) -> Packed:
    """Return a copy of w that products take without further preparation.

    w: int64 [k, n] on the CPU, of any strides. `path` names a way to compute, for tests and benchmarks; by default it
    is the fastest that runs here. Raises OperandRefused for anything else.
    """
    check_operand("w", w)
    if w.dim() != 2:
        raise OperandRefused(f"w must have 2 dimensions to be packed, not {w.dim()}")
    chosen = native.choose(path)
    k, n = w.shape
    if chosen == "torch" or k == 0 or n == 0:
        return Packed(chosen, k, n, w.clone(memory_format=torch.contiguous_format))
    buffer = native.packed_buffer(chosen, k, n)
    native.pack_into(chosen, buffer, w)
    return Packed(chosen, k, n, buffer)


def check_operand(name: str, operand: object) -> None:
    """Refuse what is not a plain int64 matrix, or batch of matrices, in this process's memory."""
    if not isinstance(operand, torch.Tensor):
        raise OperandRefused(f"{name} must be a tensor, not {type(operand).__name__}")
    if operand.dtype != torch.int64:
        raise OperandRefused(f"{name} must be int64, not {operand.dtype}")
    if operand.device.type != "cpu" or operand.layout != torch.strided:
        raise OperandRefused(f"{name} must be a dense tensor on the CPU, not {operand.layout} on {operand.device}")
    if operand.dim() < 2:
        raise OperandRefused(f"{name} must have at least 2 dimensions, not {operand.dim()}")

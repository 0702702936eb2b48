"""Exact matrix products over Z_2^64 for torch tensors: int64 in, int64 out, all arithmetic modulo 2^64."""

from foedus_ring.errors import OperandRefused
from foedus_ring.native import Path, available
from foedus_ring.packed import Packed, pack
from foedus_ring.product import matmul

__all__ = ["OperandRefused", "Packed", "Path", "available", "matmul", "pack"]

"""What a party has claimed by sharing a product, a bit or a rounded value, kept until it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus_workloads.mpc.party import Shared


@dataclass(frozen=True)
class ProductClaim:
    """z is x * y, element by element; without a y it is x squared."""

    x: Shared
    y: Shared | None
    z: Shared

    @property
    def count(self) -> int:
        """Elements."""
        return self.z.own.numel()


@dataclass(frozen=True)
class BitClaim:
    """`value` is the Boolean `bit` as a number mod 2^bits."""

    bit: Shared
    value: Shared

    @property
    def count(self) -> int:
        """Elements."""
        return self.bit.own.numel()


@dataclass(frozen=True)
class MatrixClaim:
    """z is x @ y: [..., m, k] x [..., k, n]."""

    x: Shared
    y: Shared
    z: Shared


@dataclass
class Claims:
    """All claims since the last check."""

    products: list[ProductClaim] = field(default_factory=list)
    squares: list[ProductClaim] = field(default_factory=list)
    ands: list[ProductClaim] = field(default_factory=list)  # of words of 64 bits
    bits: dict[int, list[BitClaim]] = field(default_factory=dict)  # by the bits of their values
    matrices: list[MatrixClaim] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Words that are kept for element-wise claims, which grow with a program's length."""
        groups: list[Sequence[ProductClaim | BitClaim]] = [self.products, self.squares, self.ands, *self.bits.values()]
        return sum(claim.count for group in groups for claim in group)


def joined(parts: Sequence[Shared], size: int) -> Shared:
    """Return all elements one after the other, filled up with zeros to `size`."""

    def one(tensors: list[Tensor]) -> Tensor:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        return torch.nn.functional.pad(flat, (0, size - flat.numel()))

    return Shared(one([part.own for part in parts]), one([part.next for part in parts]))


def taken(random: Shared, chosen: Tensor) -> Shared:
    """Return the chosen units."""
    return random.map(lambda t: t.index_select(0, chosen))

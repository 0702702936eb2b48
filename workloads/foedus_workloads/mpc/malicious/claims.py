"""What a party has claimed by sharing a product, kept until it is checked, and random products to check it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

from torch import Tensor

from foedus_workloads.mpc.party import Shared


@dataclass(frozen=True)
class ProductClaim:
    """z is x * y, element by element; without a y it is x squared."""

    x: Shared
    y: Shared | None
    z: Shared

    @cached_property
    def count(self) -> int:
        """Elements; they are counted after each step of a program."""
        return self.z.own.numel()

    @property
    def factors(self) -> tuple[Shared, ...]:
        """Both factors, or the one that is squared."""
        return (self.x,) if self.y is None else (self.x, self.y)

    def flat(self) -> ProductClaim:
        """Return the same in one dimension, side by side in memory."""
        return self._mapped(_flat)

    def part(self, start: int, stop: int) -> ProductClaim:
        """Return the elements start to stop of a claim in one dimension."""
        return self._mapped(lambda t: t[start:stop])

    def _mapped(self, local: Callable[[Tensor], Tensor]) -> ProductClaim:
        y = None if self.y is None else self.y.map(local)
        return ProductClaim(self.x.map(local), y, self.z.map(local))


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
    carries: list[ProductClaim] = field(default_factory=list)  # ANDs of words of masks, which no input decides
    matrices: list[MatrixClaim] = field(default_factory=list)

    @property
    def most(self) -> int:
        """Words of the kind of element-wise claims of which there are most; they grow with a program's length."""
        return max(map(counted, (self.products, self.squares, self.ands, self.carries)))

    def since(self, lengths: Mapping[str, int]) -> Claims:
        """Return the claims that came after there were so many of each kind (`lengths`)."""
        return Claims(**{kind: getattr(self, kind)[length:] for kind, length in lengths.items()})

    def lengths(self) -> Mapping[str, int]:
        """Return the number of claims of each kind."""
        return {each.name: len(getattr(self, each.name)) for each in fields(self)}

    def extend(self, others: Claims) -> None:
        """Add claims."""
        for each in fields(self):
            getattr(self, each.name).extend(getattr(others, each.name))

    def taken(self, least: int) -> Claims:
        """Take out the element-wise claims of which there are at least so many words of a kind, and all others."""
        found = Claims(matrices=self.matrices)
        self.matrices = []
        for kind in ("products", "squares", "ands", "carries"):
            if counted(getattr(self, kind)) >= least:
                setattr(found, kind, getattr(self, kind))
                setattr(self, kind, [])
        return found


def counted(claims: Sequence[ProductClaim]) -> int:
    """Return the elements of all claims."""
    return sum(claim.count for claim in claims)


def _flat(t: Tensor) -> Tensor:
    return t.reshape(-1).contiguous()

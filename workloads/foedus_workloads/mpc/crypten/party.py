"""A party: its number, how many there are, and what it is dealt. Of a secret it holds one tensor, its share."""

from __future__ import annotations

from dataclasses import dataclass
from math import ldexp

from torch import Tensor

from foedus_workloads.mpc.crypten.deals import Deals


@dataclass(frozen=True)
class Party:
    """One of the parties of a session."""

    index: int
    parties: int
    deals: Deals
    fraction: int = 16  # bits after the point

    def add_public(self, x: Tensor, value: int | Tensor) -> Tensor:
        """Return the share of x + value, which has the shape of x: party 0 adds it."""
        return x + value if self.index == 0 else x

    def xor_public(self, x: Tensor, value: Tensor) -> Tensor:
        """Return the share of the words x XOR value."""
        return x ^ value if self.index == 0 else x

    def encode(self, value: float, bits: int | None = None) -> int:
        """Return the nearest fixed-point integer of a public number, at `bits` bits after the point."""
        return round(ldexp(value, self.fraction if bits is None else bits))

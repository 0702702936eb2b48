"""Quantisation: clipped rows become integers, each row's integer norm is checked again, and the sum is exact.

1. A row of at most C is scaled so that C is `grid_per_clip` units, and rounded to the nearest integers.
2. Its squared norm is computed in int64 without overflow; a row above Δ becomes the null record, silently, since
   whether it happens depends on private data. (Δ leaves room for ½ unit of rounding a coordinate: it never happens
   to a clipped row.)
3. Rows are summed in int64. Only the integers are released, so the proof needs nothing about floating point.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from foedus_contract import limits
from foedus_contract.errors import InvalidInput
from foedus_workloads.privacy.clipping import row_norms

Integers = npt.NDArray[np.int64]
MAX_SENSITIVITY = 1 << 30  # a row whose float norm is at most 2Δ then has a squared norm below 2^63


def quantise_rows(clipped: npt.NDArray[np.float64], *, clip: float, grid_per_clip: int, sensitivity: int) -> Integers:
    """Return the rows in grid units as int64; a row whose integer norm exceeds `sensitivity` is all zero."""
    if not 0 < sensitivity <= MAX_SENSITIVITY:
        raise InvalidInput(
            f"the sensitivity of {sensitivity} grid units does not fit the ring",
            where="plan.privacy.gridPerClip",
            cure=f"it must be at most {MAX_SENSITIVITY}",
        )
    scaled = clipped * (grid_per_clip / clip)
    np.rint(scaled, out=scaled)
    scaled[~(row_norms(scaled) <= 2.0 * sensitivity)] = 0.0  # also NaN; what is left adds up without overflow
    integers = scaled.astype(np.int64)
    integers[np.einsum("ij,ij->i", integers, integers) > sensitivity * sensitivity] = 0
    return integers


def to_ring(values: Integers) -> npt.NDArray[np.uint32]:
    """Return integers modulo 2^32, as they are masked and sent."""
    return (values & np.int64((1 << limits.RING_BITS) - 1)).astype(np.uint32)


def from_ring(values: npt.NDArray[np.uint32]) -> Integers:
    """Return the integers in [-2^31, 2^31) that the ring's elements stand for."""
    return values.astype(np.uint32).view(np.int32).astype(np.int64)


def to_mean(total: npt.NDArray[np.uint32], *, clip: float, grid_per_clip: int, records: int) -> npt.NDArray[np.float64]:
    """Return a released sum as the mean gradient: divided by the grid and by the public number of records."""
    return from_ring(total).astype(np.float64) * (clip / grid_per_clip / records)

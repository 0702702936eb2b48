"""Noise shares: exact discrete Gaussian integers, drawn by an injected sampler.

Each silo adds its own share; n_min honest shares together have the standard deviation that the plan's ε stands for.
The sampler is an argument of whoever runs a silo, never a field of a run spec. A share and its seed are not stored.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class Sampler(Protocol):
    """Draws independent discrete Gaussian integers."""

    def __call__(self, scale: float, count: int) -> Integers:
        """Return `count` integers, each k with probability proportional to exp(-k²/(2·scale²))."""
        ...


class OpenDpSampler:
    """The production sampler: OpenDP's exact discrete Gaussian (Canonne, Kamath, Steinke 2020) on OS randomness."""

    def __call__(self, scale: float, count: int) -> Integers:
        """Return `count` integers, each k with probability proportional to exp(-k²/(2·scale²))."""
        if not (scale > 0 and np.isfinite(scale)):
            raise ValueError("the scale of noise must be positive and finite")
        release = _gaussian(scale)
        return np.array(release([0] * count), dtype=np.int64)


def _gaussian(scale: float) -> Any:
    """Return OpenDP's measurement that adds a discrete Gaussian of `scale` to each integer of a vector."""
    from opendp import domains, measurements, metrics
    from opendp.mod import enable_features

    enable_features("contrib")  # OpenDP asks for this before it gives any constructor
    space = domains.vector_domain(domains.atom_domain(T="i64")), metrics.l2_distance(T="f64")
    return measurements.make_gaussian(*space, scale)

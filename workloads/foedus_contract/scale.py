"""The scale of noise and signal in one released sum, in units of the ring's grid: told once, for engine and silos.

Symbols: n silos, n_min shares of noise that ε rests on, σ the noise multiplier, C the clip norm, G the grid units in
one clip norm, Δ the sensitivity in grid units, d the coordinates released in one round, N the records of all silos.
"""

from __future__ import annotations

import math

from foedus_contract.limits import RING_BITS

NOISE_TAIL = 8.0  # a coordinate's noise exceeds 8 standard deviations with probability below 2^-49


def sensitivity(grid_per_clip: int, coordinates: int) -> int:
    """Return Δ: the clip norm, and at most ½ rounding error in each coordinate."""
    return grid_per_clip + _rounding(coordinates)


def kappa(
    noise_multiplier: float, silos: int, min_honest: int, coordinates: int, records: int, grid_per_clip: int
) -> float:
    """Return κ = σ·√(n/n_min)·(Δ/G)·√d / N: the norm of all silos' noise in the mean gradient, over the clip norm."""
    share_of_clip = sensitivity(grid_per_clip, coordinates) / grid_per_clip
    noise = noise_multiplier * _excess(silos, min_honest) * share_of_clip
    return noise * math.sqrt(coordinates) / records


def finest_grid(noise_multiplier: float, silos: int, min_honest: int, coordinates: int, records: int) -> int:
    """Return G on the finest grid on which a sum and its noise stay inside the ring.

    A coordinate of one record is at most Δ = G + ⌈√d/2⌉, that of the noise at most 8·σ·√(n/n_min)·Δ, so
    G = ⌊(2^31 − 1) / (N + 8·σ·√(n/n_min))⌋ − ⌈√d/2⌉. A result below 1 means that no grid fits.
    """
    spread = records + NOISE_TAIL * noise_multiplier * _excess(silos, min_honest)
    half_ring: int = 2 ** (RING_BITS - 1) - 1
    return math.floor(half_ring / spread) - _rounding(coordinates)


def _rounding(coordinates: int) -> int:
    """Return what rounding adds to a row's norm at most: ½ in each coordinate, √d/2 together."""
    return math.ceil(math.sqrt(coordinates) / 2)


def _excess(silos: int, min_honest: int) -> float:
    """Return √(n/n_min): how much more noise n shares add up to than the n_min that the promise counts on."""
    return math.sqrt(silos / min_honest)

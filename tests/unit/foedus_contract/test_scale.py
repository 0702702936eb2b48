"""κ, Δ and the grid, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus_contract.scale import finest_grid, kappa


@pytest.mark.parametrize(
    ("sigma", "silos", "honest", "coordinates", "records", "grid", "expected"),
    [
        (16.7, 10, 10, 2601, 1700, 2**20, 0.501),  # the dimension rule: N = 1,700 allows d of about 2,600
        (16.7, 10, 6, 2601, 1700, 2**20, 0.6468),  # with the noise of n shares, n_min = 6
        (2.0, 4, 1, 100, 20, 2**20, 2.0),
        (2.0, 4, 1, 16_384, 2560, 64, 0.4),  # on the coarsest grid rounding doubles Δ: 64 units and √16,384 / 2
    ],
)
def test_kappa(
    sigma: float, silos: int, honest: int, coordinates: int, records: int, grid: int, expected: float
) -> None:
    assert kappa(sigma, silos, honest, coordinates, records, grid) == pytest.approx(expected, rel=1e-3)


def test_grid_of_the_documented_example() -> None:
    # (2^31 − 1) / (1780 + 8 · 17 · √(10/6)) = 1,098,133.99; ⌈√2693 / 2⌉ = 26
    assert finest_grid(17.0, 10, 6, 2693, 1780) == 1_098_133 - 26


@given(
    sigma=st.floats(0.1, 1000),
    silos=st.integers(4, 50),
    colluders=st.integers(0, 2),
    coordinates=st.integers(1, 1 << 24),
    records=st.integers(1, 5_000_000),
)
def test_sum_and_noise_never_leave_the_ring(
    sigma: float, silos: int, colluders: int, coordinates: int, records: int
) -> None:
    honest = 2 * silos // 3 + 1 - colluders
    grid = finest_grid(sigma, silos, honest, coordinates, records)
    sensitivity = grid + math.ceil(math.sqrt(coordinates) / 2)

    assert sensitivity * (records + 8 * sigma * math.sqrt(silos / honest)) < 2**31

"""Rows become integers whose norm never exceeds Δ, and the ring stands for them faithfully."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus_contract.errors import InvalidInput
from foedus_workloads.privacy.clipping import clip_rows
from foedus_workloads.privacy.quantise import MAX_SENSITIVITY, from_ring, quantise_rows, to_mean, to_ring


def quantise(rows, sensitivity=101):
    return quantise_rows(np.array(rows, dtype=np.float64), clip=0.5, grid_per_clip=100, sensitivity=sensitivity)


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ([0.5, 0.0], [100, 0]),
        ([0.0124, -0.0126], [2, -3]),
        ([0.505, 0.0], [101, 0]),  # exactly Δ
        ([0.51, 0.0], [0, 0]),  # 102 > Δ
        ([0.36, 0.36], [0, 0]),  # 72² · 2 = 10368 > 101² = 10201
        ([math.nan, 0.1], [0, 0]),
        ([math.inf, 0.1], [0, 0]),
        ([1e300, 0.1], [0, 0]),
        ([-(2.0**63), 0.0], [0, 0]),
    ],
)
def test_a_row_is_rounded_and_refused_above_the_sensitivity(row, want):
    got = quantise([row, [0.1, 0.1]])
    assert got.dtype == np.int64
    assert got.tolist() == [want, [20, 20]]


@pytest.mark.parametrize("coordinates", [2, 5, 4096])
def test_squares_do_not_overflow_at_the_largest_sensitivity(coordinates):
    largest = MAX_SENSITIVITY
    row = np.full((1, coordinates), 1.01 * largest / math.sqrt(coordinates))
    assert not quantise_rows(row, clip=1.0, grid_per_clip=1, sensitivity=largest).any()
    below = np.full((1, coordinates), math.floor(0.99 * largest / math.sqrt(coordinates)))
    assert (quantise_rows(below, clip=1.0, grid_per_clip=1, sensitivity=largest) == below).all()


@pytest.mark.parametrize("sensitivity", [0, -1, MAX_SENSITIVITY + 1])
def test_a_sensitivity_outside_the_proof_is_refused(sensitivity):
    with pytest.raises(InvalidInput, match="gridPerClip"):
        quantise([[0.1, 0.1]], sensitivity)


@given(st.integers(1, 300), st.integers(0, 2**32), st.floats(0.01, 100))
def test_a_clipped_row_always_passes_with_half_a_unit_of_room_a_coordinate(coordinates, seed, clip):
    rows = np.random.default_rng(seed).normal(size=(3, coordinates)) * clip
    clipped = clip_rows(rows, clip)
    got = quantise_rows(
        clipped, clip=clip, grid_per_clip=1000, sensitivity=1000 + math.ceil(math.sqrt(coordinates) / 2)
    )
    assert np.abs(got - clipped * (1000 / clip)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("value", "ring"), [(0, 0), (1, 1), (-1, 2**32 - 1), (2**31 - 1, 2**31 - 1), (-(2**31), 2**31), (2**32 + 7, 7)]
)
def test_the_ring_is_two_to_the_32(value, ring):
    assert to_ring(np.array([value])).tolist() == [ring]
    assert to_ring(np.array([value])).dtype == np.uint32


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1))
def test_the_ring_gives_back_what_fits(values):
    assert from_ring(to_ring(np.array(values))).tolist() == values


def test_a_sum_becomes_a_mean_by_public_numbers():
    total = to_ring(np.array([400, -200, 0]))
    assert to_mean(total, clip=0.5, grid_per_clip=100, records=20) == pytest.approx([0.1, -0.05, 0.0])

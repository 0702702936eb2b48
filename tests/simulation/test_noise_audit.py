"""What is released without any gradient is the promised noise, and builds with too little of it are caught.

`make bench NAME=audit-noise` is the same over more coordinates and silos.
"""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.audit_noise import (
    CAUGHT,
    Found,
    broken_releases,
    job_releases,
    right_releases,
    shape_chance,
    variance_chance,
)

COORDINATES = 8192  # one share of 3 missing moves the variance by a third: 21 standard errors


def test_the_promised_noise_passes() -> None:
    found = right_releases(COORDINATES, silos=5)
    assert len(found) == 4
    assert {name: each.chance for name, each in found.items() if each.chance < CAUGHT} == {}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_whole_job_without_gradients_releases_the_promised_noise(tmp_path: Path) -> None:
    right, broken = job_releases(tmp_path, rounds=8)
    assert {name: each.chance for name, each in right.items() if each.chance < CAUGHT} == {}
    assert {name: each.chance for name, each in broken.items() if each.chance >= CAUGHT} == {}
    assert [each.variance for each in broken.values()] == [pytest.approx(1 / 16, rel=0.1), 0.0]


# With five silos t is 4 and n_min 3: one share more is missing than the plan allows for.
@pytest.mark.parametrize(
    ("build", "variance"), [("σ/4", 1 / 16), ("one share missing", 2 / 3), ("noise reused on retry", 0)]
)
def test_a_broken_build_is_caught(broken: dict[str, Found], build: str, variance: float) -> None:
    assert broken[build].chance < CAUGHT
    assert broken[build].variance == pytest.approx(variance, rel=0.1)


@pytest.fixture(scope="module")
def broken() -> dict[str, Found]:
    return broken_releases(COORDINATES, silos=5)


@pytest.mark.parametrize(
    ("scale", "passes"), [(1.0, True), (0.9, False), (1.1, False)], ids=["right", "too little", "too much"]
)
def test_the_variance_test_tells_scales_apart(scale: float, passes: bool) -> None:
    drawn = np.rint(np.random.default_rng(0).normal(scale=1e6 * scale, size=20_000)).astype(np.int64)
    assert (variance_chance(drawn, 1e6) > CAUGHT) is passes
    assert (shape_chance(drawn, 1e6) > CAUGHT) is passes


def test_the_shape_test_tells_a_laplace_of_the_same_variance() -> None:
    drawn = np.rint(np.random.default_rng(0).laplace(scale=1e6 / 2**0.5, size=20_000)).astype(np.int64)
    assert shape_chance(drawn, 1e6) < CAUGHT

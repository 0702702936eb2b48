"""What is released without any gradient is the promised noise, and builds with too little of it are caught.

`make bench NAME=audit-noise` is the same over more coordinates and silos.
"""

import numpy as np
import pytest
from benchmarks.audit_noise import CAUGHT, chances, shape_chance, variance_chance

COORDINATES = 8192  # one share of 3 missing moves the variance by a third: 21 standard errors


@pytest.fixture(scope="module")
def found() -> tuple[dict[str, float], dict[str, float]]:
    return chances(COORDINATES, silos=5)


def test_the_promised_noise_passes(found) -> None:
    right, _ = found
    assert len(right) == 4
    assert min(right.values()) > CAUGHT, right


def test_every_broken_build_is_caught(found) -> None:
    _, broken = found
    assert len(broken) == 3
    assert max(broken.values()) < CAUGHT, broken


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

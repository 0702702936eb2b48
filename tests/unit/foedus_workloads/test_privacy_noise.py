"""The production sampler draws the discrete Gaussian it says, at both ends of the scale."""

import math

import numpy as np
import pytest

from foedus_workloads.privacy.noise import OpenDpSampler


def test_small_scales_have_the_discrete_gaussian_masses():
    scale, count = 0.8, 20_000
    draws = OpenDpSampler()(scale, count)
    weights = {k: math.exp(-(k**2) / (2 * scale**2)) for k in range(-9, 10)}
    for k in range(-2, 3):
        mass = weights[k] / sum(weights.values())
        # Six standard errors: a right sampler fails once in 10^8 runs.
        assert np.mean(draws == k) == pytest.approx(mass, abs=6 * math.sqrt(mass * (1 - mass) / count))


def test_the_scale_of_a_plan_is_met_without_wrapping():
    scale, count = 7.7e6, 4000
    draws = OpenDpSampler()(scale, count)
    assert draws.dtype == np.int64
    assert draws.shape == (count,)
    assert draws.std() == pytest.approx(scale, rel=6 / math.sqrt(2 * count))
    assert abs(draws.mean()) < 6 * scale / math.sqrt(count)


def test_two_draws_differ():
    sampler = OpenDpSampler()
    assert (sampler(1e6, 50) != sampler(1e6, 50)).any()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_no_noise_is_refused(scale):
    with pytest.raises(ValueError, match="positive"):
        OpenDpSampler()(scale, 3)

"""`noise: Local`: a silo's own share is all the noise that its ε needs, and the guarantee needs no mask."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2

from foedus_contract.plan import TrainingPlan
from foedus_ledger.accountants import gaussian_epsilon
from foedus_workloads.privacy.noise import OpenDpSampler
from foedus_workloads.privacy.quantise import from_ring
from foedus_workloads.secagg.effects import Released
from foedus_workloads.training.local_step import noised
from foedus_workloads.training.spending import Spending
from support.secagg_world import make_world, outcome, play
from support.training_plans import tiny_plan

COUNT = 4096
SIGMA, SENSITIVITY = 8.0, 4096 + 32  # of the tiny plan: Δ is the grid of one clip and √4096 / 2
RARE = 1e-9  # a right build fails a test this seldom


def local_plan() -> TrainingPlan:
    plan = tiny_plan("sha256:" + "0" * 64)
    return plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"noise": "Local", "min_honest": 1})})


def chances(noise, variance: float) -> tuple[float, float]:
    """The chances that noise of `variance` has so small, and so large, a sum of squares."""
    statistic = (noise.astype(float) ** 2).sum() / variance
    return chi2.cdf(statistic, len(noise)), chi2.sf(statistic, len(noise))


def test_each_silos_own_share_is_all_the_noise_and_the_sum_bears_n_of_them():
    """Every other silo and the coordinator together can take all masks away: one share is what is left."""
    plan, sampler = local_plan(), OpenDpSampler()
    world = make_world(silos=4, coordinates=COUNT)
    vectors = {name: noised(np.zeros(COUNT, dtype=np.int64), plan, sampler) for name in world.names}
    for vector in vectors.values():
        assert min(chances(from_ring(vector), (SIGMA * SENSITIVITY) ** 2)) > RARE
    released = outcome(play(replace(world, vectors=vectors)))
    assert isinstance(released, Released)
    assert min(chances(from_ring(released.total), 4 * (SIGMA * SENSITIVITY) ** 2)) > RARE


def test_a_distributed_share_alone_would_be_too_little():
    share = noised(np.zeros(COUNT, dtype=np.int64), tiny_plan("sha256:" + "0" * 64), OpenDpSampler())
    assert chances(from_ring(share), (SIGMA * SENSITIVITY) ** 2)[0] < RARE


@pytest.mark.parametrize("attempts", [1, 5])
def test_the_epsilon_told_is_the_analytic_gaussians_of_one_share(attempts: int):
    told = Spending.of(local_plan(), COUNT).epsilon(attempts)
    # μ = √attempts·Δ/scale of one share
    mu = attempts**0.5 * SENSITIVITY / local_plan().share_scale(COUNT)
    exact = gaussian_epsilon(mu, 1e-5)
    assert exact <= told <= exact + 1e-6

"""The optimiser's arithmetic on numbers worked by hand."""

import numpy as np
import pytest

from foedus_contract.plan import OptimizerPlan
from foedus_workloads.training.optimizer import ServerOptimizer

PLAN = OptimizerPlan(learning_rate=2.0, head_learning_rate=10.0, momentum=0.5)


def test_each_block_has_its_rate_and_its_velocity():
    optimizer = ServerOptimizer.fresh(PLAN, head_coordinates=1)
    optimizer, first = optimizer.step("B", np.array([1.0, -1.0, 3.0]), progress=0.0)
    assert first == pytest.approx([-2.0, 2.0, -30.0])
    optimizer, second = optimizer.step("A", np.array([4.0, 1.0]), progress=0.0)
    assert second == pytest.approx([-8.0, -25.0])  # A starts at rest, the head goes on: 0.5·3 + 1
    _, third = optimizer.step("B", np.array([0.0, 1.0, 0.0]), progress=0.0)
    assert third == pytest.approx([-1.0, -1.0, -12.5])  # B: 0.5·(1, −1) + (0, 1); head: 0.5·2.5


@pytest.mark.parametrize(("progress", "fall"), [(0.0, 1.0), (0.5, 0.6), (1.0, 0.2)])
def test_rates_fall_linearly_to_the_end_factor(progress, fall):
    plan = OptimizerPlan(learning_rate=2.0, head_learning_rate=10.0, momentum=0.0, end_factor=0.2)
    _, update = ServerOptimizer.fresh(plan, head_coordinates=1).step("B", np.array([1.0, 1.0]), progress=progress)
    assert update == pytest.approx([-2.0 * fall, -10.0 * fall])


def test_the_head_alone_is_one_block():
    _, update = ServerOptimizer.fresh(PLAN, head_coordinates=2).step("None", np.array([1.0, 2.0]), progress=0.0)
    assert update == pytest.approx([-10.0, -20.0])


def test_a_step_leaves_the_optimiser_and_its_argument_as_they_were():
    before = ServerOptimizer.fresh(PLAN, head_coordinates=1)
    mean = np.array([1.0, 1.0])
    after, _ = before.step("B", mean, progress=0.0)
    after.step("B", mean, progress=0.0)
    assert before.velocity == {}
    assert after.velocity["B"].tolist() == [1.0]
    assert mean.tolist() == [1.0, 1.0]

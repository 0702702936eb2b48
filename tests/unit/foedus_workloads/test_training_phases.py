"""Where an attempt's seconds went, from the moments at which its stages began."""

import pytest

from foedus_contract.progress import PhaseSeconds
from foedus_workloads.secagg.coordinator import CoordinatorStage as Stage
from foedus_workloads.training.phases import phase_seconds
from support.secagg_world import make_world, play

WHOLE = {Stage.SHARES: 11.0, Stage.VECTORS: 13.0, Stage.CONFIRMATIONS: 23.0, Stage.UNMASKING: 24.0}


@pytest.mark.parametrize(
    ("began", "agree", "compute", "unmask", "step"),
    [
        (WHOLE, 3, 10, 7, 2),
        ({Stage.SHARES: 11.0, Stage.VECTORS: 13.0}, 3, 17, 0, 2),  # aborted while silos computed
        ({Stage.SHARES: 11.0}, 20, 0, 0, 2),
        ({}, 20, 0, 0, 2),
    ],
)
def test_the_phases_are_the_spans_between_the_stages(
    began: dict[Stage, float], agree: float, compute: float, unmask: float, step: float
) -> None:
    want = PhaseSeconds(agree=agree, compute=compute, unmask=unmask, apply=step)
    assert phase_seconds(began, started=10.0, aggregated=30.0, finished=32.0) == want


def test_the_coordinator_knows_when_each_stage_after_the_first_began() -> None:
    began = play(make_world()).coordinator.began
    assert began == {Stage.SHARES: 1.0, Stage.VECTORS: 2.0, Stage.CONFIRMATIONS: 3.0, Stage.UNMASKING: 4.0}

"""What is said of pods that cannot be started, and whether the job's clock runs meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from foedus_engine.decide.events import EVENT_REASONS
from foedus_engine.decide.observed import Observed, Trouble
from foedus_engine.decide.plan import Plan
from foedus_engine.decide.training import decide_training
from support.brain import NOW, SILOS, job, jobs, meta, reserved, started

GPU = Trouble("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
PULL = Trouble("ImagePullFailed", "ErrImagePull: not found")
SINCE = {"phase": "Preparing", "startTime": "2026-03-01T10:00:00Z"}  # two hours ago
JOINING = {**SINCE, "joinStartTime": "2026-03-01T11:59:00Z"}


def world(up: int, troubles: dict[str, Trouble], status: dict[str, Any] = SINCE, **changes: Any) -> Observed:
    """Return the world in which the first `up` silos have a process."""
    names = frozenset(f"demo-{silo}" for silo in SILOS[:up])
    observed = {"started": names, "children": jobs(), "troubles": troubles, "meta": meta(dict(status))}
    return reserved(**(observed | changes))


def decide(observed: Observed, **spec: Any) -> Plan:
    return decide_training(job(**spec), observed, now=NOW)


def ready(plan: Plan) -> tuple[str, str, str]:
    assert plan.status is not None
    found = next(each for each in plan.status["conditions"] if each["type"] == "Ready")
    return plan.status["phase"], found["reason"], plan.status["message"]


@pytest.mark.parametrize(
    ("observed", "phase", "reason", "says"),
    [
        (world(0, {"demo-silo-1": GPU}), "Pending", "Unschedulable", "silo silo-1: 0/3 nodes are available: 3 Insuff"),
        (world(0, {"demo-silo-2": PULL, "demo-silo-3": GPU}), "Pending", "ImagePullFailed", "silo silo-2 and 1 more: "),
        (world(2, {"demo-silo-4": GPU}), "Pending", "Unschedulable", "silo silo-4"),
        (world(3, {"demo-silo-4": GPU}), "Preparing", "Preparing", "silo silo-4: 0/3 nodes"),  # three are a quorum
        (world(4, {"demo-coordinator": PULL}), "Pending", "ImagePullFailed", "the coordinator: ErrImagePull"),
        (world(0, {}), "Preparing", "Preparing", "silos load the model and join"),
        (world(4, {"demo-silo-4": GPU}, progress=(started(),)), "Training", "Training", "silo silo-4: 0/3 nodes"),
    ],
)
def test_a_pod_that_cannot_be_started_is_said(observed: Observed, phase: str, reason: str, says: str) -> None:
    found = ready(decide(observed))

    assert found[:2] == (phase, reason)
    assert found[2].startswith(says)


@pytest.mark.parametrize(
    ("observed", "failed"),
    [
        (world(0, {"demo-silo-1": GPU}), False),  # two hours without a node are no want of silos
        (world(2, {}), False),
        (world(4, {}), False),
        (world(4, {}, JOINING), False),
        (world(4, {}, {**JOINING, "joinStartTime": "2026-03-01T11:57:30Z"}), True),  # half of joinTimeout = 5 min
    ],
)
def test_silos_have_their_time_from_when_a_quorum_has_a_process(observed: Observed, failed: bool) -> None:
    status = decide(observed).status
    assert status is not None
    assert (status["phase"] == "Failed") is failed


def test_a_deadline_holds_while_pods_wait_as_in_batch() -> None:
    plan = decide(world(0, {"demo-silo-1": GPU}), activeDeadlineSeconds=3600)

    assert ready(plan)[:2] == ("Failed", "DeadlineExceeded")


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ({}, [("Warning", "Unschedulable")]),
        ({"conditions": [{"type": "Ready", "status": "False", "reason": "Preparing"}]}, [("Warning", "Unschedulable")]),
        ({"conditions": [{"type": "Ready", "status": "False", "reason": "Unschedulable"}]}, []),
    ],
)
def test_an_event_tells_of_a_change_once(before: dict[str, Any], told: list[tuple[str, str]]) -> None:
    plan = decide(world(0, {"demo-silo-1": GPU}, SINCE | before))

    assert [(event.kind, event.reason) for event in plan.events] == told
    assert {event.reason for event in plan.events} <= EVENT_REASONS

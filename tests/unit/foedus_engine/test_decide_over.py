"""What should happen to a training job that is over, or whose plan cannot be made again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from foedus_contract.errors import InvalidInput
from foedus_contract.progress import TrainingResult
from foedus_engine.decide.observed import (
    ChildView,
    LedgerFault,
    ModelView,
    Observed,
)
from foedus_engine.decide.over import decide_rest
from foedus_engine.decide.plan import Close, ObjectKey, Plan, key_of
from foedus_engine.decide.training import decide_invalid
from support.brain import (
    ACCOUNT,
    MODEL,
    NOW,
    SILOS,
    budget,
    condition,
    decide,
    fresh,
    job,
    jobs,
    message,
    meta,
    reserved,
    running,
    without,
)

FOREIGN_SERVICE = ObjectKey("v1", "Service", "team-a", "demo-coordinator")
AWAY = LedgerFault("silo silo-3: PrivacyBudget team-a/budget-silo-3: no answer", reason="Unavailable")
DONE = {"completionTime": "2026-03-01T12:00:00Z", "conditions": [{"type": "Complete", "status": "True"}]}
LEFT = {**jobs(coordinator="Complete"), ("PersistentVolumeClaim", "demo-coordinator-output"): ChildView("u")}
CLOSED = replace(ACCOUNT, state="Closed")
OUTPUT = {("PersistentVolumeClaim", "demo-coordinator-output"): ChildView("u")}
ENDED = OUTPUT | jobs(coordinator="Complete", **dict.fromkeys(("silo_1", "silo_2", "silo_3", "silo_4"), "Complete"))


def closed(children: dict[tuple[str, str], ChildView]) -> Observed:
    return reserved(budgets={silo: budget(silo, CLOSED) for silo in SILOS}, children=children)


@pytest.mark.parametrize("condition_type", ["Complete", "Failed"])
def test_a_terminal_state_is_never_left(condition_type: str) -> None:
    over = meta({**DONE, "conditions": [{"type": condition_type, "status": "True"}]})
    plan = decide(running(meta=over, result=TrainingResult(outcome="Failed")), activeDeadlineSeconds=1)

    assert (plan.status, plan.apply, plan.ensure) == (None, (), ())
    assert [type(step) for step in plan.ledger] == [Close] * 4


@pytest.mark.parametrize(
    ("later", "ttl", "deleted", "requeue"),
    [
        (0, None, 0, 30.0),
        (30, None, 4, 15.0),  # silos that did not leave
        (0, 10, 0, 10.0),
        (10, 10, 5, 15.0),  # every child but the claim with the adapter
    ],
)
def test_clears_up_after_the_end(later: float, ttl: int | None, deleted: int, requeue: float | None) -> None:
    plan = decide(replace(closed(LEFT), meta=meta(DONE)), later=later, ttlSecondsAfterFinished=ttl)

    assert (len(plan.delete), plan.requeue_seconds) == (deleted, requeue)
    assert "demo-coordinator-output" not in {key.name for key in plan.delete}


@pytest.mark.parametrize(
    ("world", "later", "ttl", "settles", "requeue"),
    [
        (closed(ENDED), 0, None, True, None),
        (closed(ENDED), 0, 60, True, 60.0),  # until it is time to clear up
        (closed(ENDED), 60, 60, False, 15.0),
        (closed(OUTPUT), 60, 60, True, None),
        (closed(LEFT), 0, None, False, 30.0),  # silos may still leave
        (reserved(children=ENDED), 0, None, False, 15.0),  # accounts are open
        (replace(closed(ENDED), ledger_faults={"silo-3": AWAY}), 0, None, False, 15.0),
    ],
)
def test_a_job_that_is_over_is_settled_once_nothing_is_left_to_do(
    world: Observed, later: float, ttl: int | None, settles: bool, requeue: float | None
) -> None:
    plan = decide(replace(world, meta=meta(DONE)), later=later, ttlSecondsAfterFinished=ttl)
    settled = {**DONE, "settledTime": f"2026-03-01T12:0{later // 60}:00Z"}
    assert (plan.status, plan.requeue_seconds) == (settled if settles else None, requeue)


@pytest.mark.parametrize(
    ("said", "ttl", "want"),
    [
        ({}, None, "2026-03-01T12:01:30Z"),
        ({"settledTime": "2026-03-01T12:00:30Z"}, None, None),  # said once, and not again with each look
        ({"settledTime": "2026-03-01T12:00:30Z"}, 600, None),
        ({"settledTime": "2026-03-01T12:00:30Z"}, 60, "2026-03-01T12:01:30Z"),  # its children have gone since
        ({"settledTime": "2026-03-01T12:01:10Z"}, 60, None),
    ],
)
def test_that_a_job_is_settled_is_said_once(said: dict[str, str], ttl: int | None, want: str | None) -> None:
    plan = decide(replace(closed(OUTPUT), meta=meta(DONE | said)), later=90, ttlSecondsAfterFinished=ttl)
    assert (plan.status or {}).get("settledTime") == want


@pytest.mark.parametrize(
    ("status", "ttl", "later", "want"),
    [
        (DONE, None, 0, None),  # what belongs to it is to be read
        ({**DONE, "settledTime": "2026-03-01T12:00:30Z"}, None, 0, Plan()),
        ({**DONE, "settledTime": "2026-03-01T12:00:30Z"}, 60, 50, Plan(requeue_seconds=10.0)),
        ({**DONE, "settledTime": "2026-03-01T12:00:30Z"}, 60, 60, None),
        ({**DONE, "settledTime": "2026-03-01T12:01:00Z"}, 60, 60, Plan()),  # its children are gone, too
        ({"settledTime": "2026-03-01T12:01:00Z"}, None, 0, None),  # it is not over
    ],
)
def test_a_settled_job_rests_until_it_is_time_to_clear_up(
    status: dict[str, Any], ttl: int | None, later: int, want: Plan | None
) -> None:
    found = decide_rest(job(ttlSecondsAfterFinished=ttl), meta(status), NOW + timedelta(seconds=later))
    assert found == want


@pytest.mark.parametrize(
    "change", [{"model": ModelView(problem="gone")}, {"model": replace(MODEL, digest="sha256:" + "cd" * 32)}]
)
def test_running_processes_are_left_alone_when_the_plan_cannot_be_made_again(change: dict[str, Any]) -> None:
    first = decide(running())
    assert first.status is not None
    plan = decide(running(meta=meta(dict(first.status)), **change))

    assert (plan.ensure, plan.delete, plan.ledger) == ((), (), ())
    assert "ConfigMap" not in {made["kind"] for made in plan.apply}
    assert plan.status is not None
    assert plan.status["plan"] == first.status["plan"]


@pytest.mark.parametrize("change", [{"model": ModelView(problem="gone")}, {"foreign": (FOREIGN_SERVICE,)}])
def test_processes_whose_plan_cannot_be_made_again_can_still_be_suspended(change: dict[str, Any]) -> None:
    plan = decide(running(**change), suspend=True)

    assert {made["spec"]["suspend"] for made in plan.apply if made["kind"] == "Job"} == {True}
    foreign = change.get("foreign", ())
    assert not [made for made in plan.apply if key_of(made) in foreign]


def test_an_unreadable_object_is_refused_and_not_tried_again() -> None:
    plan = decide_invalid(meta(), InvalidInput("unknown field", where="spec.lorra", cure="remove it"), now=NOW)

    assert condition(plan, "Accepted") == ("False", "InvalidSpec")
    assert message(plan) == "spec.lorra: unknown field; remove it"
    assert plan.requeue_seconds is None


def test_conditions_keep_their_time_until_their_status_changes() -> None:
    first = decide(fresh(budgets=without("silo-1"))).status
    assert first is not None
    second = decide(fresh(meta=meta(dict(first)), budgets=without("silo-2")), later=60).status
    assert second is not None
    third = decide(fresh(meta=meta(dict(second))), later=120).status
    assert third is not None
    times = [status["conditions"][0]["lastTransitionTime"] for status in (first, second, third)]

    assert times == ["2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z", "2026-03-01T12:02:00Z"]

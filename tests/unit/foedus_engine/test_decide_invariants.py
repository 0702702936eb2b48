"""What holds in whatever state a training job and its world are found."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from foedus_contract.progress import TrainingResult
from foedus_engine.api.training_status import FederatedTrainingJobStatus
from foedus_engine.decide.conditions import is_true, timestamp
from foedus_engine.decide.ending import is_terminal
from foedus_engine.decide.observed import ChildView, ModelView, Observed, Unplannable
from foedus_engine.decide.plan import Close, Plan, Reserve
from foedus_engine.decide.training import decide_training
from support.brain import ACCOUNT, CALIBRATED, MODEL, NOW, SILOS, budget, finished_round, job, meta, started

ACCOUNTS = st.sampled_from([None, ACCOUNT, ACCOUNT, replace(ACCOUNT, state="Closed")])
CHILD = st.sampled_from([None, ChildView("u"), ChildView("u", finished="Failed"), ChildView("u", finished="Complete")])
ROLES = ("coordinator", *SILOS)


@st.composite
def worlds(draw: st.DrawFn) -> Observed:
    """Any mixture of budgets, accounts, Jobs, identities, progress and results."""
    jobs = {("Job", f"demo-{role}"): draw(CHILD) for role in ROLES}
    rounds = draw(st.integers(0, 3))
    status: dict[str, Any] = draw(st.sampled_from([{}, {"startTime": "2026-03-01T11:59:00Z", "epsilonSpent": 0.25}]))
    return Observed(
        meta(status),
        budgets={silo: budget(silo, draw(ACCOUNTS)) if draw(st.booleans()) or rounds else None for silo in SILOS},
        model=draw(st.sampled_from([MODEL, MODEL, ModelView(problem="gone")])),
        calibration=draw(st.sampled_from([CALIBRATED, CALIBRATED, Unplannable("BudgetInsufficient", "no"), None])),
        children={key: child for key, child in jobs.items() if child is not None},
        identities=dict.fromkeys(draw(st.sets(st.sampled_from(SILOS))), b"k" * 32),
        progress=(started(), *(finished_round(n, 0.1 * (n + 1)) for n in range(rounds))) if rounds else (),
        result=draw(
            st.sampled_from([None, None, TrainingResult(outcome="Complete"), TrainingResult(outcome="Failed")])
        ),
    )


def decide(world: Observed, later: float) -> Plan:
    limits = {"activeDeadlineSeconds": 600, "ttlSecondsAfterFinished": 3600}
    return decide_training(job(**limits), world, now=NOW + timedelta(seconds=later))


@settings(deadline=None, max_examples=60)
@given(world=worlds(), later=st.sampled_from([0.0, 100.0, 1000.0]))
def test_no_process_without_every_reservation_and_no_half_reservation(world: Observed, later: float) -> None:
    plan = decide(world, later)
    accounts = [view.account if view else None for view in world.budgets.values()]

    new = [each for each in plan.apply if (each["kind"], each["metadata"]["name"]) not in world.children]
    if plan.ensure or any(each["kind"] == "Job" for each in new):
        assert all(account is not None and account.state == "Open" for account in accounts)
    kinds = {type(step) for step in plan.ledger}
    assert kinds in (set(), {Reserve}, {Close})
    if kinds == {Reserve}:
        assert len(plan.ledger) + sum(account is not None for account in accounts) == len(SILOS)
    assert [step.budget for step in plan.ledger] == sorted(step.budget for step in plan.ledger)


@settings(deadline=None, max_examples=60)
@given(world=worlds(), later=st.sampled_from([0.0, 100.0, 1000.0]))
def test_every_status_is_valid_and_ready_only_when_complete(world: Observed, later: float) -> None:
    plan = decide(world, later)

    assert plan.status is not None
    status = FederatedTrainingJobStatus.model_validate(plan.status)
    assert status.observed_generation == 1
    ready = next(condition for condition in status.conditions if condition.type == "Ready")
    assert (ready.status == "True") is (status.phase == "Complete")
    assert status.epsilon_spent is None or status.epsilon_spent >= world.meta.status.get("epsilonSpent", 0.0)


@settings(deadline=None, max_examples=60)
@given(first=worlds(), second=worlds(), later=st.sampled_from([0.0, 100.0, 5000.0]))
def test_an_ended_job_stays_ended_whatever_is_seen_next(first: Observed, second: Observed, later: float) -> None:
    ended = decide(first, 0.0).status
    assert ended is not None
    plan = decide(replace(second, meta=meta(dict(ended))), later)

    if is_terminal(ended):
        assert (plan.apply, plan.ensure) == ((), ())
        assert plan.status in (None, {**ended, "settledTime": timestamp(NOW + timedelta(seconds=later))})
        assert plan.status is None or (plan.ledger, plan.delete) == ((), ())
        assert {type(step) for step in plan.ledger} <= {Close}
    assert not (is_true(ended, "Complete") and is_true(ended, "Failed"))  # type: ignore[arg-type]

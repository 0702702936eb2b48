"""What should happen to a training job whose processes run, and with what reason it ends."""

from __future__ import annotations

from typing import Any

import pytest

from foedus_contract.exit_codes import ExitCode
from foedus_contract.progress import ProcessFailed, TrainingResult
from foedus_engine.decide.observed import (
    ChildView,
    Observed,
)
from foedus_engine.decide.plan import Close
from support.brain import (
    SILOS,
    condition,
    decide,
    finished_round,
    jobs,
    message,
    meta,
    running,
    started,
)

KEYS = {silo: bytes([number]) * 32 for number, silo in enumerate(SILOS, 1)}


@pytest.mark.parametrize(
    ("identities", "later", "children", "pinned"),
    [
        (SILOS[:3], 0, jobs(), None),  # one may still come
        (SILOS, 0, jobs(), SILOS),
        (SILOS[:3], 90, jobs(), SILOS[:3]),  # half of joinTimeout = 5 min has passed since startTime
        (SILOS[:3], 89, jobs(), None),
        (SILOS[:3], 0, jobs(silo_4="Failed"), SILOS[:3]),  # nobody is left to wait for
    ],
)
def test_pins_identities_when_all_have_come_or_time_is_up(
    identities: tuple[str, ...], later: float, children: dict[Any, ChildView], pinned: tuple[str, ...] | None
) -> None:
    plan = decide(running(identities={silo: KEYS[silo] for silo in identities}, children=children), later=later)
    policies = [ensure.manifest for ensure in plan.ensure if ensure.manifest["metadata"]["name"] == "demo-policy"]

    assert (
        [silo for silo in SILOS if silo in policies[0]["data"]["policy.json"]] == list(pinned)
        if pinned
        else not policies
    )


def test_a_policy_is_never_made_again() -> None:
    children = jobs() | {("ConfigMap", "demo-policy"): ChildView("uid")}
    plan = decide(running(identities=KEYS, children=children), later=3600)

    assert "demo-policy" not in {ensure.manifest["metadata"]["name"] for ensure in plan.ensure}


@pytest.mark.parametrize(
    ("observed", "later", "spec", "reason", "says"),
    [
        (running(children=jobs(silo_1="Failed", silo_2="Failed")), 0, {}, "QuorumLost", "2 of 4 silos failed"),
        (
            running(
                identities=KEYS,
                children=jobs(silo_1="Failed", silo_2="Failed")
                | {("ConfigMap", "demo-policy"): ChildView("uid-policy")},
            ),
            0,
            {},
            "QuorumLost",
            "2 of 4 silos failed",
        ),
        (running(identities=dict(list(KEYS.items())[:2])), 90, {}, "QuorumLost", "only 2 of 4 silos"),
        (running(children=jobs(coordinator="Failed")), 0, {}, "CoordinatorFailed", "without a result"),
        (running(children=jobs(coordinator="Complete")), 0, {}, "CoordinatorFailed", "without a result"),
        (running(), 0, {"activeDeadlineSeconds": 60}, "DeadlineExceeded", "60 s"),
    ],
)
def test_fails_with_a_reason_stops_its_jobs_and_closes_its_accounts(
    observed: Observed, later: float, spec: dict[str, Any], reason: str, says: str
) -> None:
    plan = decide(observed, later=later, **spec)

    assert condition(plan, "Failed") == ("True", reason)
    assert condition(plan, "Ready") == ("False", reason)
    assert says in message(plan)
    assert [type(step) for step in plan.ledger] == [Close] * 4
    unfinished = {name for (kind, name), child in observed.children.items() if kind == "Job" and not child.finished}
    assert {key.name for key in plan.delete} == unfinished
    assert all(key.uid.startswith("uid-") for key in plan.delete)


def test_a_lost_quorum_names_the_first_silo_and_its_reason() -> None:
    failures = {"silo-1": ProcessFailed(code=11, message="the data is not what the budget covers")}
    plan = decide(running(children=jobs(silo_1="Failed", silo_2="Failed"), failures=failures))

    assert message(plan).endswith("silo-1: the data is not what the budget covers")


def test_the_deadline_has_not_passed_a_second_before() -> None:
    assert condition(decide(running(), activeDeadlineSeconds=61), "Ready") == ("False", "Preparing")


def test_progress_shows_rounds_silos_and_epsilon() -> None:
    events = (
        started(),
        finished_round(0, 0.3),
        finished_round(1, 0.4, applied=False),
        finished_round(1, 0.5, survivors=3),
    )
    plan = decide(running(progress=events))

    assert plan.status is not None
    shown = {key: plan.status[key] for key in ("phase", "round", "rounds", "clients", "epsilonSpent", "epsilonLimit")}
    assert shown == {
        "phase": "Training",
        "round": 2,
        "rounds": 3,
        "clients": "3/4",
        "epsilonSpent": 0.5,
        "epsilonLimit": 1.0,
    }
    assert condition(plan, "QuorumReached") == ("True", "SilosJoined")


def test_the_code_that_runs_is_named_by_its_digest_and_stays_named() -> None:
    code = "sha256:" + "c" * 64
    told = started().model_copy(update={"code_digest": code})
    for before, progress in (({}, (told,)), ({"codeDigest": code}, ()), ({"codeDigest": "sha256:older"}, (told,))):
        plan = decide(running(meta=meta({"phase": "Training", **before}), progress=progress))
        assert plan.status is not None
        assert plan.status["codeDigest"] == code
    plan = decide(running(progress=(started(),)))
    assert plan.status is not None
    assert "codeDigest" not in plan.status


def test_rounds_and_epsilon_spent_never_fall() -> None:
    before = meta({"phase": "Training", "round": 2, "epsilonSpent": 0.7, "startTime": "2026-03-01T11:59:00Z"})
    plan = decide(running(meta=before, progress=(started(), finished_round(0, 0.3))))

    assert plan.status is not None
    assert (plan.status["round"], plan.status["epsilonSpent"]) == (2, 0.7)


@pytest.mark.parametrize(
    ("result", "kind", "reason", "ready"),
    [
        (TrainingResult(outcome="Complete", rounds=3, attempts=3), "Complete", "AllRounds", "True"),
        (TrainingResult(outcome="EndedEarly", rounds=2, attempts=4), "Complete", "EndedEarly", "True"),
        (TrainingResult(outcome="Failed", code=ExitCode.QUORUM_LOST), "Failed", "QuorumLost", "False"),
        (TrainingResult(outcome="Failed", code=ExitCode.INVALID_MODEL), "Failed", "InvalidModel", "False"),
        (TrainingResult(outcome="Failed", code=ExitCode.INTERNAL), "Failed", "CoordinatorFailed", "False"),
    ],
)
def test_a_result_ends_the_job(result: TrainingResult, kind: str, reason: str, ready: str) -> None:
    plan = decide(running(result=result, children=jobs(coordinator="Complete")))

    assert condition(plan, kind) == ("True", reason)
    assert condition(plan, "Ready")[0] == ready
    assert [type(step) for step in plan.ledger] == [Close] * 4
    assert plan.delete == ()  # the silos were told and leave by themselves
    assert plan.status is not None
    assert plan.status["result"]["outcome"] == result.outcome
    assert plan.status["completionTime"] == "2026-03-01T12:00:00Z"

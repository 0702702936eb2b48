"""What should happen to a training job until its processes run, state by state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from foedus_contract.progress import TrainingResult
from foedus_contract.wire import LedgerHead
from foedus_engine.decide.observed import (
    AccountView,
    Calibrated,
    ChildView,
    LedgerFault,
    ModelView,
    Observed,
    Unplannable,
)
from foedus_engine.decide.plan import BudgetKey, Close, KeepHead, ObjectKey, Reserve, key_of
from support.brain import (
    ACCOUNT,
    CALIBRATED,
    MODEL,
    SILOS,
    UID,
    budget,
    condition,
    decide,
    finished_round,
    fresh,
    jobs,
    message,
    meta,
    reserved,
    running,
    started,
    without,
)

FOREIGN = ObjectKey("v1", "Secret", "team-a", "demo-ca")
SHORT = Unplannable("BudgetInsufficient", "PrivacyBudget team-a/b: nothing left")
LARGE = replace(CALIBRATED, noise_multiplier=400.0, fresh_noise_multiplier=400.0)


@pytest.mark.parametrize(
    ("observed", "spec", "kind", "reason", "says"),
    [
        (fresh(foreign=(FOREIGN,)), {}, "Accepted", "Pending", "Secret team-a/demo-ca belongs to another object"),
        (fresh(budgets=without("silo-3")), {}, "Accepted", "BudgetNotFound", "foedus budget create budget-silo-3"),
        (fresh(budgets=without("silo-3")), {}, "Accepted", "BudgetNotFound", "silo silo-3"),
        (
            fresh(budgets={silo: replace(budget(silo), accounts=1000) for silo in SILOS}),
            {},
            "BudgetAvailable",
            "BudgetInsufficient",
            "PrivacyBudget team-a/budget-silo-1 holds the accounts of 1000 jobs and has no room for another; ask its",
        ),
        (
            fresh(budgets={silo: replace(budget(silo), digest=MODEL.digest) for silo in SILOS}),
            {},
            "Accepted",
            "InvalidData",
            "silos silo-1 and silo-2 hold the same data",
        ),
        (
            fresh(budgets={silo: replace(budget(silo), labels=("yes", "maybe")) for silo in SILOS}),
            {},
            "Accepted",
            "InvalidSpec",
            "spec.model.labels: 'maybe' is missing, which PrivacyBudget team-a/budget-silo-1 declares",
        ),
        (
            fresh(budgets={silo: replace(budget(silo), labels=()) for silo in SILOS}),
            {},
            "Accepted",
            "InvalidData",
            "silo silo-1: PrivacyBudget team-a/budget-silo-1 declares no labels",
        ),
        (
            fresh(),
            {"aggregation": {"colluders": 0}},
            "Accepted",
            "InvalidSpec",
            "0 are assumed, PrivacyBudget team-a/budget-silo-1 of silo-1 asks for at least 1",
        ),
        (fresh(), {"privacy": {"delta": 0.0005}}, "Accepted", "DeltaTooLarge", "below 1/N = 0.0005 for the 2000"),
        (fresh(model=ModelView(problem="m: no config.json; x")), {}, "Accepted", "InvalidModel", "no config.json"),
        (fresh(model=replace(MODEL, positions=32)), {}, "Accepted", "InvalidModel", "64 tokens are asked for"),
        (
            fresh(),
            {"lora": {"rank": 1, "alpha": 1, "targetModules": ["q_proj"]}},
            "Accepted",
            "InvalidModel",
            "'q_proj' is no linear layer",
        ),
        (
            fresh(),
            {"lora": {"rank": 1, "alpha": 1, "targetModules": ["query"], "lastLayers": 3}},
            "Accepted",
            "InvalidModel",
            "3 is more than the 2 layers",
        ),
        (fresh(calibration=None), {}, "Accepted", "Unplannable", "not been calibrated"),
        (fresh(calibration=Unplannable("Unplannable", "no σ")), {}, "Accepted", "Unplannable", "no σ"),
        (fresh(calibration=SHORT), {}, "BudgetAvailable", "BudgetInsufficient", "nothing left"),
        (fresh(calibration=LARGE), {}, "Accepted", "Unplannable", "3.22 times the clip norm"),
        (
            fresh(calibration=replace(LARGE, fresh_noise_multiplier=20.0, tightest="team-a/budget-silo-2")),
            {},
            "BudgetAvailable",
            "BudgetInsufficient",
            "PrivacyBudget team-a/budget-silo-2: with what other jobs have left",
        ),
    ],
)
def test_first_failure_is_the_reason_and_nothing_is_made(
    observed: Observed, spec: dict[str, Any], kind: str, reason: str, says: str
) -> None:
    plan = decide(observed, **spec)

    assert condition(plan, kind) == ("False", reason)
    assert condition(plan, "Ready") == ("False", reason)
    assert says in message(plan)
    assert (plan.ledger, plan.apply, plan.ensure, plan.delete) == ((), (), (), ())


DAMAGED = LedgerFault("silo silo-3: PrivacyBudget team-a/budget-silo-3: the ledger cannot be trusted", reason="Damaged")
AWAY, BEHIND = replace(DAMAGED, reason="Unavailable"), replace(DAMAGED, reason="Behind")


@pytest.mark.parametrize(
    ("least", "spec"),
    [(1, {}), (0, {"aggregation": {"colluders": 0}}), (9, {"privacy": {"noise": "Local"}})],
)
def test_as_many_colluders_as_the_holders_ask_for_are_enough(least: int, spec: dict[str, Any]) -> None:
    budgets = {silo: replace(budget(silo), least_colluders=least) for silo in SILOS}
    assert condition(decide(fresh(budgets=budgets), **spec), "Accepted")[0] == "True"


@pytest.mark.parametrize(
    ("fault", "reason"), [(DAMAGED, "BudgetRefused"), (AWAY, "LedgerUnavailable"), (BEHIND, "LedgerBehind")]
)
@pytest.mark.parametrize("account", [None, ACCOUNT])
def test_a_ledger_that_cannot_be_read_is_a_condition_and_reservations_stand(
    fault: LedgerFault, reason: str, account: AccountView | None
) -> None:
    budgets = {silo: None if silo == "silo-3" else budget(silo, account) for silo in SILOS}
    plan = decide(fresh(budgets=budgets, ledger_faults={"silo-3": fault}, calibration=None))

    assert condition(plan, "BudgetAvailable") == ("False", reason)
    assert condition(plan, "Ready") == ("False", reason)
    assert "PrivacyBudget team-a/budget-silo-3" in message(plan)
    assert (plan.ledger, plan.apply, plan.ensure, plan.delete) == ((), (), (), ())
    assert plan.requeue_seconds == 15.0


@pytest.mark.parametrize("world", [fresh, running])
def test_what_shows_an_old_copy_of_a_ledger_is_kept(world: Any) -> None:
    digest = "sha256:" + "0" * 64
    head = LedgerHead(dataset=digest, count=7, hash=digest, signature=b"s" * 64)
    keep = KeepHead(BudgetKey("team-a", "budget-silo-3"), head)
    plan = decide(world(ledger_faults={"silo-3": replace(BEHIND, keep=keep), "silo-1": AWAY}))

    assert plan.ledger == (keep,)


def test_a_ledger_that_is_lost_while_processes_run_is_said_and_they_run_on() -> None:
    plan = decide(running(ledger_faults={"silo-3": DAMAGED}))

    assert condition(plan, "BudgetAvailable") == ("Unknown", "BudgetRefused")
    assert message(plan) == DAMAGED.message
    assert plan.delete == ()


@pytest.mark.parametrize("ttl", [{}, {"ttlSecondsAfterFinished": 0}])
def test_what_is_open_in_a_ledger_that_cannot_be_read_is_not_forgotten(ttl: dict[str, int]) -> None:
    over = decide(running(result=TrainingResult(outcome="Complete"))).status
    assert over is not None
    plan = decide(reserved(meta=meta(dict(over)), ledger_faults={"silo-3": AWAY}), later=100.0, **ttl)

    assert plan.requeue_seconds == 15.0


@pytest.mark.parametrize(
    ("calibration", "holders", "says"),
    [
        (SHORT, ("team-a/earlier",), "; held open by job team-a/earlier: wait until it ends, or delete it"),
        (SHORT, (), "nothing left"),
        (SHORT, ("a/1", "a/2", "a/3", "a/4"), "; held open by job a/1, a/2, a/3 and others: wait"),
        (
            replace(LARGE, fresh_noise_multiplier=20.0, tightest="team-a/budget-silo-2"),
            ("team-a/earlier",),
            "ask its holder for a new budget; held open by job team-a/earlier: wait",
        ),
        (replace(LARGE, fresh_noise_multiplier=20.0, tightest="team-a/budget-silo-2"), (), "for a new budget"),
        (replace(LARGE, fresh_noise_multiplier=20.0, tightest="team-a/budget-silo-1"), ("x/y",), "for a new budget"),
    ],
)
def test_a_refusal_for_want_of_budget_names_who_holds_it(
    calibration: Calibrated | Unplannable, holders: tuple[str, ...], says: str
) -> None:
    budgets = {silo: replace(budget(silo), holders=holders if silo == "silo-2" else ()) for silo in SILOS}
    said = message(decide(fresh(budgets=budgets, calibration=calibration)))

    assert says in said
    assert ("held open" in said) is ("held open" in says)


def test_delta_just_below_one_record_in_all_is_accepted() -> None:
    assert condition(decide(fresh(), privacy={"delta": 0.000499}), "Accepted") == ("True", "Accepted")


def test_reserves_on_every_silo_in_name_order_before_anything_is_made() -> None:
    plan = decide(fresh())

    assert [str(step.budget) for step in plan.ledger] == [f"team-a/budget-{silo}" for silo in SILOS]
    assert {(type(step), step.job_uid) for step in plan.ledger} == {(Reserve, UID)}
    assert {(step.count, step.mechanism.noise_multiplier) for step in plan.ledger} == {(4, 20.0)}  # type: ignore[union-attr]
    assert (plan.apply, plan.ensure, plan.requeue_seconds) == ((), (), 0.0)


@pytest.mark.parametrize(
    ("noise", "honest", "adversary"),
    [
        ("Distributed", 2, "coordinator assumed honest but curious, plus 1 silo telling it everything"),
        ("Local", 1, "the coordinator and all other silos together, whatever they do"),
    ],
)
def test_the_status_names_the_adversary_of_the_plan(noise: str, honest: int, adversary: str) -> None:
    told = decide(fresh(), privacy={"noise": noise}).status["plan"]
    assert (told["minHonest"], told["adversary"]) == (honest, adversary)


def test_completes_a_reservation_that_a_crash_cut_short() -> None:
    partly = {silo: budget(silo, ACCOUNT if silo < "silo-3" else None) for silo in SILOS}

    assert [step.budget.name for step in decide(fresh(budgets=partly)).ledger] == ["budget-silo-3", "budget-silo-4"]


def test_gives_a_partial_reservation_back_when_the_rest_does_not_fit() -> None:
    partly = {silo: budget(silo, ACCOUNT if silo < "silo-3" else None) for silo in SILOS}
    plan = decide(fresh(budgets=partly, calibration=SHORT))

    assert [(type(step), step.budget.name) for step in plan.ledger] == [
        (Close, "budget-silo-1"),
        (Close, "budget-silo-2"),
    ]
    assert condition(plan, "Failed") == ("True", "BudgetInsufficient")


def test_a_reservation_of_another_plan_is_not_used() -> None:
    other = {silo: budget(silo, replace(ACCOUNT, reserved=9)) for silo in SILOS}

    assert condition(decide(fresh(budgets=other)), "Failed") == ("True", "BudgetRefused")


def test_a_reservation_that_was_taken_back_ends_the_job() -> None:
    closed = {silo: budget(silo, replace(ACCOUNT, state="Closed") if silo == "silo-1" else None) for silo in SILOS}

    assert condition(decide(fresh(budgets=closed)), "Failed") == ("True", "BudgetInsufficient")


@pytest.mark.parametrize(("sigma", "events"), [(60.0, ()), (64.0, ("NoisyPlan",))])
def test_warns_when_noise_is_half_the_clip_norm(sigma: float, events: tuple[str, ...]) -> None:
    # d = 64 + 66 = 130, n/n_min = 4/2, N = 2000: κ = σ · 0.00806, so 0.484 at 60 and 0.516 at 64
    plan = decide(fresh(calibration=replace(CALIBRATED, noise_multiplier=sigma)))

    assert tuple(event.reason for event in plan.events) == events


def test_makes_all_children_once_every_silo_has_reserved() -> None:
    plan = decide(reserved())

    assert plan.status is not None
    assert plan.status["phase"] == "Preparing"
    assert plan.status["startTime"] == "2026-03-01T12:00:00Z"
    assert plan.status["epsilonSpent"] == 0.0
    assert condition(plan, "BudgetAvailable") == ("True", "Reserved")
    assert [key_of(ensure.manifest).name for ensure in plan.ensure][:4] == [
        "demo-ca",
        "demo-coordinator-tls",
        "demo-operator",
        "demo-silo-1-tls",
    ]
    kinds = [manifest["kind"] for manifest in plan.apply]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "ServiceAccount": 2,
        "NetworkPolicy": 3,
        "PodDisruptionBudget": 1,
        "ConfigMap": 5,
        "Service": 1,
        "Job": 5,
    }


@pytest.mark.parametrize(("silos", "coordinator"), [(0, False), (2, False), (3, True), (4, True)])
def test_the_coordinator_starts_once_a_quorum_of_silos_has_a_process(silos: int, coordinator: bool) -> None:
    plan = decide(reserved(started=frozenset(f"demo-{silo}" for silo in SILOS[:silos])))
    held = {item["metadata"]["name"] for item in plan.apply if item["kind"] == "Job" and item["spec"]["suspend"]}

    assert held == (set() if coordinator else {"demo-coordinator"})
    assert plan.status is not None
    assert plan.status.get("joinStartTime") == ("2026-03-01T12:00:00Z" if coordinator else None)


def test_same_world_same_plan() -> None:
    assert decide(running()) == decide(running())


def test_a_suspended_job_reserves_nothing() -> None:
    plan = decide(fresh(), suspend=True)

    assert (plan.ledger, plan.apply, plan.ensure) == ((), (), ())
    assert condition(plan, "Suspended") == ("True", "Suspended")


def test_suspending_a_running_job_stops_its_jobs_and_keeps_the_reservation() -> None:
    plan = decide(running(), suspend=True)

    assert {item["spec"]["suspend"] for item in plan.apply if item["kind"] == "Job"} == {True}
    assert plan.ledger == ()
    assert plan.status is not None
    assert "startTime" not in plan.status


def test_a_job_is_not_over_while_its_coordinator_may_be_started_again() -> None:
    died = jobs() | {("Job", "demo-coordinator"): ChildView("uid-coordinator", failed=2)}
    plan = decide(running(children=died, progress=(started(), finished_round(1, 0.5))))

    assert plan.status is not None
    assert (plan.status["phase"], plan.status["round"], plan.delete, plan.ledger) == ("Training", 2, (), ())
    (job,) = [item for item in plan.apply if (item["kind"], item["metadata"]["name"]) == ("Job", "demo-coordinator")]
    assert job["spec"]["backoffLimit"] == 3


def test_resuming_says_so() -> None:
    held = meta({"conditions": [{"type": "Suspended", "status": "True", "reason": "Suspended"}]})

    assert condition(decide(reserved(meta=held, children=jobs())), "Suspended") == ("False", "Resumed")

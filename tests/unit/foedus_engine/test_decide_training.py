"""What should happen to a training job, state by state."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.progress import ProcessFailed, TrainingResult
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
from foedus_engine.decide.over import decide_rest
from foedus_engine.decide.plan import BudgetKey, Close, KeepHead, ObjectKey, Plan, Reserve, key_of
from foedus_engine.decide.training import decide_invalid, decide_training
from support.brain import (
    ACCOUNT,
    CALIBRATED,
    MODEL,
    NOW,
    SILOS,
    UID,
    budget,
    finished_round,
    fresh,
    job,
    jobs,
    meta,
    reserved,
    running,
    started,
)

KEYS = {silo: bytes([number]) * 32 for number, silo in enumerate(SILOS, 1)}


def decide(observed: Observed, *, later: float = 0.0, **spec: Any) -> Plan:
    return decide_training(job(**spec), observed, now=NOW + timedelta(seconds=later))


def condition(plan: Plan, kind: str) -> tuple[str, str]:
    assert plan.status is not None
    found = next(item for item in plan.status["conditions"] if item["type"] == kind)
    return found["status"], found["reason"]


def message(plan: Plan) -> str:
    assert plan.status is not None
    return str(plan.status["message"])


def without(silo: str) -> dict[str, Any]:
    return {name: None if name == silo else budget(name) for name in SILOS}


FOREIGN_SERVICE = ObjectKey("v1", "Service", "team-a", "demo-coordinator")
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

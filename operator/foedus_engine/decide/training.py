"""What should happen to a training job now: a pure function of the job, what was observed, and the time.

A job is refused, or it holds a reservation in every silo's budget; only then does it have children. It ends once, and
then gives back what it did not use.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from foedus_contract.errors import FoedusError
from foedus_contract.plan import TrainingPlan
from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.api.training_status import TrainingConditionType as ConditionType
from foedus_engine.api.training_status import TrainingReason as Reason
from foedus_engine.build.pods import Settings
from foedus_engine.decide.checks import KAPPA_WARN, Problem, first_problem, kappa_of
from foedus_engine.decide.children import inspecting_children, owner_of
from foedus_engine.decide.conditions import Condition
from foedus_engine.decide.drift import drifted
from foedus_engine.decide.ending import Ending, find_ending, is_terminal, is_untouched
from foedus_engine.decide.events import NOISY_PLAN, news
from foedus_engine.decide.inspection import inspector_children, superfluous_inspector
from foedus_engine.decide.observed import Calibrated, ObjectMeta, Observed
from foedus_engine.decide.over import RETRY_SECONDS, decide_afterwards, decide_end, open_accounts
from foedus_engine.decide.plan import Event, KeepHead, Plan, Reserve
from foedus_engine.decide.running import decide_carry_on, decide_run
from foedus_engine.decide.status import make_status, plan_fields, progress_fields
from foedus_engine.decide.training_plan import attempts, make_training_plan
from foedus_engine.decide.waiting import Wait, inspector_wait
from foedus_ledger.mechanisms import Mechanism


def decide_training(
    job: FederatedTrainingJob, observed: Observed, *, now: datetime, settings: Settings | None = None
) -> Plan:
    """Return what is to be done about `job`. Same arguments, same plan; a terminal state is never left."""
    plan = _decide(job, observed, settings or Settings(), now)
    return replace(plan, ledger=(*_heads_to_keep(observed), *plan.ledger))


def _decide(job: FederatedTrainingJob, observed: Observed, settings: Settings, now: datetime) -> Plan:
    if is_terminal(observed.meta.status):
        return decide_afterwards(job, observed, now)
    if is_untouched(job, observed.meta.status) and not _has_jobs(observed):
        return _hold(job, observed, now)
    if ending := find_ending(job, observed, now):
        return decide_end(job, observed, ending, now)
    return _decide_open(job, observed, settings, now)


def _heads_to_keep(observed: Observed) -> tuple[KeepHead, ...]:
    """Return what has just shown that a ledger is an old copy: it holds for other jobs, too, and after this one."""
    return tuple(fault.keep for _, fault in sorted(observed.ledger_faults.items()) if fault.keep is not None)


def _decide_open(job: FederatedTrainingJob, observed: Observed, settings: Settings, now: datetime) -> Plan:
    problem = first_problem(job, observed)
    if problem and _has_jobs(observed):
        return decide_carry_on(job, observed, problem.message, settings, now)
    if problem:
        return _refuse(job, observed, problem, now)
    if job.spec.suspend and not _has_jobs(observed):
        return _hold(job, observed, now)
    if observed.model is None:
        return _inspect(job, observed, settings, now)
    assert isinstance(observed.calibration, Calibrated)  # a check has seen to it
    plan = make_training_plan(job, observed, observed.calibration)
    if _has_jobs(observed) and _told_otherwise(observed, plan):
        message = "the base model or Foedus changed; processes keep the plan they were told"
        return decide_carry_on(job, observed, message, settings, now)
    if missing := _missing_reservations(job, observed, observed.calibration):
        return _reserve(job, observed, plan, missing, now)
    return decide_run(job, observed, plan, settings, now)


def decide_invalid(meta: ObjectMeta, error: FoedusError, *, now: datetime) -> Plan:
    """Return what is to be done about an object that cannot be read as a job: say so, and wait for a new spec."""
    observed = Observed(meta)
    if is_terminal(meta.status):
        return Plan()
    problem = Problem(ConditionType.ACCEPTED, Reason.INVALID_SPEC, str(error))
    return Plan(status=_refusal_status(observed, problem, now))


# Before anything runs


def _refuse(job: FederatedTrainingJob, observed: Observed, problem: Problem, now: datetime) -> Plan:
    """Say why the job does not start. A reservation that only some silos could make is given back, for good.

    A ledger that cannot be read says nothing about what fits: then the reservations stand until it can.
    """
    is_final = problem.condition is ConditionType.BUDGET_AVAILABLE and not observed.ledger_faults
    if is_final and open_accounts(observed):
        return decide_end(job, observed, Ending(False, problem.reason, problem.message), now)
    status = _refusal_status(observed, problem, now)
    return Plan(
        delete=superfluous_inspector(observed, now),
        status=status,
        events=news(observed, status),
        requeue_seconds=RETRY_SECONDS,
    )


def _inspect(job: FederatedTrainingJob, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Let a pod look at the base model; planning needs its digest and sizes."""
    wait = inspector_wait(observed) or Wait(Reason.INSPECTING, "a pod looks at the base model")
    conditions = [
        Condition(ConditionType.ACCEPTED, "Unknown", wait.reason, wait.message),
        Condition(ConditionType.READY, "False", wait.reason, wait.message),
    ]
    status = make_status(observed, now, phase="Pending", conditions=conditions, message=wait.message)
    return Plan(
        apply=drifted(inspecting_children(job, owner_of(observed.meta), settings), observed),
        status=status,
        events=news(observed, status),
        requeue_seconds=RETRY_SECONDS,
    )


def _refusal_status(observed: Observed, problem: Problem, now: datetime) -> dict[str, object]:
    accepted = Condition(ConditionType.ACCEPTED, "True", Reason.ACCEPTED, "")
    said = Condition(problem.condition, "False", problem.reason, problem.message)
    ready = Condition(ConditionType.READY, "False", problem.reason, problem.message)
    conditions = [said, ready] if problem.condition is ConditionType.ACCEPTED else [accepted, said, ready]
    return make_status(observed, now, phase="Pending", conditions=conditions, message=problem.message)


def _hold(job: FederatedTrainingJob, observed: Observed, now: datetime) -> Plan:
    """A suspended job reserves nothing and has no children."""
    message = "spec.suspend is true; nothing is reserved"
    conditions = [
        Condition(ConditionType.ACCEPTED, "True", Reason.ACCEPTED, ""),
        Condition(ConditionType.SUSPENDED, "True", Reason.SUSPENDED, message),
        Condition(ConditionType.READY, "False", Reason.SUSPENDED, message),
    ]
    fields = progress_fields(job, observed)
    status = make_status(observed, now, phase="Suspended", conditions=conditions, message=message, **fields)
    return Plan(delete=inspector_children(observed), status=status)


def _missing_reservations(
    job: FederatedTrainingJob, observed: Observed, calibration: Calibrated
) -> tuple[Reserve, ...]:
    """Return the reservations still to make, in the order of the budgets' names."""
    mechanism = Mechanism(
        noise_multiplier=calibration.noise_multiplier,
        gap_epsilon=calibration.gap_epsilon,
        gap_delta=calibration.gap_delta,
    )
    claimant = names.object_key(observed.meta.namespace, observed.meta.name)
    budgets = [budget for budget in observed.budgets.values() if budget is not None and budget.account is None]
    return tuple(
        Reserve(budget.key, observed.meta.uid, mechanism, attempts(job), claimant)
        for budget in sorted(budgets, key=lambda budget: budget.key)
    )


def _reserve(
    job: FederatedTrainingJob, observed: Observed, plan: TrainingPlan, missing: tuple[Reserve, ...], now: datetime
) -> Plan:
    """Reserve first; the next decision sees in the ledger whether every silo could."""
    message = f"reserving {plan.attempts} attempts in {len(missing)} budgets"
    conditions = [
        Condition(ConditionType.ACCEPTED, "True", Reason.ACCEPTED, ""),
        Condition(ConditionType.BUDGET_AVAILABLE, "Unknown", Reason.PENDING, message),
        Condition(ConditionType.READY, "False", Reason.PENDING, message),
    ]
    fields = progress_fields(job, observed) | {"plan": plan_fields(plan)}
    status = make_status(observed, now, phase="Pending", conditions=conditions, message=message, **fields)
    ratio = kappa_of(job, observed, plan.privacy.noise_multiplier)
    warning = Event(
        "Warning", NOISY_PLAN, f"the noise is {ratio:.2f} times the clip norm (κ); above {KAPPA_WARN} accuracy suffers"
    )
    events = (warning,) if ratio > KAPPA_WARN else ()
    return Plan(ledger=missing, status=status, events=events, requeue_seconds=0.0)


def _told_otherwise(observed: Observed, plan: TrainingPlan) -> bool:
    return bool(observed.meta.status.get("plan", {}).get("digest", plan.digest()) != plan.digest())


def _has_jobs(observed: Observed) -> bool:
    inspector = names.inspector(observed.meta.name)
    return any(kind == "Job" and name != inspector for kind, name in observed.children)

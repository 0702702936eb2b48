"""What should happen to a training job now: a pure function of the job, what was observed, and the time.

A job is refused, or it holds a reservation in every silo's budget; only then does it have children. It ends once, and
then gives back what it did not use.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from foedus_contract.errors import FoedusError
from foedus_contract.plan import TrainingPlan
from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.api.training_status import Phase
from foedus_engine.api.training_status import TrainingConditionType as ConditionType
from foedus_engine.api.training_status import TrainingReason as Reason
from foedus_engine.build.pods import Settings
from foedus_engine.decide.certificates import are_due
from foedus_engine.decide.checks import KAPPA_WARN, Problem, check_ledgers, first_problem, kappa_of
from foedus_engine.decide.children import applied_children, ensured_children, owner_of, policy_child
from foedus_engine.decide.conditions import Condition, parse_timestamp, timestamp
from foedus_engine.decide.ending import (
    Ending,
    failed_silos,
    find_ending,
    first_failure,
    has_policy,
    identities_due,
    is_idle,
    is_terminal,
)
from foedus_engine.decide.observed import Calibrated, ChildView, ObjectMeta, Observed
from foedus_engine.decide.plan import Close, Ensure, Event, Manifest, ObjectKey, Plan, Reserve
from foedus_engine.decide.status import (
    is_training,
    make_status,
    plan_fields,
    progress_fields,
    result_fields,
    start_time,
)
from foedus_engine.decide.training_plan import attempts, make_training_plan, threshold
from foedus_ledger.mechanisms import Mechanism

POLL_SECONDS = 1.0  # progress and results are files; nothing announces them
RETRY_SECONDS = 15.0  # what a refused job waits for (a budget, a model) comes from people
LEAVE_SECONDS = 30.0  # silos that were told that the job is over leave by themselves within this time


def decide_training(
    job: FederatedTrainingJob, observed: Observed, *, now: datetime, settings: Settings | None = None
) -> Plan:
    """Return what is to be done about `job`. Same arguments, same plan; a terminal state is never left."""
    if is_terminal(observed.meta.status):
        return _after(job, observed, now)
    if is_idle(job, observed.meta.status):
        return _hold(job, observed, now)
    if ending := find_ending(job, observed, now):
        return _end(job, observed, ending, now)
    return _decide_open(job, observed, settings or Settings(), now)


def _decide_open(job: FederatedTrainingJob, observed: Observed, settings: Settings, now: datetime) -> Plan:
    problem = first_problem(job, observed)
    if problem and _has_jobs(observed):
        return _carry_on(job, observed, problem.message, now)
    if problem:
        return _refuse(job, observed, problem, now)
    if job.spec.suspend and not _has_jobs(observed):
        return _hold(job, observed, now)
    assert isinstance(observed.calibration, Calibrated)  # a check has seen to it
    plan = make_training_plan(job, observed, observed.calibration)
    if _has_jobs(observed) and _told_otherwise(observed, plan):
        return _carry_on(job, observed, "the base model or Foedus changed; processes keep the plan they were told", now)
    if missing := _missing_reservations(job, observed, observed.calibration):
        return _reserve(job, observed, plan, missing, now)
    return _run(job, observed, plan, settings, now)


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
    if is_final and _open_accounts(observed):
        return _end(job, observed, Ending(False, problem.reason, problem.message), now)
    return Plan(status=_refusal_status(observed, problem, now), requeue_seconds=RETRY_SECONDS)


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
    return Plan(status=make_status(observed, now, phase="Suspended", conditions=conditions, message=message, **fields))


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
        "Warning", "NoisyPlan", f"the noise is {ratio:.2f} times the clip norm (κ); above {KAPPA_WARN} accuracy suffers"
    )
    return Plan(ledger=missing, status=status, events=(warning,) if ratio > KAPPA_WARN else (), requeue_seconds=0.0)


# While it runs


def _run(job: FederatedTrainingJob, observed: Observed, plan: TrainingPlan, settings: Settings, now: datetime) -> Plan:
    """Make the children as the plan says."""
    owner = owner_of(observed.meta)
    return Plan(
        ensure=(
            *_absent(ensured_children(job, owner, renew=are_due(job, observed, now)), observed),
            *_policy(job, observed, now),
        ),
        apply=tuple(_bound(manifest, observed) for manifest in applied_children(job, owner, plan, settings)),
        status=_running_status(job, observed, plan, now),
        requeue_seconds=POLL_SECONDS,
    )


def _absent(wanted: tuple[Ensure, ...], observed: Observed) -> Iterator[Ensure]:
    """Return what is not there yet, or is to be renewed: what is there is else never looked at again."""
    return (each for each in wanted if each.renew or _child_of(each.manifest) not in observed.children)


def _bound(manifest: Manifest, observed: Observed) -> Manifest:
    """Return the manifest for the very object that was seen, so that a late write changes no other one."""
    seen = observed.children.get(_child_of(manifest))
    return manifest if seen is None else {**manifest, "metadata": {**manifest["metadata"], "uid": seen.uid}}


def _child_of(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _policy(job: FederatedTrainingJob, observed: Observed, now: datetime) -> tuple[Ensure, ...]:
    """Pin the silos' identities once all silos that can come have come, or a quorum of them in time."""
    silos = {client.name for client in job.spec.clients}
    awaited = silos - set(failed_silos(job, observed)) - set(observed.identities)
    known = {silo: key for silo, key in observed.identities.items() if silo in silos}
    if has_policy(observed) or len(known) < threshold(job):
        return ()
    if awaited and not identities_due(job, observed, now):
        return ()
    return (policy_child(owner_of(observed.meta), known),)


def _told_otherwise(observed: Observed, plan: TrainingPlan) -> bool:
    return bool(observed.meta.status.get("plan", {}).get("digest", plan.digest()) != plan.digest())


def _carry_on(job: FederatedTrainingJob, observed: Observed, message: str, now: datetime) -> Plan:
    """Leave running processes alone although the job could not be started again as things are; report progress."""
    return Plan(status=_running_status(job, observed, None, now, message), requeue_seconds=POLL_SECONDS)


def _running_status(
    job: FederatedTrainingJob, observed: Observed, plan: TrainingPlan | None, now: datetime, message: str = ""
) -> dict[str, object]:
    training, suspended = is_training(observed), job.spec.suspend
    phase: Phase = "Suspended" if suspended else "Training" if training else "Preparing"
    failure = first_failure(job, observed)
    message = message or failure or _PHASE_MESSAGE[phase]
    conditions = [
        Condition(ConditionType.ACCEPTED, "True", Reason.ACCEPTED, ""),
        _reservation(job, observed),
        _suspension(observed, suspended),
        _quorum(training, failure),
        Condition(ConditionType.READY, "False", _PHASE_REASON[phase], message),
    ]
    fields = progress_fields(job, observed)
    fields["startTime"] = None if suspended else start_time(observed, now)
    if plan is not None:
        fields["plan"] = plan_fields(plan)
    return make_status(observed, now, phase=phase, conditions=conditions, message=message, **fields)


_PHASE_REASON = {"Suspended": Reason.SUSPENDED, "Preparing": Reason.PREPARING, "Training": Reason.TRAINING}
_PHASE_MESSAGE = {
    "Suspended": "spec.suspend is true; the reservation is kept",
    "Preparing": "silos load the model and join",
    "Training": "rounds are running",
}


def _reservation(job: FederatedTrainingJob, observed: Observed) -> Condition:
    problem = check_ledgers(job, observed)
    if problem is not None:
        return Condition(ConditionType.BUDGET_AVAILABLE, "Unknown", problem.reason, problem.message)
    return Condition(
        ConditionType.BUDGET_AVAILABLE, "True", Reason.RESERVED, f"{attempts(job)} attempts in every budget"
    )


def _quorum(training: bool, failure: str) -> Condition:
    if training:
        return Condition(ConditionType.QUORUM_REACHED, "True", Reason.SILOS_JOINED, failure)
    return Condition(ConditionType.QUORUM_REACHED, "False", Reason.WAITING_FOR_SILOS, failure)


def _suspension(observed: Observed, suspended: bool) -> Condition:
    if suspended:
        return Condition(ConditionType.SUSPENDED, "True", Reason.SUSPENDED, "")
    before = {condition["type"]: condition for condition in observed.meta.status.get("conditions", ())}
    was = before.get(str(ConditionType.SUSPENDED), {}).get("reason")
    resumed = was in {str(Reason.SUSPENDED), str(Reason.RESUMED)}
    return Condition(ConditionType.SUSPENDED, "False", Reason.RESUMED if resumed else Reason.NOT_SUSPENDED, "")


# Once it is over


def _end(job: FederatedTrainingJob, observed: Observed, ending: Ending, now: datetime) -> Plan:
    """Say how the job ended, give back what it did not use, and stop what would not stop by itself."""
    over = ConditionType.COMPLETE if ending.complete else ConditionType.FAILED
    ready = Reason.FINISHED if ending.complete else ending.reason
    conditions = [
        Condition(over, "True", ending.reason, ending.message),
        Condition(ConditionType.READY, "True" if ending.complete else "False", ready, ending.message),
        Condition(ConditionType.BUDGET_AVAILABLE, "False", Reason.RELEASED, "what was not used is given back"),
    ]
    fields = progress_fields(job, observed) | {"completionTime": timestamp(now)}
    if ending.result is not None:
        fields["result"] = result_fields(ending.result)
    phase: Phase = "Complete" if ending.complete else "Failed"
    return Plan(
        ledger=_open_accounts(observed),
        delete=() if ending.by_itself else _unfinished_jobs(observed),
        status=make_status(observed, now, phase=phase, conditions=conditions, message=ending.message, **fields),
        events=(Event("Normal" if ending.complete else "Warning", str(ending.reason), ending.message),),
        requeue_seconds=LEAVE_SECONDS,
    )


def _after(job: FederatedTrainingJob, observed: Observed, now: datetime) -> Plan:
    """Close what is still open, stop who did not leave, and clear up when the time has come. The status stays."""
    finished = parse_timestamp(str(observed.meta.status.get("completionTime") or timestamp(now)))
    ttl = job.spec.ttl_seconds_after_finished
    due = finished + timedelta(seconds=ttl) if ttl is not None else None
    if due is not None and now >= due:
        again = RETRY_SECONDS if observed.ledger_faults else None
        return Plan(ledger=_open_accounts(observed), delete=_disposable(observed), requeue_seconds=again)
    leave = finished + timedelta(seconds=LEAVE_SECONDS)
    unfinished = _unfinished_jobs(observed)
    retry = now + timedelta(seconds=RETRY_SECONDS) if observed.ledger_faults else None  # an account may be open there
    waits = [moment for moment in (due, leave if unfinished else None, retry) if moment is not None and moment > now]
    return Plan(
        ledger=_open_accounts(observed),
        delete=unfinished if now >= leave else (),
        requeue_seconds=min((moment - now).total_seconds() for moment in waits) if waits else None,
    )


def _open_accounts(observed: Observed) -> tuple[Close, ...]:
    budgets = [budget for budget in observed.budgets.values() if budget and budget.account]
    return tuple(
        Close(budget.key, observed.meta.uid)
        for budget in sorted(budgets, key=lambda budget: budget.key)
        if budget.account and budget.account.state == "Open"
    )


def _has_jobs(observed: Observed) -> bool:
    return any(kind == "Job" for kind, _ in observed.children)


def _unfinished_jobs(observed: Observed) -> tuple[ObjectKey, ...]:
    return tuple(key for key, child in _children(observed) if key.kind == "Job" and not child.finished)


def _disposable(observed: Observed) -> tuple[ObjectKey, ...]:
    """Return every child but the claim with the adapter, which goes only with the job itself."""
    output = names.coordinator_output(observed.meta.name)
    return tuple(key for key, _ in _children(observed) if key.name != output)


def _children(observed: Observed) -> list[tuple[ObjectKey, ChildView]]:
    namespace = observed.meta.namespace
    return [
        (ObjectKey(names.CHILD_API_VERSIONS[kind], kind, namespace, name, child.uid), child)
        for (kind, name), child in sorted(observed.children.items(), key=lambda item: item[0])
    ]

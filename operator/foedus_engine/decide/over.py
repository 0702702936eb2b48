"""What is to be done when a training job ends, and afterwards: pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.api.training_status import Phase
from foedus_engine.api.training_status import TrainingConditionType as ConditionType
from foedus_engine.api.training_status import TrainingReason as Reason
from foedus_engine.decide.conditions import Condition, parse_timestamp, timestamp
from foedus_engine.decide.ending import Ending, clears_up, is_settled, is_terminal
from foedus_engine.decide.observed import ChildView, ObjectMeta, Observed
from foedus_engine.decide.plan import Close, Event, ObjectKey, Plan
from foedus_engine.decide.status import make_status, progress_fields, result_fields

RETRY_SECONDS = 15.0  # what a refused job waits for (a budget, a model) comes from people
LEAVE_SECONDS = 30.0  # silos that were told that the job is over leave by themselves within this time


def decide_end(job: FederatedTrainingJob, observed: Observed, ending: Ending, now: datetime) -> Plan:
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
        ledger=open_accounts(observed),
        delete=(*_guards(observed), *(() if ending.by_itself else _unfinished_jobs(observed))),
        status=make_status(observed, now, phase=phase, conditions=conditions, message=ending.message, **fields),
        events=(Event("Normal" if ending.complete else "Warning", str(ending.reason), ending.message),),
        requeue_seconds=LEAVE_SECONDS,
    )


def decide_rest(job: FederatedTrainingJob, meta: ObjectMeta, now: datetime) -> Plan | None:
    """Return what is to be done about a job that rests after its end: nothing, until it is time to clear up.

    None: it does not rest, and what belongs to it must be read.
    """
    if not is_terminal(meta.status) or not is_settled(meta.status):
        return None
    due = clears_up(job.spec.ttl_seconds_after_finished, meta.status)
    if due is None:
        return Plan()
    return Plan(requeue_seconds=(due - now).total_seconds()) if now < due else None


def decide_afterwards(job: FederatedTrainingJob, observed: Observed, now: datetime) -> Plan:
    """Close what is still open, stop who did not leave, and clear up when the time has come.

    Of the status only that is new that nothing is left to do.
    """
    finished = parse_timestamp(str(observed.meta.status.get("completionTime") or timestamp(now)))
    ttl = job.spec.ttl_seconds_after_finished
    due = finished + timedelta(seconds=ttl) if ttl is not None else None
    leave = finished + timedelta(seconds=LEAVE_SECONDS)
    accounts, unfinished = open_accounts(observed), _unfinished_jobs(observed)
    if due is not None and now >= due:
        delete = _disposable(observed)
    else:
        delete = (*_guards(observed), *(unfinished if now >= leave else ()))
    # Whether that is done is looked at again; and an account may be open in a ledger that does not answer.
    again = now + timedelta(seconds=RETRY_SECONDS) if accounts or delete or observed.ledger_faults else None
    is_done = again is None and not unfinished
    clearing = clears_up(ttl, observed.meta.status) if is_settled(observed.meta.status) else now
    is_news = clearing is not None and clearing <= now
    waits = [moment for moment in (due, leave if unfinished else None, again) if moment is not None and moment > now]
    return Plan(
        ledger=accounts,
        delete=delete,
        status={**observed.meta.status, "settledTime": timestamp(now)} if is_done and is_news else None,
        requeue_seconds=min((moment - now).total_seconds() for moment in waits) if waits else None,
    )


def open_accounts(observed: Observed) -> tuple[Close, ...]:
    """Return what closes every account that the job still holds, in the order of the budgets' names."""
    budgets = [budget for budget in observed.budgets.values() if budget and budget.account]
    return tuple(
        Close(budget.key, observed.meta.uid)
        for budget in sorted(budgets, key=lambda budget: budget.key)
        if budget.account and budget.account.state == "Open"
    )


def _unfinished_jobs(observed: Observed) -> tuple[ObjectKey, ...]:
    return tuple(key for key, child in _children(observed) if key.kind == "Job" and not child.finished)


def _guards(observed: Observed) -> tuple[ObjectKey, ...]:
    """Return the PodDisruptionBudget: silos that have left for good would keep the others from being drained."""
    return tuple(key for key, _ in _children(observed) if key.kind == "PodDisruptionBudget")


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

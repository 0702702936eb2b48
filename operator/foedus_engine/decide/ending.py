"""How a training job ends: by its coordinator's result, by the loss of it, by a deadline, or without a quorum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from foedus_contract.exit_codes import ExitCode
from foedus_contract.progress import TrainingResult
from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.api.training_status import TrainingConditionType as ConditionType
from foedus_engine.api.training_status import TrainingReason as Reason
from foedus_engine.decide.certificates import VALIDITY, have_ended
from foedus_engine.decide.conditions import is_true, parse_timestamp
from foedus_engine.decide.observed import ChildView, Observed
from foedus_engine.decide.status import is_training
from foedus_engine.decide.training_plan import deadlines, threshold

REASON_OF_CODE: Mapping[int, Reason] = {
    ExitCode.INVALID_SPEC: Reason.INVALID_SPEC,
    ExitCode.INVALID_DATA: Reason.INVALID_DATA,
    ExitCode.INVALID_MODEL: Reason.INVALID_MODEL,
    ExitCode.UNPLANNABLE: Reason.UNPLANNABLE,
    ExitCode.BUDGET_REFUSED: Reason.BUDGET_REFUSED,
    ExitCode.LEDGER_BEHIND: Reason.LEDGER_BEHIND,
    ExitCode.IDENTITY_REFUSED: Reason.IDENTITY_REFUSED,
    ExitCode.QUORUM_LOST: Reason.QUORUM_LOST,
    ExitCode.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True)
class Ending:
    """How a job ended. `by_itself` says that its coordinator ended it, so its silos know and leave on their own."""

    complete: bool
    reason: Reason
    message: str
    by_itself: bool = False
    result: TrainingResult | None = None


EndingCheck = Callable[[FederatedTrainingJob, Observed, datetime], Ending | None]


def is_terminal(status: Mapping[str, Any]) -> bool:
    """Return whether a stored status says that the job is over; that is never taken back."""
    return is_true(status, ConditionType.COMPLETE) or is_true(status, ConditionType.FAILED)


def is_untouched(job: FederatedTrainingJob, status: Mapping[str, Any]) -> bool:
    """Say whether the job is suspended before anything was reserved for it.

    A plan is told in the status by the pass that reserves.
    """
    return job.spec.suspend and not status.get("startTime") and not status.get("plan")


def is_idle(job: FederatedTrainingJob, status: Mapping[str, Any]) -> bool:
    """Say whether the job is suspended and never was anything else: it has neither reservations nor children."""
    return is_untouched(job, status) and status.get("phase") in {None, "Suspended"}


def is_at_rest(obj: Mapping[str, Any]) -> bool:
    """Say of a stored object whether a pass would change nothing: it costs none, neither now nor in a later look.

    That is a job that is idle, of which that has been said, and one that is over, of which nothing is left to do. What
    another version of Foedus would say of it is said when it changes.
    """
    if obj.get("kind") != names.TRAINING_KIND:
        return False
    spec, status, meta = obj.get("spec") or {}, obj.get("status") or {}, obj["metadata"]
    if is_terminal(status):
        return is_settled(status) and not clears_up(spec.get("ttlSecondsAfterFinished"), status)
    has_been_said = status.get("phase") == "Suspended" and status.get("observedGeneration") == meta.get("generation")
    return has_been_said and is_idle_object(obj)


def is_idle_object(obj: Mapping[str, Any]) -> bool:
    """Say of a stored object what `is_idle` says of a job: a pass writes its status and reads nothing else."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return (
        obj.get("kind") == names.TRAINING_KIND
        and spec.get("suspend") is True
        and status.get("phase") in {None, "Suspended"}
        and not status.get("startTime")
        and not status.get("plan")
        and not obj["metadata"].get("deletionTimestamp")
    )


def is_settled(status: Mapping[str, Any]) -> bool:
    """Say of a job that is over whether nothing was left of it when it was last looked at: no account, no process."""
    return "settledTime" in status


def clears_up(ttl: int | None, status: Mapping[str, Any]) -> datetime | None:
    """Return when the children of a settled job are to go; None when they stay, or it was settled after that."""
    if ttl is None or "completionTime" not in status:
        return None
    due = parse_timestamp(status["completionTime"]) + timedelta(seconds=ttl)
    return due if parse_timestamp(status["settledTime"]) < due else None


def find_ending(job: FederatedTrainingJob, observed: Observed, now: datetime) -> Ending | None:
    """Return how the job has just ended, or None while it goes on."""
    return next((ending for check in ENDINGS if (ending := check(job, observed, now))), None)


def ended_by_result(_job: FederatedTrainingJob, observed: Observed, _now: datetime) -> Ending | None:
    """The coordinator has left a result."""
    result = observed.result
    if result is None:
        return None
    if result.outcome == "Failed":
        reason = REASON_OF_CODE.get(result.code, Reason.COORDINATOR_FAILED)
        return Ending(False, reason, result.message or result.reason, by_itself=True, result=result)
    reason = Reason.ALL_ROUNDS if result.outcome == "Complete" else Reason.ENDED_EARLY
    message = result.message or f"{result.rounds} rounds in {result.attempts} attempts"
    return Ending(True, reason, message, by_itself=True, result=result)


def ended_by_lost_coordinator(_job: FederatedTrainingJob, observed: Observed, _now: datetime) -> Ending | None:
    """The coordinator's Job is over and left no result."""
    child = coordinator_child(observed)
    if child is None or not child.finished:
        return None
    detail = f": {child.message}" if child.message else ""
    return Ending(False, Reason.COORDINATOR_FAILED, f"the coordinator ended without a result{detail}")


def ended_by_released_accounts(_job: FederatedTrainingJob, observed: Observed, _now: datetime) -> Ending | None:
    """An account of this job is closed: its reservation was taken back, and a closed account is final."""
    for silo, budget in observed.budgets.items():
        if budget and budget.account and budget.account.state == "Closed":
            return Ending(
                False,
                Reason.BUDGET_INSUFFICIENT,
                f"silo {silo}: the reservation in PrivacyBudget {budget.key} was given back because not every silo "
                "could reserve; create the job again under a new name",
            )
    return None


def ended_by_deadline(job: FederatedTrainingJob, observed: Observed, now: datetime) -> Ending | None:
    """The job has been active for longer than it may."""
    limit, started = job.spec.active_deadline_seconds, started_at(observed)
    if limit is None or started is None or now < started + timedelta(seconds=limit):
        return None
    return Ending(
        False,
        Reason.DEADLINE_EXCEEDED,
        f"spec.activeDeadlineSeconds: the job was not done after {limit} s; allow more time or run fewer rounds",
    )


def ended_by_certificates(job: FederatedTrainingJob, observed: Observed, now: datetime) -> Ending | None:
    """The certificates of the running processes are no longer valid: nobody can reach anybody any more."""
    if not have_ended(job, observed, now):
        return None
    return Ending(
        False,
        Reason.DEADLINE_EXCEEDED,
        f"the job's certificates ended after {VALIDITY.days} days; set spec.activeDeadlineSeconds to the time that it "
        "needs, or suspend a job in between: one that is resumed gets new certificates",
    )


def ended_without_quorum(job: FederatedTrainingJob, observed: Observed, now: datetime) -> Ending | None:
    """Too few silos can join, or too few have shown an identity in time. Once they joined, the coordinator judges."""
    if is_training(observed) or started_at(observed) is None or job.spec.suspend:
        return None
    needed, silos = threshold(job), len(job.spec.clients)
    gone = failed_silos(job, observed)
    if silos - len(gone) < needed:
        return _quorum_lost(f"{len(gone)} of {silos} silos failed and {needed} are needed", job, observed)
    if not has_policy(observed) and identities_due(job, observed, now) and len(observed.identities) < needed:
        ready = len(observed.identities)
        return _quorum_lost(f"only {ready} of {silos} silos came up in time and {needed} are needed", job, observed)
    return None


ENDINGS: tuple[EndingCheck, ...] = (
    ended_by_result,
    ended_by_lost_coordinator,
    ended_by_released_accounts,
    ended_by_deadline,
    ended_by_certificates,
    ended_without_quorum,
)


def started_at(observed: Observed) -> datetime | None:
    """Return when the job's processes were started, as the stored status says."""
    text = observed.meta.status.get("startTime")
    return parse_timestamp(text) if text else None


def has_policy(observed: Observed) -> bool:
    """Return whether the silos' identities have been pinned."""
    return ("ConfigMap", names.policy(observed.meta.name)) in observed.children


def coordinator_child(observed: Observed) -> ChildView | None:
    """Return the coordinator's Job, if it is there."""
    return observed.children.get(("Job", names.coordinator(observed.meta.name)))


def failed_silos(job: FederatedTrainingJob, observed: Observed) -> tuple[str, ...]:
    """Return the silos whose Jobs have failed for good."""
    name = observed.meta.name
    return tuple(
        client.name
        for client in job.spec.clients
        if (child := observed.children.get(("Job", names.client(name, client.name)))) and child.finished == "Failed"
    )


def identities_due(job: FederatedTrainingJob, observed: Observed, now: datetime) -> bool:
    """Return whether silos have had their time to show an identity: half of joinTimeout, the rest is for joining."""
    started = joining_since(observed)
    return started is not None and now >= started + timedelta(seconds=deadlines(job).join_seconds / 2)


def joining_since(observed: Observed) -> datetime | None:
    """Return since when a quorum of silos has had a process, as the stored status says."""
    text = observed.meta.status.get("joinStartTime")
    return parse_timestamp(text) if text else None


def quorum_has_started(job: FederatedTrainingJob, observed: Observed) -> bool:
    """Return whether so many silos have had a process that training can begin: until then the coordinator waits."""
    silos = [names.client(observed.meta.name, client.name) for client in job.spec.clients]
    return sum(silo in observed.started for silo in silos) >= threshold(job)


def first_failure(job: FederatedTrainingJob, observed: Observed) -> str:
    """Return why the first silo that failed did so, as `silo: why`; empty when none did."""
    for silo in failed_silos(job, observed):
        event = observed.failures.get(silo)
        child = observed.children[("Job", names.client(observed.meta.name, silo))]
        return f"{silo}: {event.message if event else child.message or 'failed'}"
    return ""


def _quorum_lost(message: str, job: FederatedTrainingJob, observed: Observed) -> Ending:
    detail = first_failure(job, observed)
    return Ending(False, Reason.QUORUM_LOST, f"{message}; {detail}" if detail else message)

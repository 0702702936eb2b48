"""What a job waits for when its pods cannot be started, and what somebody can do about it: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.api.training_status import TrainingReason as Reason
from foedus_engine.decide.certificates import find_broken
from foedus_engine.decide.ending import joining_since, quorum_has_started
from foedus_engine.decide.observed import Observed, Trouble

REASONS: Mapping[str, Reason] = {
    "Queued": Reason.QUEUED,
    "Unschedulable": Reason.UNSCHEDULABLE,
    "ImagePullFailed": Reason.IMAGE_PULL_FAILED,
    "VolumeMissing": Reason.VOLUME_MISSING,
    "QuotaExceeded": Reason.QUOTA_EXCEEDED,
    "CannotStart": Reason.CANNOT_START,
}
CURES: Mapping[str, str] = {
    "Queued": "it starts when the queue has room",
    "Unschedulable": "add a node that fits, or create the job with other resources or scheduling",
    "ImagePullFailed": "see that nodes can pull the image; the operator's installation names it",
    "VolumeMissing": "create the PersistentVolumeClaim, or correct the name in the manifest",
    "QuotaExceeded": "raise the namespace's quota, or let other jobs end",
    "CannotStart": "see the events of the pod",
}


@dataclass(frozen=True)
class Wait:
    """Why the job does not go on, in one word and in a sentence."""

    reason: Reason
    message: str


def find_wait(job: FederatedTrainingJob, observed: Observed) -> Wait | None:
    """Return what keeps the job from training: pods of silos until a quorum has started, or the coordinator's."""
    has_quorum = joining_since(observed) is not None or quorum_has_started(job, observed)
    coordinator = names.coordinator(observed.meta.name)
    if has_quorum and coordinator in observed.started:
        return None
    if broken := find_broken(observed):
        return Wait(Reason.CERTIFICATE_INVALID, broken)
    if coordinator in observed.troubles:
        return describe("the coordinator", observed.troubles[coordinator])
    return None if has_quorum else _silos(job, observed)


def find_note(job: FederatedTrainingJob, observed: Observed) -> str:
    """Return what is to be said of a silo that cannot be started, or of a Secret, although the job goes on without."""
    if broken := find_broken(observed):
        return broken
    wait = _silos(job, observed)
    return "" if wait is None else wait.message


def inspector_wait(observed: Observed) -> Wait | None:
    """Return what keeps the pod that looks at the base model from being started."""
    trouble = observed.troubles.get(names.inspector(observed.meta.name))
    return None if trouble is None else describe("the pod that looks at the base model", trouble)


def describe(who: str, trouble: Trouble) -> Wait:
    """Return a pod's trouble with the cure."""
    return Wait(REASONS[trouble.reason], f"{who}: {trouble.message}; {CURES[trouble.reason]}")


def _silos(job: FederatedTrainingJob, observed: Observed) -> Wait | None:
    silos = {client.name: names.client(observed.meta.name, client.name) for client in job.spec.clients}
    waiting = {silo: observed.troubles[name] for silo, name in sorted(silos.items()) if name in observed.troubles}
    if not waiting:
        return None
    first = next(iter(waiting))
    others = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    return describe(f"silo {first}{others}", waiting[first])

"""How long a job's certificates are valid, when they are renewed, and what happens when they end: pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.decide.observed import Observed

VALIDITY = timedelta(days=7)  # longer than any training job of the documented sizes, short enough to need no revocation
LEAST = VALIDITY / 2  # what a job without a deadline must have left when its processes start


def validity(job: FederatedTrainingJob) -> timedelta:
    """Return for how long a certificate of the job is made: its deadline fits in, whenever it is started."""
    return max(VALIDITY, _needed(job) + LEAST)


def are_due(job: FederatedTrainingJob, observed: Observed, now: datetime) -> bool:
    """Return whether the certificates are to be renewed: too little is left, and no process holds an old one.

    Processes read their certificates when they start, so all of them get new ones together or none does.
    """
    if job.spec.suspend or any_active(observed):
        return False
    end = valid_until(observed)
    return end is not None and end - now < _needed(job)


def valid_until(observed: Observed) -> datetime | None:
    """Return when the first of the job's certificates ends; None when it has none yet."""
    ends = [child.valid_until for child in observed.children.values() if child.valid_until is not None]
    return min(ends, default=None)


def have_ended(job: FederatedTrainingJob, observed: Observed, now: datetime) -> bool:
    """Return whether processes run, and are to run on, whose certificates nobody accepts any more."""
    end = valid_until(observed)
    return not job.spec.suspend and end is not None and now >= end and any_active(observed)


def find_broken(observed: Observed) -> str:
    """Return which of the job's certificates is of no use, and the cure; empty when there is none.

    Nothing is made again by itself: silos trust what the job's first authority has signed, and who changed a Secret
    should hear of it. A leaf's Secret that is deleted is made again, signed by the same authority.
    """
    authority = names.ca_secret(observed.meta.name)
    again = "delete the job and create it again under a new name"
    if problem := _problem(observed, authority):
        return f"Secret {authority} {problem}; {again}"
    for (kind, name), child in sorted(observed.children.items()):
        if kind == "Secret" and child.problem:
            cure = "delete the Secret, and it is made again" if ("Secret", authority) in observed.children else again
            return f"Secret {name} {child.problem}; {cure}"
    return ""


def _problem(observed: Observed, secret: str) -> str:
    child = observed.children.get(("Secret", secret))
    return "" if child is None else child.problem


def _needed(job: FederatedTrainingJob) -> timedelta:
    seconds = job.spec.active_deadline_seconds
    return LEAST if seconds is None else timedelta(seconds=seconds)


def any_active(observed: Observed) -> bool:
    """Return whether a process of the job runs."""
    return any(child.active for child in observed.children.values())

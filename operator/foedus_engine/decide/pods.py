"""When a coordinator's pod that is being deleted may go: pure.

A finalizer keeps it, for its object alone holds the result until that is in the job's status: a node that is drained
or lost between the two would take the news with it, and the job would seem to have failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from foedus_engine import names
from foedus_engine.decide.ending import is_terminal
from foedus_engine.decide.plan import Plan
from foedus_engine.decide.pod_state import result_of

Object = Mapping[str, Any]

# After its grace period: its node may be lost, and a result that nobody can report any more is not waited for.
OVERDUE = timedelta(seconds=60)
LOOK_SECONDS = 5.0


def decide_pod(pod: Object, job: Object | None, *, now: datetime) -> Plan:
    """Return what is to be done about a pod of the training job `job`, which may be gone."""
    meta = pod["metadata"]
    finalizers = meta.get("finalizers", ())
    if names.RESULT_FINALIZER not in finalizers:
        return Plan()
    due = _due(meta)
    if not (_has_been_read(pod, job) or (due is not None and now >= due)):
        waits = [] if due is None else [(due - now).total_seconds()]
        waits += [LOOK_SECONDS] if _is_over(pod) else []  # that its job has ended changes nothing of the pod
        return Plan(requeue_seconds=min(waits, default=None))
    kept = [each for each in finalizers if each != names.RESULT_FINALIZER]
    return Plan(update=({**pod, "metadata": {**meta, "finalizers": kept}},))


def _has_been_read(pod: Object, job: Object | None) -> bool:
    """Say whether nothing of the pod is still to be read: its job is over, or it ended without a result."""
    if job is None or is_terminal(job.get("status") or {}):
        return True
    return _is_over(pod) and not result_of(pod)


def _is_over(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def _due(meta: Mapping[str, Any]) -> datetime | None:
    """Return until when a pod that is being deleted is waited for; its time stamp includes its grace period."""
    stamp = meta.get("deletionTimestamp")
    return datetime.fromisoformat(stamp) + OVERDUE if stamp else None

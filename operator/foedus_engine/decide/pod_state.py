"""What a pod's object says of its process: whether it was started, what it left, and what stands in its way. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from foedus_contract import limits
from foedus_engine import names
from foedus_engine.decide.observed import Trouble

Object = Mapping[str, Any]

MAX_MESSAGE = 512  # a scheduler's sentence names every reason of every kind of node

_IMAGE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip
_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_NO_CLAIM = re.compile(r'persistentvolumeclaim "[^"]*" (not found|is being deleted)')


def has_started(pod: Object) -> bool:
    """Say whether the pod's process was started at some time."""
    return any(status.get("started") or "terminated" in status.get("state", {}) for status in _containers(pod))


def is_live(pod: Object) -> bool:
    """Say whether the pod is not over, and nobody has asked for its end."""
    phase = pod.get("status", {}).get("phase")
    return phase not in {"Succeeded", "Failed"} and "deletionTimestamp" not in pod["metadata"]


def result_of(pod: Object) -> bytes:
    """Return the pod's termination message; nothing when there is none or it is too long."""
    for status in _containers(pod):
        text = str(status.get("state", {}).get("terminated", {}).get("message", "")).encode()
        if 0 < len(text) <= limits.MAX_RESULT_BYTES:
            return text
    return b""


def trouble_of(job: Object, pods: Sequence[Object], refusal: str) -> Trouble | None:
    """Return what keeps the latest pod of a Job from being started.

    `refusal` is why the API server did not let the Job's controller make one.
    """
    if _is_over(job):
        return None
    if job["spec"].get("suspend", False):
        queue = job["metadata"].get("labels", {}).get(names.QUEUE_LABEL)
        return Trouble("Queued", f"waits in the queue {queue}") if queue else None
    if pods:
        return trouble_of_pod(pods[-1])
    if not refusal:
        return None
    return Trouble("QuotaExceeded" if "exceeded quota" in refusal else "CannotStart", refusal[:MAX_MESSAGE])


def trouble_of_pod(pod: Object) -> Trouble | None:
    """Return what keeps a pod from being started."""
    if pod.get("status", {}).get("phase") != "Pending":
        return None
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = str(condition.get("message", ""))[:MAX_MESSAGE]
            return Trouble("VolumeMissing" if _NO_CLAIM.search(message) else "Unschedulable", message)
    for status in _containers(pod):
        waiting = status.get("state", {}).get("waiting", {})
        reason = _reason(str(waiting.get("reason", "")))
        if reason is not None:
            said = str(waiting.get("message", "")) or "no more is said"
            return Trouble(reason, f"{waiting['reason']}: {said}"[:MAX_MESSAGE])
    return None


def _reason(waiting: str) -> Literal["ImagePullFailed", "CannotStart"] | None:
    if waiting in _IMAGE:
        return "ImagePullFailed"
    return "CannotStart" if waiting in _CONTAINER else None


def _is_over(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions", ())
    return any(each["type"] in {"Complete", "Failed"} and each["status"] == "True" for each in conditions)


def _containers(pod: Object) -> Iterator[Mapping[str, Any]]:
    yield from pod.get("status", {}).get("containerStatuses", ())

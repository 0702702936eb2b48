"""What the embedded engine does next about one Job, and the status it shows: pure, after batch/v1's rules.

A Job runs one pod at a time until one succeeds; failures are judged by podFailurePolicy, then counted against
backoffLimit. Pods that the engine itself stopped (suspension, deletion, its own end) count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

PodState = Literal["Running", "Succeeded", "Failed", "FailJob", "Ignored", "Stopped", "Lost"]

BACKOFF_LIMIT = 6  # batch/v1's default
BACKOFF_SECONDS = 1.0  # Kubernetes begins at 10 s; one machine has nothing to protect from a quick second try
MAX_BACKOFF_SECONDS = 60.0
MAX_MESSAGE = 1024


@dataclass(frozen=True)
class PodView:
    """One pod of a Job: its number, how it stands, and how it ended."""

    number: int
    state: PodState
    exit_code: int | None = None
    message: str = ""
    finished: float = 0.0


@dataclass(frozen=True)
class Decision:
    """What to do now (nothing: None), the status to show, and when to look again (None: when something changes)."""

    action: Literal["Start", "Stop"] | None
    status: Mapping[str, Any]
    wait_seconds: float | None = None


@dataclass(frozen=True)
class Verdict:
    """How a Job ends."""

    type: Literal["Complete", "Failed"]
    reason: str
    message: str


def judge_exit(job: Mapping[str, Any], exit_code: int) -> PodState:
    """Return what an exit code means under the Job's podFailurePolicy: its first matching rule counts."""
    if exit_code == 0:
        return "Succeeded"
    for rule in job["spec"].get("podFailurePolicy", {}).get("rules", ()):
        if _matches(rule.get("onExitCodes"), exit_code):
            states: Mapping[str, PodState] = {"FailJob": "FailJob", "Ignore": "Ignored", "Count": "Failed"}
            return states[rule["action"]]
    return "Failed"


def decide_job(job: Mapping[str, Any], pods: Sequence[PodView], *, now: datetime) -> Decision:
    """Decide from the Job as stored and its pods; the same input gives the same decision."""
    status: Mapping[str, Any] = job.get("status", {})
    running = any(pod.state == "Running" for pod in pods)
    if is_finished(status):
        return Decision("Stop" if running else None, status)
    counts = _counts(pods)
    conditions = tuple(status.get("conditions", ()))
    if job["spec"].get("suspend", False):
        shown = _condition(conditions, "Suspended", "True", "JobSuspended", "Job suspended", now)
        return Decision("Stop" if running else None, {**counts, "conditions": shown})
    if _has(conditions, "Suspended"):
        conditions = _condition(conditions, "Suspended", "False", "JobResumed", "Job resumed", now)
    start = _parse(status["startTime"]) if "startTime" in status else now
    base = {**counts, "startTime": _stamp(start), "conditions": conditions}
    verdict = _verdict(job, pods, start=start, now=now)
    if verdict is not None:
        return _end(base, verdict, running=running, now=now)
    if running:
        return Decision(None, base, _until_deadline(job, start=start, now=now))
    pause = _pause(pods, now=now)
    if pause > 0:
        left = _until_deadline(job, start=start, now=now)
        return Decision(None, base, pause if left is None else min(pause, left))
    return Decision("Start", {**base, "active": 1})


def is_finished(status: Mapping[str, Any]) -> bool:
    """Say whether the Job is complete or has failed for good."""
    return any(_has(status.get("conditions", ()), kind) for kind in ("Complete", "Failed"))


def _verdict(job: Mapping[str, Any], pods: Sequence[PodView], *, start: datetime, now: datetime) -> Verdict | None:
    if any(pod.state == "Succeeded" for pod in pods):
        return Verdict("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
    failed = [pod for pod in pods if pod.state in {"Failed", "FailJob"}]
    fatal = [pod for pod in failed if pod.state == "FailJob"]
    if fatal:
        said = _said(f"exit code {fatal[-1].exit_code} matches a FailJob rule", fatal[-1])
        return Verdict("Failed", "PodFailurePolicy", said[:MAX_MESSAGE])
    if len(failed) > job["spec"].get("backoffLimit", BACKOFF_LIMIT):
        said = _said(f"{len(failed)} pods failed, the last with exit code {failed[-1].exit_code}", failed[-1])
        return Verdict("Failed", "BackoffLimitExceeded", said[:MAX_MESSAGE])
    left = _until_deadline(job, start=start, now=now)
    if left is not None and left <= 0:
        return Verdict("Failed", "DeadlineExceeded", "Job was active longer than its activeDeadlineSeconds")
    return None


def _said(how: str, pod: PodView) -> str:
    return f"{how}: {pod.message}" if pod.message else how  # a process that was killed leaves no last words


def _end(base: Mapping[str, Any], verdict: Verdict, *, running: bool, now: datetime) -> Decision:
    """Finish the Job, once its last process is gone: a finished Job has no active pod."""
    if running:
        return Decision("Stop", base)
    conditions = _condition(base["conditions"], verdict.type, "True", verdict.reason, verdict.message, now)
    completion = {"completionTime": _stamp(now)} if verdict.type == "Complete" else {}
    return Decision(None, {**base, **completion, "conditions": conditions})


def _counts(pods: Sequence[PodView]) -> dict[str, int]:
    running = sum(pod.state == "Running" for pod in pods)
    return {
        "active": running,
        "ready": running,
        "succeeded": sum(pod.state == "Succeeded" for pod in pods),
        "failed": sum(pod.state in {"Failed", "FailJob"} for pod in pods),
    }


def _pause(pods: Sequence[PodView], *, now: datetime) -> float:
    """Return the seconds until the next start may be: doubling with each failure, counted or ignored."""
    failed = [pod for pod in pods if pod.state in {"Failed", "Ignored"}]
    if not failed:
        return 0.0
    # Beyond 2^6 the cap holds; the bound keeps the power small whatever backoffLimit says.
    backoff = min(BACKOFF_SECONDS * 2 ** min(len(failed) - 1, 6), MAX_BACKOFF_SECONDS)
    # Never longer than the back-off itself: the wall clock may have been set back since.
    return float(min(backoff, failed[-1].finished + backoff - now.timestamp()))


def _until_deadline(job: Mapping[str, Any], *, start: datetime, now: datetime) -> float | None:
    seconds = job["spec"].get("activeDeadlineSeconds")
    # startTime is kept in whole seconds; the one second more lets no Job end before its time.
    return None if seconds is None else seconds + 1 - (now - start).total_seconds()


def _matches(rule: Mapping[str, Any] | None, exit_code: int) -> bool:
    if rule is None:
        return False
    return bool((exit_code in rule["values"]) == (rule["operator"] == "In"))


def _has(conditions: Sequence[Mapping[str, Any]], kind: str) -> bool:
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def _condition(
    conditions: Sequence[Mapping[str, Any]], kind: str, status: str, reason: str, message: str, now: datetime
) -> tuple[Mapping[str, Any], ...]:
    """Return the conditions with one set; its transition time moves only when its status does."""
    for old in conditions:
        if old["type"] == kind and old["status"] == status:
            return tuple(conditions)
    new = {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": _stamp(now)}
    return (*(old for old in conditions if old["type"] != kind), new)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)

"""What the embedded engine decides about a Job, as a table."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from foedus_engine.cluster.jobs import PodView, decide_job, judge_exit

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
STARTED = {"startTime": "2026-03-01T11:59:50Z"}  # ten seconds ago


def job(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"spec": spec, "status": status or {}}


def failed(count: int, state: str = "Failed", seconds_ago: float = 3600) -> list[PodView]:
    finished = NOW.timestamp() - seconds_ago
    return [PodView(number, state, 3, "why", finished) for number in range(count)]


RUNNING = PodView(0, "Running")
COMPLETE = {"conditions": [{"type": "Complete", "status": "True"}]}
SUSPENDED = {"conditions": [{"type": "Suspended", "status": "True"}]}


@pytest.mark.parametrize(
    ("case", "pods", "action", "wait"),
    [
        (job(), [], "Start", None),
        (job(), [RUNNING], None, None),
        (job(STARTED, activeDeadlineSeconds=30), [RUNNING], None, 21.0),
        (job(STARTED, activeDeadlineSeconds=9), [RUNNING], "Stop", None),
        (job(STARTED, activeDeadlineSeconds=10), [RUNNING], None, 1.0),
        (job(suspend=True), [], None, None),
        (job(suspend=True), [RUNNING], "Stop", None),
        (job(SUSPENDED), [PodView(0, "Stopped")], "Start", None),
        (job(COMPLETE), [RUNNING], "Stop", None),
        (job(COMPLETE), [], None, None),
        (job(), [PodView(0, "Lost")], "Start", None),
        (job(), failed(1, seconds_ago=0.25), None, 0.75),
        (job(), failed(3, seconds_ago=0), None, 4.0),
        (job(), failed(3, seconds_ago=-86400), None, 4.0),  # the clock was set back since
        (job(), failed(1, "Ignored", seconds_ago=0), None, 1.0),
        (job(backoffLimit=99), failed(50, seconds_ago=0), None, 60.0),
        (job(STARTED, activeDeadlineSeconds=11), failed(3, seconds_ago=0), None, 2.0),
        (job(backoffLimit=2), failed(2), "Start", None),
        (job(backoffLimit=2), failed(3), None, None),
    ],
)
def test_next_action(case: dict[str, Any], pods: list[PodView], action: str | None, wait: float | None) -> None:
    decision = decide_job(case, pods, now=NOW)
    assert (decision.action, decision.wait_seconds) == (action, wait)


@pytest.mark.parametrize(
    ("case", "pods", "condition", "said"),
    [
        (job(), [PodView(0, "Succeeded", 0)], ("Complete", "CompletionsReached"), "Reached"),
        (job(backoffLimit=0), failed(1), ("Failed", "BackoffLimitExceeded"), "exit code 3: why"),
        (job(backoffLimit=9), failed(1, "FailJob"), ("Failed", "PodFailurePolicy"), "exit code 3"),
        (job(STARTED, activeDeadlineSeconds=9), [], ("Failed", "DeadlineExceeded"), "longer"),
        (job(suspend=True), [], ("Suspended", "JobSuspended"), "suspended"),
    ],
)
def test_conditions(case: dict[str, Any], pods: list[PodView], condition: tuple[str, str], said: str) -> None:
    shown = decide_job(case, pods, now=NOW).status["conditions"]
    assert [(each["type"], each["reason"]) for each in shown if each["status"] == "True"] == [condition]
    assert said in shown[-1]["message"]


def test_resuming_restarts_the_clock_and_says_so() -> None:
    status = decide_job(job(SUSPENDED, activeDeadlineSeconds=5), [], now=NOW).status
    assert status["startTime"] == "2026-03-01T12:00:00Z"
    assert [(each["type"], each["status"]) for each in status["conditions"]] == [("Suspended", "False")]


def test_an_unchanged_situation_gives_an_unchanged_status() -> None:
    first = decide_job(job(suspend=True), [], now=NOW).status
    again = decide_job({"spec": {"suspend": True}, "status": first}, [], now=NOW + timedelta(hours=1)).status
    assert again == first


RULES = [
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [5]}},
    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [5, 10]}},
    {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [7]}},
    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [7]}},
]


@pytest.mark.parametrize(
    ("code", "state"), [(0, "Succeeded"), (5, "Ignored"), (10, "FailJob"), (8, "Failed"), (7, "FailJob")]
)
def test_first_matching_rule_judges_an_exit_code(code: int, state: str) -> None:
    assert judge_exit(job(podFailurePolicy={"rules": RULES}), code) == state


def test_without_a_policy_every_failure_counts() -> None:
    assert judge_exit(job(), 10) == "Failed"

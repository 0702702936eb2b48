"""How long the coordinator's pod is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from foedus_engine.decide.pods import decide_pod

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUNNING: dict[str, Any] = {"status": {}}
OVER: dict[str, Any] = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}


def pod(phase: str, *, result: str = "", deleted: bool = False, held: bool = True) -> dict[str, Any]:
    terminated = {"exitCode": 0, "message": result}
    return {
        "metadata": {
            "name": "p",
            "finalizers": ["batch.kubernetes.io/job-tracking", *(["foedus.dev/result"] if held else [])],
            **({"deletionTimestamp": "2026-03-01T12:00:00Z"} if deleted else {}),
        },
        "status": {"phase": phase, "containerStatuses": [{"state": {"terminated": terminated}}] if result else []},
    }


@pytest.mark.parametrize(
    ("found", "job", "later", "released", "again"),
    [
        (pod("Running"), RUNNING, 0, False, None),
        (pod("Running", deleted=True), RUNNING, 0, False, 60.0),
        (pod("Running", deleted=True), RUNNING, 59, False, 1.0),
        (pod("Running", deleted=True), RUNNING, 60, True, None),  # its node is lost
        (pod("Succeeded", result="{}"), RUNNING, 0, False, 5.0),  # the result is still to be read
        (pod("Succeeded", result="{}", deleted=True), RUNNING, 0, False, 5.0),
        (pod("Succeeded", result="{}", deleted=True), RUNNING, 58, False, 2.0),
        (pod("Succeeded", result="{}"), OVER, 0, True, None),
        (pod("Failed"), RUNNING, 0, True, None),  # it left nothing
        (pod("Failed", deleted=True), RUNNING, 0, True, None),
        (pod("Running"), OVER, 0, True, None),
        (pod("Running", deleted=True), None, 0, True, None),  # the job is gone
        (pod("Succeeded", result="{}", held=False), None, 0, False, None),
    ],
)
def test_a_pod_is_kept_until_its_result_has_been_read(
    found: dict[str, Any], job: dict[str, Any] | None, later: float, released: bool, again: float | None
) -> None:
    plan = decide_pod(found, job, now=NOW + timedelta(seconds=later))

    kept = [each["metadata"]["finalizers"] for each in plan.update]
    assert kept == ([["batch.kubernetes.io/job-tracking"]] if released else [])
    assert plan.requeue_seconds == again

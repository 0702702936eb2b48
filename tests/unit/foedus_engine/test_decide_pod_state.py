"""What stands in a pod's way, as real API servers say it."""

from __future__ import annotations

from typing import Any

import pytest

from foedus_engine.decide.observed import Trouble
from foedus_engine.decide.pod_state import has_started, is_live, result_of, trouble_of

GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. no new claims to deallocate."
NO_CLAIM = '0/3 nodes are available: persistentvolumeclaim "base" not found.'
UNBOUND = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."
QUOTA = 'Error creating: pods "demo-silo-1-x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2'
LEVEL = 'Error creating: pods "demo-silo-1-x" is forbidden: violates PodSecurity "restricted:latest"'


def job(**spec: Any) -> dict[str, Any]:
    labels = {"kueue.x-k8s.io/queue-name": "team-a"} if spec.pop("queued", False) else {}
    conditions = [{"type": "Failed", "status": "True"}] if spec.pop("failed", False) else []
    return {"metadata": {"name": "j", "labels": labels}, "spec": spec, "status": {"conditions": conditions}}


def unscheduled(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"status": {"phase": "Pending", "conditions": [condition]}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"status": {"phase": "Pending", "containerStatuses": [{"started": False, "state": state}]}}


RUNNING = {"status": {"phase": "Running", "containerStatuses": [{"started": True, "state": {"running": {}}}]}}


@pytest.mark.parametrize(
    ("of", "pods", "refusal", "trouble"),
    [
        (job(), [], "", None),
        (job(), [], QUOTA, Trouble("QuotaExceeded", QUOTA)),
        (job(), [], LEVEL, Trouble("CannotStart", LEVEL)),
        (job(failed=True), [], QUOTA, None),
        (job(suspend=True), [], "", None),
        (job(suspend=True, queued=True), [], "", Trouble("Queued", "waits in the queue team-a")),
        (job(queued=True), [RUNNING], "", None),
        (job(), [unscheduled(GPU)], "", Trouble("Unschedulable", GPU)),
        (job(), [unscheduled(UNBOUND)], "", Trouble("Unschedulable", UNBOUND)),
        (job(), [unscheduled(NO_CLAIM)], "", Trouble("VolumeMissing", NO_CLAIM)),
        (job(), [unscheduled(GPU), RUNNING], "", None),  # the latest counts
        (job(), [waiting("ContainerCreating")], "", None),
        (job(), [waiting("ErrImagePull", "x")], "", Trouble("ImagePullFailed", "ErrImagePull: x")),
        (job(), [waiting("ImagePullBackOff", "x")], "", Trouble("ImagePullFailed", "ImagePullBackOff: x")),
        (job(), [waiting("InvalidImageName")], "", Trouble("ImagePullFailed", "InvalidImageName: no more is said")),
        (
            job(),
            [waiting("CreateContainerConfigError", 'secret "s" not found')],
            "",
            Trouble("CannotStart", 'CreateContainerConfigError: secret "s" not found'),
        ),
        (job(), [{"status": {}}], "", None),
        (job(), [{"status": {"phase": "Failed", "containerStatuses": []}}], "", None),
    ],
)
def test_what_keeps_a_pod_from_being_started(
    of: dict[str, Any], pods: list[dict[str, Any]], refusal: str, trouble: Trouble | None
) -> None:
    assert trouble_of(of, pods, refusal) == trouble


def ended(message: str) -> dict[str, Any]:
    return {"status": {"containerStatuses": [{"state": {"terminated": {"exitCode": 0, "message": message}}}]}}


@pytest.mark.parametrize(
    ("pod", "started", "result"),
    [
        ({}, False, b""),
        (waiting("ContainerCreating"), False, b""),
        (RUNNING, True, b""),
        (ended("{}"), True, b"{}"),
        (ended("x" * 4096), True, b"x" * 4096),
        (ended("x" * 4097), True, b""),
    ],
)
def test_what_a_pod_leaves(pod: dict[str, Any], started: bool, result: bytes) -> None:
    assert (has_started(pod), result_of(pod)) == (started, result)


@pytest.mark.parametrize(
    ("phase", "meta", "lives"),
    [
        ("Pending", {}, True),
        ("Running", {}, True),
        ("Running", {"deletionTimestamp": "2026-03-01T12:00:00Z"}, False),
        ("Succeeded", {}, False),
        ("Failed", {}, False),
    ],
)
def test_a_pod_lives_until_it_is_over_or_somebody_ends_it(phase: str, meta: dict[str, Any], lives: bool) -> None:
    assert is_live({"metadata": meta, "status": {"phase": phase}}) is lives

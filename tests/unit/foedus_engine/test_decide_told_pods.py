"""Until the silos' policy is made the job is looked at often, and then the pods that wait for it are told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from foedus_engine.build.pods import Settings
from foedus_engine.decide.observed import ChildView, Observed
from foedus_engine.decide.training import decide_training
from support.brain import NOW, job, running

POLICY = {("ConfigMap", "demo-policy"): ChildView("uid-policy", content={"metadata": {}})}
SETTINGS = Settings(poll_seconds=5.0)


def pod(created: str = "2026-03-01T11:59:10Z", annotations: dict[str, str] | None = None) -> dict[str, Any]:
    meta = {"name": "demo-silo-1-x", "resourceVersion": "7", "creationTimestamp": created}
    return {"kind": "Pod", "metadata": meta | ({"annotations": annotations} if annotations else {}), "spec": {"a": 1}}


def world(made: str, *pods: dict[str, Any]) -> Observed:
    seen = running(silo_pods=pods)
    policy = ChildView("uid-policy", content={"metadata": {"creationTimestamp": made}})
    return replace(seen, children={**seen.children, ("ConfigMap", "demo-policy"): policy})


@pytest.mark.parametrize(
    ("made", "created", "annotations", "told"),
    [
        ("2026-03-01T11:59:40Z", "2026-03-01T11:59:10Z", {}, {"foedus.dev/told": "uid-policy"}),
        ("2026-03-01T11:59:40Z", "2026-03-01T11:59:40Z", {"a": "b"}, {"a": "b", "foedus.dev/told": "uid-policy"}),
        ("2026-03-01T11:59:40Z", "2026-03-01T11:59:41Z", {}, None),  # it has found the policy
        ("2026-03-01T11:59:40Z", "2026-03-01T11:59:10Z", {"foedus.dev/told": "uid-policy"}, None),
        ("2026-03-01T11:57:59Z", "2026-03-01T11:57:00Z", {}, None),  # its kubelet has looked by now
    ],
)
def test_a_pod_that_is_older_than_its_policy_is_told(
    made: str, created: str, annotations: dict[str, str], told: dict[str, str] | None
) -> None:
    seen = pod(created, annotations)
    plan = decide_training(job(), world(made, seen), now=NOW, settings=SETTINGS)
    wanted = {**seen, "metadata": {**seen["metadata"], "annotations": told}}
    assert plan.hasten == (() if told is None else (wanted,))


def test_without_a_policy_nobody_is_told() -> None:
    assert decide_training(job(), running(silo_pods=(pod(),)), now=NOW, settings=SETTINGS).hasten == ()


@pytest.mark.parametrize(("minutes", "policy", "again"), [(0, False, 1.0), (1, False, 5.0), (0, True, 5.0)])
def test_a_job_is_looked_at_often_while_silos_have_just_started(minutes: int, policy: bool, again: float) -> None:
    # The quorum has had processes since a minute before NOW.
    seen = running()
    seen = replace(seen, children={**seen.children, **(POLICY if policy else {})})
    plan = decide_training(job(), seen, now=NOW + timedelta(minutes=minutes), settings=SETTINGS)
    assert plan.requeue_seconds == again

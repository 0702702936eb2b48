"""What is applied again: what is gone, what was made from another manifest, and what somebody has changed."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from foedus_engine.decide.drift import drifted
from foedus_engine.decide.observed import ChildView, Observed
from foedus_engine.decide.plan import Manifest, key_of
from foedus_engine.decide.training import decide_training
from support.brain import NOW, SILOS, job, meta, reserved

STARTED = frozenset({"demo-coordinator", *(f"demo-{silo}" for silo in SILOS)})


def settled(**spec: Any) -> Observed:
    """Return the world after everything was made, with what an API server fills in."""
    plan = decide_training(job(**spec), reserved(started=STARTED), now=NOW)
    children = {(made["kind"], made["metadata"]["name"]): as_read(made) for made in plan.apply}
    assert plan.status is not None
    return reserved(started=STARTED, children=children, meta=meta(dict(plan.status)))


def as_read(manifest: Manifest) -> ChildView:
    live = copy.deepcopy(dict(manifest))
    live["metadata"] |= {"uid": f"uid-{live['metadata']['name']}", "resourceVersion": "7", "managedFields": [{}]}
    if live["kind"] == "Service":
        live["spec"] |= {"clusterIP": "10.0.0.7", "sessionAffinity": "None"}
    if live["kind"] == "Job":
        live["spec"] |= {"completionMode": "NonIndexed", "selector": {"matchLabels": {"x": "y"}}}
        live["spec"]["template"]["spec"] |= {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}
    return ChildView(live["metadata"]["uid"], version="7", content=live)


def changed(world: Observed, kind: str, name: str, path: str, value: Any) -> Observed:
    """Return the world after somebody has set a field of a child, or removed it with None."""
    content: Any = copy.deepcopy(dict(world.children[kind, name].content))
    *steps, last = path.split(".")
    place = content
    for step in steps:
        place = place[int(step) if step.isdigit() else step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return replace(
        world, children={**world.children, (kind, name): replace(world.children[kind, name], content=content)}
    )


def applied(world: Observed, **spec: Any) -> list[str]:
    return [str(key_of(made)) for made in decide_training(job(**spec), world, now=NOW).apply]


def test_what_is_as_it_should_be_is_left_alone() -> None:
    assert applied(settled()) == []


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "repaired"),
    [
        ("ConfigMap", "demo-silo-1", "data", {"run-spec.json": "{}"}, True),
        ("ConfigMap", "demo-silo-1", "data", None, True),
        ("ConfigMap", "demo-silo-1", "metadata.ownerReferences", [], True),
        ("ConfigMap", "demo-silo-1", "metadata.annotations", {}, True),  # as one of another version
        ("NetworkPolicy", "demo-deny", "spec.policyTypes", ["Ingress"], True),
        ("NetworkPolicy", "demo-client", "spec.egress.0.ports", None, True),
        ("Service", "demo-coordinator", "spec.ports.0.port", 80, True),
        ("ServiceAccount", "demo-client", "automountServiceAccountToken", True, True),
        ("PodDisruptionBudget", "demo-client", "spec.minAvailable", 1, True),
        ("Job", "demo-silo-1", "spec.suspend", True, True),
        ("Job", "demo-silo-1", "spec.backoffLimit", 0, True),
        ("Job", "demo-silo-1", "metadata.labels", {}, True),
        ("ConfigMap", "demo-silo-1", "metadata.labels.team", "a", False),  # what is not ours stays
        ("Service", "demo-coordinator", "spec.sessionAffinity", "ClientIP", False),
        ("Job", "demo-silo-1", "spec.template.spec.containers.0.image", "older", False),  # batch/v1 cannot change it
    ],
)
def test_a_changed_child_is_repaired(kind: str, name: str, path: str, value: Any, repaired: bool) -> None:
    world = changed(settled(), kind, name, path, value)

    assert applied(world) == ([f"{kind} team-a/{name}"] if repaired else [])


@pytest.mark.parametrize(
    "child", [("ConfigMap", "demo-silo-2"), ("NetworkPolicy", "demo-deny"), ("Job", "demo-silo-2")]
)
def test_a_deleted_child_is_made_again(child: tuple[str, str]) -> None:
    world = settled()
    children = {key: view for key, view in world.children.items() if key != child}

    assert applied(replace(world, children=children)) == [f"{child[0]} team-a/{child[1]}"]


def test_a_repair_names_the_object_that_was_seen_and_one_that_is_new_names_none() -> None:
    world = changed(settled(), "ConfigMap", "demo-silo-1", "data", {})
    children = {key: view for key, view in world.children.items() if key != ("ConfigMap", "demo-silo-2")}
    plan = decide_training(job(), replace(world, children=children), now=NOW)

    uids = {made["metadata"]["name"]: made["metadata"].get("uid") for made in plan.apply}
    assert uids == {"demo-silo-1": "uid-demo-silo-1", "demo-silo-2": None}


def test_suspending_changes_every_job_and_nothing_of_its_template() -> None:
    world = changed(settled(), "Job", "demo-silo-1", "spec.template.spec.containers.0.image", "older")
    plan = decide_training(job(suspend=True), world, now=NOW)

    assert {made["spec"]["suspend"] for made in plan.apply} == {True}
    assert len(plan.apply) == 5
    images = {
        made["metadata"]["name"]: made["spec"]["template"]["spec"]["containers"][0]["image"] for made in plan.apply
    }
    assert images["demo-silo-1"] == "older"


def test_a_job_that_is_over_is_not_touched() -> None:
    world = changed(settled(), "Job", "demo-silo-1", "spec.suspend", True)
    over = replace(world.children["Job", "demo-silo-1"], finished="Complete")

    assert applied(replace(world, children={**world.children, ("Job", "demo-silo-1"): over})) == []


@pytest.mark.parametrize(
    ("live", "wanted", "repaired"),
    [(True, False, False), (False, False, False), (False, True, True), (True, True, False)],
)
def test_a_queue_lifts_the_suspension_and_only_a_job_that_is_suspended_brings_it_back(
    live: bool, wanted: bool, repaired: bool
) -> None:
    labels = {"foedus.dev/job": "demo", "kueue.x-k8s.io/queue-name": "team-a"}
    manifest = {
        "kind": "Job",
        "metadata": {"name": "j", "labels": labels},
        "spec": {"backoffLimit": 3, "parallelism": 1},
    }
    seen = {**manifest, "spec": {**manifest["spec"], "suspend": live}}  # type: ignore[dict-item]
    observed = reserved(children={("Job", "j"): ChildView("uid", content=seen)})
    found = drifted([{**manifest, "spec": {**manifest["spec"], "suspend": wanted}}], observed)  # type: ignore[dict-item]

    assert [made["spec"]["suspend"] for made in found] == ([True] if repaired else [])

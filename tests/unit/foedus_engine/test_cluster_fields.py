"""Every field that the builders emit is classed, and what the engine cannot honour is refused with a cure."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from foedus_contract.errors import InvalidInput
from foedus_contract.plan import TrainingPlan
from foedus_engine.api.parse import parse
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.build.metadata import Owner
from foedus_engine.build.pods import Settings
from foedus_engine.cluster import fields
from foedus_engine.cluster.fields import Treatment
from foedus_engine.decide.children import (
    applied_children,
    ensured_children,
    inspecting_children,
    policy_child,
    told_children,
)
from support.training_plans import ANY_DIGEST, tiny_plan

RESOURCES = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}

SCHEDULING = {
    "nodeSelector": {"topology.kubernetes.io/region": "eu-west-1"},
    "tolerations": [{"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 60}],
    "runtimeClassName": "kata",
}


def claim(name: str) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name, "path": "x.jsonl"}}


FULL_JOB = {
    "apiVersion": "foedus.dev/v1alpha1",
    "kind": "FederatedTrainingJob",
    "metadata": {"name": "tiny", "namespace": "default"},
    "spec": {
        "model": {
            "source": {"persistentVolumeClaim": {"claimName": "base", "path": "model"}},
            "task": "SequenceClassification",
            "labels": ["business", "sport"],
            "maxTokens": 16,
        },
        "lora": {"rank": 1, "alpha": 1, "targetModules": ["query"], "lastLayers": 1},
        "training": {
            "rounds": 4,
            "seed": 1,
            "microBatchSize": 4,
            "optimizer": {"learningRate": 0.5, "headLearningRate": 0.5, "momentum": 0.9},
        },
        "clients": [
            {"name": f"silo-{n}", "budgetRef": {"name": f"silo-{n}"}, "data": claim(f"silo-{n}")} for n in range(1, 5)
        ],
        "evaluation": {"data": claim("public")},
        "resources": {"coordinator": RESOURCES, "client": RESOURCES},
        "scheduling": {"coordinator": SCHEDULING, "client": SCHEDULING},
    },
}


def emitted() -> list[Mapping[str, Any]]:
    """Return every manifest that the builders make of a job that uses every optional part."""
    job = parse(FederatedTrainingJob, FULL_JOB)
    owner = Owner("FederatedTrainingJob", "default", "tiny", "u-1")
    plan: TrainingPlan = tiny_plan(ANY_DIGEST)
    ensured = [*ensured_children(job, owner), policy_child(owner, {"silo-1": b"k" * 32})]
    inspecting = inspecting_children(job, owner, Settings())
    applied = (*inspecting, *told_children(job, owner, plan, Settings()), *applied_children(job, owner, Settings()))
    return [*applied, *(each.manifest for each in ensured)]


def test_every_field_that_the_builders_emit_is_honoured_or_said_not_to_be() -> None:
    unclassed = {
        f"{manifest['kind']} {path}"
        for manifest in emitted()
        for path, _ in fields.field_paths(manifest)
        if fields.classify(manifest, path) in {None, Treatment.REFUSED}
    }
    assert unclassed == set()
    assert {manifest["kind"] for manifest in emitted()} == {kind for _, kind in fields.TREATMENTS}


def test_what_the_builders_emit_is_supported() -> None:
    for manifest in emitted():
        fields.check_supported(manifest)


def test_every_field_that_is_not_enforced_is_said() -> None:
    said = "\n".join(fields.limitations())
    assert said.startswith(fields.ISOLATION)
    for manifest in emitted():
        for path, _ in fields.field_paths(manifest):
            if fields.classify(manifest, path) is Treatment.NOT_ENFORCED:
                assert any(f" {known}" in said for known in _ancestors(path)), path


def _ancestors(path: str) -> list[str]:
    steps = path.split(".")
    return [".".join(steps[:count]).removesuffix("[]") for count in range(1, len(steps) + 1)]


def coordinator() -> dict[str, Any]:
    return copy.deepcopy(next(dict(each) for each in emitted() if each["kind"] == "Job"))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.parallelism", 2, "spec.parallelism can only be 1"),
        ("spec.template.spec.restartPolicy", "OnFailure", "restartPolicy can only be Never"),
        ("spec.template.spec.hostNetwork", True, "does not support spec.template.spec.hostNetwork"),
        ("spec.template.spec.initContainers", [], "does not support spec.template.spec.initContainers"),
        ("spec.template.spec.invented", 1, "does not support spec.template.spec.invented"),
        ("spec.template.spec.containers", [], "0 containers"),
        ("spec.template.spec.containers.0.envFrom", [{"secretRef": {"name": "x"}}], "envFrom"),
        ("spec.template.spec.containers.0.env", [{"name": "X", "valueFrom": {}}], "valueFrom"),
        ("spec.template.spec.containers.0.command", ["sh", "-c"], "not python"),
        ("spec.template.spec.containers.0.volumeMounts.0.mountPath", "/a/../b", "not an absolute clean path"),
        ("spec.template.spec.containers.0.volumeMounts.0.mountPath", "relative", "not an absolute clean path"),
        ("spec.template.spec.containers.0.volumeMounts.0.mountPath", "/tmp/inner", "inside mount"),
        ("spec.template.spec.containers.0.volumeMounts.0.name", "nowhere", "no volume nowhere"),
        ("spec.template.spec.volumes.0", {"name": "spec", "hostPath": {"path": "/etc"}}, "hostPath"),
        ("metadata.finalizers", ["x"], "metadata.finalizers"),
        ("metadata.namespace", "", "has no namespace"),
        ("kind", "CronJob", "no such kind"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_a_cure(path: str, value: object, said: str) -> None:
    manifest = coordinator()
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = manifest
    for step in steps:
        place = place[step]
    place[last] = value
    with pytest.raises(InvalidInput) as caught:
        fields.check_supported(manifest)
    assert said in str(caught.value)
    assert caught.value.cure


@pytest.mark.parametrize("key", ["../up", "..data", "a/b", "", "a\n"])
def test_data_keys_are_file_names(key: str) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b"}}
    with pytest.raises(InvalidInput, match=r"cannot be a file name|does not support"):
        fields.check_supported({**manifest, "data": {key: "x"}})

"""Every manifest that the builders make, against files that a person has read.

To write the files again after a change that is meant: FOEDUS_WRITE_GOLDEN=1 python -m pytest <this file>, then read
the difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from foedus_contract import paths
from foedus_contract.exit_codes import ExitCode
from foedus_contract.limits import MAX_MANIFEST_BYTES
from foedus_contract.run_spec import (
    ClientRunSpec,
    CoordinatorRunSpec,
    InspectorRunSpec,
    LedgerService,
    SiloPolicy,
    parse_run_spec,
)
from foedus_engine.build.config import (
    build_client_config,
    build_coordinator_config,
    build_inspector_config,
    build_policy,
)
from foedus_engine.build.identity import build_disruption_budget, build_service_account
from foedus_engine.build.metadata import Owner
from foedus_engine.build.network import (
    build_client_edges,
    build_coordinator_edges,
    build_coordinator_service,
    build_denial,
)
from foedus_engine.build.pods import Settings
from foedus_engine.build.reader import Reading, build_reader
from foedus_engine.build.roles import build_client_job, build_coordinator_job, build_inspector_job
from foedus_engine.build.storage import (
    build_ca_secret,
    build_client_secret,
    build_coordinator_secret,
    build_ledger_claim,
    build_operator_secret,
    build_output_claim,
    build_state_claim,
)
from foedus_engine.decide.children import child_keys, owner_of
from foedus_engine.decide.plan import key_of
from foedus_engine.decide.training import decide_training
from foedus_engine.decide.training_plan import make_training_plan
from foedus_engine.names import QUEUE_LABEL
from support.brain import CALIBRATED, NOW, SILOS, fresh, job, meta, reserved

GOLDEN = Path(__file__).parents[2] / "golden"
KEYS = {silo: bytes([number]) * 32 for number, silo in enumerate(SILOS, 1)}
OWNER = owner_of(meta())
JOB = job()
ON_VOLUME = job(
    model={
        "source": {"persistentVolumeClaim": {"claimName": "base", "path": "minilm"}},
        "labels": ["no", "yes"],
    },
    lora=None,
    evaluation=None,
    resources={
        "client": {"requests": {"cpu": 2}, "limits": {"nvidia.com/gpu": 1}},
        "coordinator": {"limits": {"memory": "1Gi"}},
    },
    scheduling={
        "client": {
            "nodeSelector": {"topology.kubernetes.io/region": "eu-west-1"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "runtimeClassName": "nvidia",
        }
    },
)
QUEUED = JOB.model_copy(update={"metadata": JOB.metadata.model_copy(update={"labels": {QUEUE_LABEL: "team-a"}})})
PLAN = make_training_plan(JOB, reserved(), CALIBRATED)
SETTINGS = Settings(image="example.org/foedus:test")
PULLING = Settings(image="example.org/foedus:test", image_pull_secrets=("registry",))
SERVICE = LedgerService(
    host="foedus-ledger.foedus-system.svc", port=8443, ca="PEM\n", token="/foedus/ledger-token/token"
)
ON_CLUSTER = Settings(image="example.org/foedus:test", ledger=SERVICE)

OUTLIVES = dict.fromkeys(
    ("ledger-claim", "reader-ledger"), "uid-of-the-budget"
)  # what belongs to a budget, and not to a job

BUILT: dict[str, Any] = {
    "ca-secret": build_ca_secret(OWNER),
    "client-config": build_client_config(OWNER, JOB, JOB.spec.clients[0], PLAN, SETTINGS),
    "client-job": build_client_job(OWNER, JOB, JOB.spec.clients[0], SETTINGS, suspend=False),
    "client-config-cluster": build_client_config(OWNER, JOB, JOB.spec.clients[0], PLAN, ON_CLUSTER),
    "client-job-cluster": build_client_job(OWNER, JOB, JOB.spec.clients[0], ON_CLUSTER, suspend=False),
    "client-job-volume": build_client_job(OWNER, ON_VOLUME, ON_VOLUME.spec.clients[0], SETTINGS, suspend=True),
    "client-edges": build_client_edges(OWNER, SETTINGS),
    "client-edges-cluster": build_client_edges(OWNER, ON_CLUSTER),
    "client-job-queued": build_client_job(OWNER, QUEUED, QUEUED.spec.clients[0], PULLING, suspend=False),
    "client-secret": build_client_secret(OWNER, "silo-1"),
    "client-state": build_state_claim(OWNER, "silo-1"),
    "coordinator-config": build_coordinator_config(OWNER, JOB, PLAN, SETTINGS),
    "coordinator-config-volume": build_coordinator_config(OWNER, ON_VOLUME, PLAN, SETTINGS),
    "coordinator-edges": build_coordinator_edges(OWNER, SETTINGS),
    "coordinator-edges-cluster": build_coordinator_edges(OWNER, ON_CLUSTER),
    "coordinator-job": build_coordinator_job(OWNER, JOB, SETTINGS, suspend=False),
    "coordinator-job-volume": build_coordinator_job(OWNER, ON_VOLUME, SETTINGS, suspend=True),
    "coordinator-output": build_output_claim(OWNER),
    "coordinator-secret": build_coordinator_secret(OWNER),
    "operator-secret": build_operator_secret(OWNER),
    "coordinator-service": build_coordinator_service(OWNER),
    "denial": build_denial(OWNER),
    "disruption-budget": build_disruption_budget(OWNER, 3),
    "inspector-config": build_inspector_config(OWNER, ON_VOLUME),
    "inspector-job": build_inspector_job(OWNER, JOB, SETTINGS),
    "inspector-job-volume": build_inspector_job(OWNER, ON_VOLUME, SETTINGS),
    "service-account": build_service_account(OWNER, "client"),
    "ledger-claim": build_ledger_claim("team-a", "budget-silo-1", OUTLIVES["ledger-claim"]),
    "policy": build_policy(OWNER, KEYS),
    "reader": build_reader(
        OWNER,
        "demo-reader-0a1b2c",
        Reading("demo-coordinator-output", "adapter", scheduling={"nodeSelector": {"disk": "fast"}}),
        PULLING,
    ),
    "reader-ledger": build_reader(
        Owner("PrivacyBudget", "team-a", "budget-silo-1", OUTLIVES["reader-ledger"]),
        "budget-silo-1-reader-0a1b2c",
        Reading("budget-silo-1-ledger", "", ("charges.jsonl",)),
        SETTINGS,
    ),
}


@pytest.mark.parametrize("name", sorted(BUILT))
def test_builder_makes_what_was_agreed(name: str) -> None:
    path = GOLDEN / f"training-{name}.yaml"
    text = yaml.safe_dump(BUILT[name], sort_keys=False, width=118, allow_unicode=True)
    if os.environ.get("FOEDUS_WRITE_GOLDEN"):
        path.write_text(text, "utf-8")

    assert text == path.read_text("utf-8")


def test_every_golden_file_has_a_builder() -> None:
    assert {path.stem for path in GOLDEN.glob("training-*.yaml")} == {f"training-{name}" for name in BUILT}


def test_run_specs_parse_as_the_pods_parse_them() -> None:
    coordinator = parse_run_spec(BUILT["coordinator-config"]["data"][paths.RUN_SPEC_KEY].encode())
    client = parse_run_spec(BUILT["client-config"]["data"][paths.RUN_SPEC_KEY].encode())

    assert isinstance(coordinator, CoordinatorRunSpec)
    assert isinstance(client, ClientRunSpec)
    inspector = parse_run_spec(BUILT["inspector-config"]["data"][paths.RUN_SPEC_KEY].encode())
    assert isinstance(inspector, InspectorRunSpec)
    assert inspector.model.path == "/foedus/model/minilm"
    assert coordinator.plan == client.plan == PLAN
    assert coordinator.listen_service == client.coordinator_service == "demo-coordinator.team-a"
    assert client.budget == "team-a/budget-silo-1"
    assert client.ledger_service is None
    on_cluster = parse_run_spec(BUILT["client-config-cluster"]["data"][paths.RUN_SPEC_KEY].encode())
    assert on_cluster.ledger_service == SERVICE


def test_the_policy_parses_to_the_same_keys() -> None:
    assert SiloPolicy.from_json(BUILT["policy"]["data"]["policy.json"]).pinned == KEYS


def job_manifests() -> list[dict[str, Any]]:
    return [manifest for manifest in BUILT.values() if manifest["kind"] == "Job"]


def pods() -> list[dict[str, Any]]:
    alone = [manifest["spec"] for manifest in BUILT.values() if manifest["kind"] == "Pod"]
    return alone + [manifest["spec"]["template"]["spec"] for manifest in job_manifests()]


@pytest.mark.parametrize("pod", pods())
def test_pods_follow_the_restricted_profile(pod: dict[str, Any]) -> None:
    container = pod["containers"][0]

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"hostPath", "hostNetwork"}.isdisjoint(yaml.safe_dump(pod).replace(":", "").split())


@pytest.mark.parametrize("manifest", job_manifests())
def test_no_pod_mounts_the_authority(manifest: dict[str, Any]) -> None:
    assert "demo-ca" not in yaml.safe_dump(manifest)


@pytest.mark.parametrize("manifest", job_manifests())
def test_a_failure_that_would_come_again_is_final(manifest: dict[str, Any]) -> None:
    disruption, final = manifest["spec"]["podFailurePolicy"]["rules"]

    assert disruption == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert final["action"] == "FailJob"
    assert {ExitCode.BUDGET_REFUSED, ExitCode.INVALID_DATA} <= set(final["onExitCodes"]["values"])
    assert {ExitCode.OK, ExitCode.INTERNAL, ExitCode.UNAVAILABLE}.isdisjoint(final["onExitCodes"]["values"])
    assert manifest["spec"]["podReplacementPolicy"] == "Failed"


def test_only_a_silo_mounts_its_data_and_its_ledger() -> None:
    clients = [build_client_job(OWNER, JOB, client, SETTINGS, suspend=False) for client in JOB.spec.clients]
    for client, manifest in zip(SILOS, clients, strict=True):
        text = yaml.safe_dump(manifest)
        others = [silo for silo in SILOS if silo != client]
        assert f"budget-{client}-ledger" in text
        assert not any(other in text for other in others)
    assert not any(silo in yaml.safe_dump(BUILT["coordinator-job"]) for silo in SILOS)


def test_gather_looks_for_exactly_the_children_that_decide_makes() -> None:
    started = frozenset(f"demo-{silo}" for silo in SILOS)
    looking = decide_training(JOB, fresh(model=None, calibration=None), now=NOW)
    plan = decide_training(JOB, reserved(identities=KEYS, children={}, started=started), now=NOW)
    made = {key_of(item) for item in (*looking.apply, *(ensure.manifest for ensure in plan.ensure), *plan.apply)}

    assert sorted(made) == sorted(child_keys(JOB, "team-a"))


def test_what_a_pod_needs_is_made_before_its_job() -> None:
    for world in (fresh(model=None, calibration=None), reserved()):
        kinds = [manifest["kind"] for manifest in decide_training(JOB, world, now=NOW).apply]
        assert set(kinds[kinds.index("Job") :]) == {"Job"}


def test_no_pod_has_a_token_of_the_cluster_and_each_role_has_an_account_of_its_own() -> None:
    accounts = {}
    for manifest in job_manifests():
        pod = manifest["spec"]["template"]
        assert pod["spec"]["automountServiceAccountToken"] is False
        accounts[pod["metadata"]["labels"]["app.kubernetes.io/component"]] = pod["spec"]["serviceAccountName"]
    assert accounts == {"coordinator": "demo-coordinator", "client": "demo-client", "inspector": "demo-inspector"}


def test_every_child_is_owned_and_labelled() -> None:
    for name, manifest in BUILT.items():
        metadata = manifest["metadata"]
        assert [owner["uid"] for owner in metadata["ownerReferences"]] == [OUTLIVES.get(name, meta().uid)]
        assert metadata["labels"].get("foedus.dev/job") == (None if name in OUTLIVES else "demo")
        assert len(yaml.safe_dump(manifest)) < MAX_MANIFEST_BYTES


def test_builders_return_fresh_data() -> None:
    first = build_client_job(OWNER, JOB, JOB.spec.clients[0], SETTINGS, suspend=False)
    first["spec"]["template"]["spec"]["containers"][0]["resources"].clear()

    assert build_client_job(OWNER, JOB, JOB.spec.clients[0], SETTINGS, suspend=False) == BUILT["client-job"]

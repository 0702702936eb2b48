"""What the roles of a training job are told: run specs and the silos' policy, each in a ConfigMap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foedus_contract import paths
from foedus_contract.plan import TrainingPlan
from foedus_contract.run_spec import (
    ClientRunSpec,
    CoordinatorRunSpec,
    InspectorRunSpec,
    ModelSource,
    SiloPolicy,
    TlsFiles,
)
from foedus_engine import names
from foedus_engine.api.training import ClientSpec, FederatedTrainingJob
from foedus_engine.build.metadata import Owner, build_metadata
from foedus_engine.build.pods import Settings

TLS = TlsFiles(
    certificate=names.mounted(paths.TLS_FOLDER, names.CERTIFICATE_KEY),
    key=names.mounted(paths.TLS_FOLDER, names.PRIVATE_KEY_KEY),
    ca=names.mounted(paths.TLS_FOLDER, names.CA_CERTIFICATE_KEY),
)


def build_coordinator_config(
    owner: Owner, job: FederatedTrainingJob, plan: TrainingPlan, settings: Settings
) -> dict[str, Any]:
    """Return the ConfigMap with the coordinator's run spec."""
    evaluation = job.spec.evaluation
    spec = CoordinatorRunSpec(
        plan=plan,
        listen_service=names.coordinator_service(owner.namespace, owner.name),
        listen_port=names.COORDINATOR_PORT,
        tls=TLS,
        model=_model_source(job),
        evaluation_data=None if evaluation is None else _data_path(evaluation.data.persistent_volume_claim.path),
        output=paths.OUTPUT_FOLDER,
        progress=paths.PROGRESS_FILE,
        ledger_service=settings.ledger,
    )
    name = names.coordinator(owner.name)
    return _config_map(owner, name, names.COORDINATOR_ROLE, "", {paths.RUN_SPEC_KEY: _text(spec.to_json())})


def build_client_config(
    owner: Owner, job: FederatedTrainingJob, client: ClientSpec, plan: TrainingPlan, settings: Settings
) -> dict[str, Any]:
    """Return the ConfigMap with one silo's run spec."""
    spec = ClientRunSpec(
        plan=plan,
        silo=client.name,
        coordinator_service=names.coordinator_service(owner.namespace, owner.name),
        coordinator_port=names.COORDINATOR_PORT,
        tls=TLS,
        model=_model_source(job),
        data=_data_path(client.data.persistent_volume_claim.path),
        state=paths.STATE_FOLDER,
        ledger=names.mounted(paths.LEDGER_FOLDER, names.LEDGER_FILE),
        ledger_service=settings.ledger,
        budget=names.object_key(owner.namespace, client.budget_ref.name),
        policy=names.mounted(paths.POLICY_FOLDER, names.POLICY_KEY),
        progress=paths.PROGRESS_FILE,
    )
    name = names.client(owner.name, client.name)
    return _config_map(owner, name, names.CLIENT_ROLE, client.name, {paths.RUN_SPEC_KEY: _text(spec.to_json())})


def build_inspector_config(owner: Owner, job: FederatedTrainingJob) -> dict[str, Any]:
    """Return the ConfigMap with the run spec of the process that looks at the base model."""
    spec = InspectorRunSpec(model=_model_source(job), progress=paths.PROGRESS_FILE)
    name = names.inspector(owner.name)
    return _config_map(owner, name, names.INSPECTOR_ROLE, "", {paths.RUN_SPEC_KEY: _text(spec.to_json())})


def build_policy(owner: Owner, identities: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the ConfigMap that pins the silos' identity keys; whoever is not in it never counts."""
    policy = SiloPolicy(pinned={silo: identities[silo] for silo in sorted(identities)})
    data = {names.POLICY_KEY: _text(policy.to_json())}
    return _config_map(owner, names.policy(owner.name), names.CLIENT_ROLE, "", data)


def _config_map(owner: Owner, name: str, component: str, silo: str, data: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": build_metadata(owner, name, component, silo),
        "data": dict(data),
    }


def _model_source(job: FederatedTrainingJob) -> ModelSource:
    source = job.spec.model.source
    if source.package is not None:
        return ModelSource(package=source.package.name, package_path=source.package.path or "")
    assert source.persistent_volume_claim is not None  # the API holds that exactly one is given
    path = source.persistent_volume_claim.path
    return ModelSource(path=names.mounted(paths.MODEL_FOLDER, path) if path else paths.MODEL_FOLDER)


def _data_path(path: str) -> str:
    return names.mounted(paths.DATA_FOLDER, path)


def _text(json: bytes) -> str:
    return json.decode("utf-8")

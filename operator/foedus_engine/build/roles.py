"""The Jobs of a training job: the coordinator's and one a silo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foedus_contract import paths
from foedus_engine import names
from foedus_engine.api.training import ClientSpec, FederatedTrainingJob, PodScheduling, ResourceRequirements
from foedus_engine.build.metadata import Owner
from foedus_engine.build.pods import (
    Mount,
    Settings,
    Workload,
    build_job,
    claim_mount,
    config_mount,
    ledger_mounts,
    secret_mount,
)

# MiniLM with its cached activations takes about 1 GiB; half of a small node is left to its neighbours. A silo waits for
# the others most of the time: it asks for a share of a processor, and takes what is free when it computes.
DEFAULT_RESOURCES: Mapping[str, Any] = {
    "requests": {"cpu": "250m", "memory": "2Gi"},
    "limits": {"memory": "4Gi"},
}

# It loads no training framework and hashes files block by block, however large they are.
INSPECTOR_RESOURCES: Mapping[str, Any] = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"memory": "512Mi"},
}


def build_coordinator_job(
    owner: Owner, job: FederatedTrainingJob, settings: Settings, *, suspend: bool
) -> dict[str, Any]:
    """Return the coordinator's Job."""
    name = names.coordinator(owner.name)
    mounts = [
        config_mount("spec", paths.SPEC_FOLDER, name),
        secret_mount("tls", paths.TLS_FOLDER, names.tls_secret(name)),
        claim_mount("output", paths.OUTPUT_FOLDER, names.coordinator_output(owner.name), read_only=False),
        *_model_mount(job),
        *ledger_mounts(settings),
    ]
    if job.spec.evaluation is not None:
        claim = job.spec.evaluation.data.persistent_volume_claim.claim_name
        mounts.append(claim_mount("data", paths.DATA_FOLDER, claim, read_only=True))
    asked = job.spec.resources.coordinator if job.spec.resources else None
    scheduling = job.spec.scheduling.coordinator if job.spec.scheduling else None
    return build_job(
        owner,
        Workload(
            name=name,
            component=names.COORDINATOR_ROLE,
            silo="",
            mounts=mounts,
            resources=_resources(asked),
            backoff_limit=job.spec.backoff_limit,
            suspend=suspend,
            scheduling=scheduling_fields(scheduling),
            queue=job.metadata.labels.get(names.QUEUE_LABEL, ""),
            keep=True,
            probed=True,
        ),
        settings,
    )


def build_client_job(
    owner: Owner, job: FederatedTrainingJob, client: ClientSpec, settings: Settings, *, suspend: bool
) -> dict[str, Any]:
    """Return one silo's Job; only it mounts the silo's data and ledger."""
    name = names.client(owner.name, client.name)
    ledger = names.ledger_claim(client.budget_ref.name)
    mounts = [
        config_mount("spec", paths.SPEC_FOLDER, name),
        secret_mount("tls", paths.TLS_FOLDER, names.tls_secret(name)),
        config_mount("policy", paths.POLICY_FOLDER, names.policy(owner.name), optional=True),
        claim_mount("data", paths.DATA_FOLDER, client.data.persistent_volume_claim.claim_name, read_only=True),
        claim_mount("state", paths.STATE_FOLDER, names.client_state(owner.name, client.name), read_only=False),
        claim_mount("ledger", paths.LEDGER_FOLDER, ledger, read_only=False),
        *_model_mount(job),
        *ledger_mounts(settings),
    ]
    asked = job.spec.resources.client if job.spec.resources else None
    scheduling = job.spec.scheduling.client if job.spec.scheduling else None
    return build_job(
        owner,
        Workload(
            name=name,
            component=names.CLIENT_ROLE,
            silo=client.name,
            mounts=mounts,
            resources=_resources(asked),
            backoff_limit=job.spec.backoff_limit,
            suspend=suspend,
            scheduling=scheduling_fields(scheduling),
            queue=job.metadata.labels.get(names.QUEUE_LABEL, ""),
        ),
        settings,
    )


def build_inspector_job(owner: Owner, job: FederatedTrainingJob, settings: Settings) -> dict[str, Any]:
    """Return the Job that looks at the base model; it sees nothing else, and takes seconds."""
    name = names.inspector(owner.name)
    scheduling = job.spec.scheduling.coordinator if job.spec.scheduling else None
    return build_job(
        owner,
        Workload(
            name=name,
            component=names.INSPECTOR_ROLE,
            silo="",
            mounts=[config_mount("spec", paths.SPEC_FOLDER, name), *_model_mount(job)],
            resources=INSPECTOR_RESOURCES,
            backoff_limit=job.spec.backoff_limit,
            suspend=False,
            scheduling=scheduling_fields(scheduling),
        ),
        settings,
    )


def _model_mount(job: FederatedTrainingJob) -> list[Mount]:
    claim = job.spec.model.source.persistent_volume_claim
    return [] if claim is None else [claim_mount("model", paths.MODEL_FOLDER, claim.claim_name, read_only=True)]


def _resources(asked: ResourceRequirements | None) -> Mapping[str, Any]:
    return DEFAULT_RESOURCES if asked is None else {key: value for key, value in asked.to_document().items() if value}


def scheduling_fields(asked: PodScheduling | None) -> Mapping[str, Any]:
    """Return the fields of a pod that say where it may run."""
    return {} if asked is None else {key: value for key, value in asked.to_document().items() if value}

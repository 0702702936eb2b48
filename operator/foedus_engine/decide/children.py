"""The objects that a training job consists of, put together from the builders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from foedus_contract.identities import operator_uri, silo_uri
from foedus_contract.plan import TrainingPlan
from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
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
from foedus_engine.build.roles import build_client_job, build_coordinator_job, build_inspector_job
from foedus_engine.build.storage import (
    build_ca_secret,
    build_client_secret,
    build_coordinator_secret,
    build_operator_secret,
    build_output_claim,
    build_state_claim,
)
from foedus_engine.decide.certificates import validity
from foedus_engine.decide.observed import ObjectMeta
from foedus_engine.decide.plan import ContentRequest, Ensure, Manifest, ObjectKey, key_of
from foedus_engine.decide.training_plan import threshold


def owner_of(meta: ObjectMeta) -> Owner:
    """Return the job as the owner of its children."""
    return Owner(names.TRAINING_KIND, meta.namespace, meta.name, meta.uid)


def ensured_children(job: FederatedTrainingJob, owner: Owner, *, renew: bool = False) -> tuple[Ensure, ...]:
    """Return what is made once: the authority, then the leaves it signs, then the claims.

    With `renew` the certificates are made again, and nothing else.
    """
    return (*_secrets(job, owner, renew=renew), *_claims(job, owner))


def policy_child(owner: Owner, identities: Mapping[str, bytes]) -> Ensure:
    """Return the silos' policy; made once, so that nobody is pinned after the first round."""
    return Ensure(build_policy(owner, identities))


def inspecting_children(job: FederatedTrainingJob, owner: Owner, settings: Settings) -> tuple[Manifest, ...]:
    """Return what looks at the base model: a Job with its run spec, shut off from every network."""
    return (
        build_service_account(owner, names.INSPECTOR_ROLE),
        build_denial(owner),
        build_inspector_config(owner, job),
        build_inspector_job(owner, job, settings),
    )


def told_children(
    job: FederatedTrainingJob, owner: Owner, plan: TrainingPlan, settings: Settings
) -> tuple[Manifest, ...]:
    """Return what the processes are told of the plan: a run spec each."""
    clients = sorted(job.spec.clients, key=lambda client: client.name)
    return (
        build_coordinator_config(owner, job, plan, settings),
        *(build_client_config(owner, job, client, plan, settings) for client in clients),
    )


def applied_children(
    job: FederatedTrainingJob, owner: Owner, settings: Settings, *, coordinator_waits: bool = False
) -> tuple[Manifest, ...]:
    """Return what follows the job's spec: identities, policies, the Service, and the Jobs, suspended when the job is.

    What a pod needs comes before its Job.
    """
    suspend = job.spec.suspend
    clients = sorted(job.spec.clients, key=lambda client: client.name)
    return (
        build_service_account(owner, names.COORDINATOR_ROLE),
        build_service_account(owner, names.CLIENT_ROLE),
        build_denial(owner),
        build_coordinator_edges(owner, settings),
        build_client_edges(owner, settings),
        build_disruption_budget(owner, threshold(job)),
        build_coordinator_service(owner),
        build_coordinator_job(owner, job, settings, suspend=suspend or coordinator_waits),
        *(build_client_job(owner, job, client, settings, suspend=suspend) for client in clients),
    )


def child_keys(job: FederatedTrainingJob, namespace: str) -> tuple[ObjectKey, ...]:
    """Return the key of every object that the job may ever have, for `gather` to read."""
    name = job.metadata.name
    silos = sorted(client.name for client in job.spec.clients)
    roles = [names.coordinator(name), *(names.client(name, silo) for silo in silos)]
    inspector = names.inspector(name)
    by_kind = {
        "Job": [*roles, inspector],
        "ConfigMap": [*roles, inspector, names.policy(name)],
        "Secret": [names.ca_secret(name), names.operator_secret(name), *map(names.tls_secret, roles)],
        "Service": [names.coordinator(name)],
        "PersistentVolumeClaim": [
            names.coordinator_output(name),
            *(names.client_state(name, silo) for silo in silos),
        ],
        "ServiceAccount": [names.service_account(name, role) for role in names.ROLES],
        "NetworkPolicy": [
            names.denial(name),
            names.edges(name, names.COORDINATOR_ROLE),
            names.edges(name, names.CLIENT_ROLE),
        ],
        "PodDisruptionBudget": [names.disruption_budget(name)],
    }
    return tuple(
        ObjectKey(names.CHILD_API_VERSIONS[kind], kind, namespace, child)
        for kind, children in by_kind.items()
        for child in children
    )


def _secrets(job: FederatedTrainingJob, owner: Owner, *, renew: bool) -> Iterator[Ensure]:
    authority, seconds = build_ca_secret(owner), int(validity(job).total_seconds())
    issuer = key_of(authority)
    itself = issuer if renew else None
    root = ContentRequest("Authority", f"foedus {owner.namespace}/{owner.name}", issuer=itself, valid_seconds=seconds)
    yield Ensure(authority, root, renew)
    dns_names = names.coordinator_dns_names(owner.namespace, owner.name)
    server = ContentRequest(
        "ServerLeaf", names.COORDINATOR_ROLE, dns_names=dns_names, issuer=issuer, valid_seconds=seconds
    )
    yield Ensure(build_coordinator_secret(owner), server, renew)

    def client(name: str, uri: str) -> ContentRequest:
        return ContentRequest("ClientLeaf", name, uris=(uri,), issuer=issuer, valid_seconds=seconds)

    asking = client(names.OPERATOR_ROLE, operator_uri(owner.namespace, owner.name))
    yield Ensure(build_operator_secret(owner), asking, renew)
    for silo in sorted(each.name for each in job.spec.clients):
        leaf = client(silo, silo_uri(owner.namespace, owner.name, silo))
        yield Ensure(build_client_secret(owner, silo), leaf, renew)


def _claims(job: FederatedTrainingJob, owner: Owner) -> Iterator[Ensure]:
    yield Ensure(build_output_claim(owner))
    for silo in sorted(client.name for client in job.spec.clients):
        yield Ensure(build_state_claim(owner, silo))

"""What outlives a pod: claims for the adapter and the silos' journals, and the frames of Secrets."""

from __future__ import annotations

from typing import Any

from foedus_engine import names
from foedus_engine.build.metadata import Owner, build_metadata

OUTPUT_SIZE = "1Gi"  # an adapter of the largest size is 64 MiB; card and metrics are kilobytes
LEDGER_SIZE = "1Gi"  # the log grows by less than a kilobyte a charge
STATE_SIZE = "10Gi"  # the journal holds one masked vector, at most 64 MiB, an attempt


def build_output_claim(owner: Owner) -> dict[str, Any]:
    """Return the claim that receives adapter, model card and metrics."""
    name = names.coordinator_output(owner.name)
    return _claim(build_metadata(owner, name, names.COORDINATOR_ROLE), OUTPUT_SIZE)


def build_state_claim(owner: Owner, silo: str) -> dict[str, Any]:
    """Return the claim with a silo's identity key and journal."""
    name = names.client_state(owner.name, silo)
    return _claim(build_metadata(owner, name, names.CLIENT_ROLE, silo), STATE_SIZE)


def build_ledger_claim(namespace: str, budget: str, uid: str) -> dict[str, Any]:
    """Return the claim with a silo's identity key and the log of what it has charged: it outlives jobs."""
    owner = {"apiVersion": names.API_VERSION, "kind": names.BUDGET_KIND, "name": budget, "uid": uid, "controller": True}
    metadata = {
        "name": names.ledger_claim(budget),
        "namespace": namespace,
        "labels": {"app.kubernetes.io/name": "foedus", names.MANAGER_LABEL: names.MANAGER},
        "ownerReferences": [owner],
    }
    return _claim(metadata, LEDGER_SIZE)


def build_ca_secret(owner: Owner) -> dict[str, Any]:
    """Return the Secret, without data, of the job's certificate authority; no pod mounts it."""
    return _tls_secret(build_metadata(owner, names.ca_secret(owner.name), "authority"))


def build_coordinator_secret(owner: Owner) -> dict[str, Any]:
    """Return the Secret, without data, of the coordinator's certificate."""
    name = names.tls_secret(names.coordinator(owner.name))
    return _tls_secret(build_metadata(owner, name, names.COORDINATOR_ROLE))


def build_operator_secret(owner: Owner) -> dict[str, Any]:
    """Return the Secret, without data, of the certificate with which the operator asks the coordinator."""
    return _tls_secret(build_metadata(owner, names.operator_secret(owner.name), names.OPERATOR_ROLE))


def build_client_secret(owner: Owner, silo: str) -> dict[str, Any]:
    """Return the Secret, without data, of one silo's certificate."""
    name = names.tls_secret(names.client(owner.name, silo))
    return _tls_secret(build_metadata(owner, name, names.CLIENT_ROLE, silo))


def _claim(metadata: dict[str, Any], size: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def _tls_secret(metadata: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls"}

"""A control plane of its own for one benchmark: etcd with fsync, a real API server, and nothing that runs pods."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from e2e.cluster import registry
from e2e.cluster.assembly import opened, start_cluster
from e2e.cluster.binaries import cache_folder
from e2e.cluster.cluster import Cluster, down
from e2e.cluster.control_plane import AUDIT_POLICY
from e2e.cluster.kubectl import wait_for
from e2e.cluster.layout import REGISTRY
from e2e.cluster.progress import Progress

PROJECT = Path(__file__).parents[1]
POLICIES = PROJECT / "charts/foedus/policies"
SYSTEM = "foedus-system"
OPERATOR = f"system:serviceaccount:{SYSTEM}:foedus-operator"
LEDGER = f"system:serviceaccount:{SYSTEM}:foedus-ledger"


@contextmanager
def control_plane(folder: Path, progress: Progress, audit: Mapping[str, object] = AUDIT_POLICY) -> Iterator[Cluster]:
    """Yield a fresh cluster with our CRDs; it goes at the end, and what a crash left of an earlier one goes first."""
    place, cache = folder.absolute() / "cluster", cache_folder(os.environ)
    if (left := registry.find(REGISTRY, place)) is not None:
        down(left, progress)
    try:
        cluster = start_cluster(place, cache, progress, with_nodes=False, audit=audit)
        for file in sorted((PROJECT / "crds").glob("*.yaml")):
            cluster.kubectl.apply(file.read_text("utf-8"))
        for plural in ("federatedtrainingjobs", "privacybudgets"):
            wait_for(plural, lambda name=plural: cluster.kubectl.succeeds("get", f"{name}.foedus.dev"))  # type: ignore[misc]
        yield cluster
    finally:
        if (layout := registry.find(REGISTRY, place)) is not None:
            down(opened(layout, cache, progress).layout, progress)


def namespace(name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a namespace's manifest."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}}


def administrators(*users: str) -> dict[str, Any]:
    """Return the binding that lets `users` do everything but what the policies deny."""
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "foedus-benchmarks"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user} for user in users],
    }


def apply_policies(cluster: Cluster) -> None:
    """Apply the chart's admission policies."""
    for file in sorted(POLICIES.glob("*.yaml")):
        apply(cluster, *yaml.safe_load_all(file.read_text("utf-8")))


def apply(cluster: Cluster, *manifests: Mapping[str, Any]) -> None:
    """Apply manifests server-side."""
    cluster.kubectl.apply(yaml.safe_dump_all(manifests))

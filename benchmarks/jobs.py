"""Training jobs for benchmarks of the operator, as many as wanted, none of which trains."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.brain import SILOS, manifest

from foedus_engine import names
from foedus_engine.decide.plan import ObjectKey
from foedus_operator.api_server import connect, load_configuration
from foedus_operator.kube import collection, path_of

AT_ONCE = 16
MERGE = "application/merge-patch+json"


def training_job(namespace: str, name: str, *, suspend: bool) -> dict[str, Any]:
    """Return the manifest of a small job."""
    return {**manifest(suspend=suspend), "metadata": {"name": name, "namespace": namespace}}


def privacy_budget(namespace: str, silo: str) -> dict[str, Any]:
    """Return the manifest of a silo's budget."""
    digest = f"sha256:{SILOS.index(silo):064}"
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.BUDGET_KIND,
        "metadata": {"name": f"budget-{silo}", "namespace": namespace},
        "spec": {"dataset": {"digest": digest, "records": 500}, "labels": ["no", "yes"], "epsilon": 1, "delta": 1e-5},
    }


async def create_all(kubeconfig: Path, manifests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Create the objects, some at a time, and return them as they are stored."""
    places = asyncio.Semaphore(AT_ONCE)
    async with connect(await load_configuration(kubeconfig)) as server:

        async def create(manifest: Mapping[str, Any]) -> dict[str, Any]:
            place = collection(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["namespace"])
            async with places:
                return await server.request("POST", place, body=manifest)

        return list(await asyncio.gather(*map(create, manifests)))


async def end_all(kubeconfig: Path, jobs: Iterable[Mapping[str, Any]]) -> None:
    """Say in the jobs' status that they have failed, as a pass of the operator does."""
    at = "2026-01-01T00:00:00Z"
    failed = {
        "type": "Failed",
        "status": "True",
        "reason": "CoordinatorFailed",
        "message": "bench",
        "lastTransitionTime": at,
        "observedGeneration": 1,
    }
    async with connect(await load_configuration(kubeconfig)) as server:
        for job in jobs:
            meta = job["metadata"]
            path = path_of(ObjectKey(names.API_VERSION, names.TRAINING_KIND, meta["namespace"], meta["name"]))
            status = {"phase": "Failed", "startTime": at, "completionTime": at, "conditions": [failed]}
            # Not by resourceVersion: the operator has written its own status meanwhile.
            await server.request("PATCH", f"{path}/status", body={"status": status}, content_type=MERGE)

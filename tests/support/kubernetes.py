"""The API server that KUBECONFIG names, for tests marked `e2e`: without one they fail, and are never skipped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import yaml

from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import AlreadyExists, NotFound
from foedus_engine.decide.plan import key_of
from foedus_operator.api_server import SERVER_SIDE_APPLY, Answer, ApiServer, connect, load_configuration
from foedus_operator.handlers import Watched
from foedus_operator.kube import RESOURCES, KubeCluster
from foedus_operator.watches import run_watches

# Kept by the cluster itself: a namespace gets it again as soon as it is deleted.
KEPT = {"kube-root-ca.crt"}


def kubeconfig() -> Path:
    """Return the file that KUBECONFIG names."""
    named = os.environ.get("KUBECONFIG", "")
    if not named:
        pytest.fail("KUBECONFIG names no cluster")
    return Path(named)


@asynccontextmanager
async def api_server(user: str = "") -> AsyncIterator[ApiServer]:
    """Yield the API server as the administrator of the kubeconfig sees it, or as `user` does."""
    async with connect(await load_configuration(kubeconfig())) as server:
        if user:
            server._client.set_default_header("Impersonate-User", user)
        yield server


@asynccontextmanager
async def kubernetes_cluster(namespace: str, kinds: Sequence[tuple[str, str]]) -> AsyncIterator[KubeCluster]:
    """Yield the cluster with an empty namespace, and kopf telling of its changes in `kinds`."""
    async with api_server() as server:
        feed = KeyFeed()
        cluster = KubeCluster(server, feed)
        await make_namespace(server, namespace)
        await empty(cluster, namespace, [*kinds, ("v1", "PersistentVolumeClaim")])
        async with watching(feed, [watched(kind) for kind in kinds], namespace):
            yield cluster
    await asyncio.sleep(0.1)  # aiohttp closes its transports in the loop's next turns


@asynccontextmanager
async def watching(feed: KeyFeed, kinds: Sequence[Watched], namespace: str) -> AsyncIterator[None]:
    """Run kopf's watches meanwhile."""
    configuration = await load_configuration(kubeconfig())
    watches = asyncio.create_task(run_watches(feed, kinds, configuration, namespaces=[namespace]))
    try:
        yield
    finally:
        watches.cancel()
        await asyncio.wait([watches])


def watched(kind: tuple[str, str]) -> Watched:
    group, _, version = kind[0].rpartition("/")
    return Watched(group, version, RESOURCES[kind].plural)


async def make_namespace(server: ApiServer, name: str, labels: Mapping[str, str] | None = None) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}}
    with suppress(AlreadyExists):
        await server.request("POST", "/api/v1/namespaces", body=body)


async def empty(cluster: KubeCluster, namespace: str, kinds: Sequence[tuple[str, str]]) -> None:
    """Delete the objects of `kinds`, and wait until they are gone."""
    for api_version, kind in kinds:
        while found := [
            each for each in await cluster.list(api_version, kind, namespace) if each["metadata"]["name"] not in KEPT
        ]:
            for each in found:
                with suppress(NotFound):
                    await cluster.delete(key_of(each))
            await asyncio.sleep(0.05)


async def has_node(cluster: KubeCluster) -> bool:
    """Say whether pods can run at all."""
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for node in await cluster.list("v1", "Node")
        for condition in node.get("status", {}).get("conditions", ())
    )


async def install_crds(server: ApiServer) -> None:
    """Apply the generated CRDs as `kubectl apply --server-side` does, and wait until they are served."""
    for file in sorted((Path(__file__).parents[2] / "crds").glob("*.yaml")):
        crd = yaml.safe_load(file.read_text("utf-8"))
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
        query = {"fieldManager": "foedus-tests", "force": "true", "fieldValidation": "Strict"}
        await server.request("PATCH", path, query=query, body=crd, content_type=SERVER_SIDE_APPLY)
        while not _is_served(await server.request("GET", path)):
            await asyncio.sleep(0.05)


def _is_served(crd: Answer) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or ()  # of one that was just made, null
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

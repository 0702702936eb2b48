"""Two operators on a real API server: one leads, the other takes over, and who has lost the lease ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from foedus_contract.exit_codes import ExitCode
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import find
from foedus_engine.decide.plan import ObjectKey
from foedus_operator.kube import KubeCluster
from support.brain import manifest
from support.kubernetes import api_server, install_crds, kubeconfig, make_namespace

pytestmark = pytest.mark.e2e
PATIENCE_SECONDS = 120.0  # the lease alone takes 15 s to run out


class World:
    """A namespace of its own with a lease of its own."""

    def __init__(self, cluster: KubeCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.lease = ObjectKey("coordination.k8s.io/v1", "Lease", namespace, "foedus-operator")

    @asynccontextmanager
    async def operator(self, identity: str) -> AsyncIterator[asyncio.subprocess.Process]:
        port = str(port_of(identity))
        environ = {
            "KUBECONFIG": str(kubeconfig()),
            "PATH": os.environ["PATH"],
            "FOEDUS_OPERATOR_IDENTITY": identity,
            "FOEDUS_OPERATOR_NAMESPACE": self.namespace,
            "FOEDUS_OPERATOR_HEALTH_PORT": port,
        }
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "foedus_operator.main", env=environ)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def create_suspended(self, name: str) -> None:
        document = manifest(suspend=True)
        await self.cluster.create({**document, "metadata": {"name": name, "namespace": self.namespace}})

    async def phase_of(self, name: str) -> str:
        key = ObjectKey("foedus.dev/v1alpha1", "FederatedTrainingJob", self.namespace, name)
        return str((await self.cluster.get(key)).get("status", {}).get("phase"))

    async def holder(self) -> tuple[str, int]:
        found = await find(self.cluster, self.lease)
        spec: dict[str, Any] = {} if found is None else found["spec"]
        return str(spec.get("holderIdentity")), int(spec.get("leaseTransitions", 0))


def port_of(identity: str) -> int:
    return 20_000 + os.getpid() % 5000 + (0 if identity == "one" else 5000)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with api_server() as server:
        await install_crds(server)
        namespace = f"foedus-failover-{uuid.uuid4().hex[:8]}"
        await make_namespace(server, namespace)
        yield World(KubeCluster(server, KeyFeed()), namespace)
        await server.request("DELETE", f"/api/v1/namespaces/{namespace}")
    await asyncio.sleep(0.1)


async def until(read: Callable[[], Awaitable[Any]], want: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await read() != want:
            await asyncio.sleep(0.1)


async def health(identity: str) -> int | None:
    try:
        url = f"http://127.0.0.1:{port_of(identity)}/health"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status
    except aiohttp.ClientConnectionError:
        return None


async def test_a_killed_leader_is_followed(world: World) -> None:
    async with world.operator("one") as one:
        await until(world.holder, ("one", 0))
        await world.create_suspended("a")
        await until(lambda: world.phase_of("a"), "Suspended")
        async with world.operator("two"):
            await until(lambda: health("two"), 200)  # it waits, and that is healthy
            await world.create_suspended("b")
            await until(lambda: world.phase_of("b"), "Suspended")
            assert await world.holder() == ("one", 0)
            one.kill()
            await world.create_suspended("c")
            await until(lambda: world.phase_of("c"), "Suspended")
            assert await world.holder() == ("two", 1)


async def test_a_leader_that_was_stopped_ends_when_it_wakes(world: World) -> None:
    async with world.operator("one") as one:
        await until(world.holder, ("one", 0))
        async with world.operator("two"):
            one.send_signal(signal.SIGSTOP)
            await until(world.holder, ("two", 1))
            one.send_signal(signal.SIGCONT)
            assert await one.wait() == ExitCode.UNAVAILABLE
            await world.create_suspended("a")
            await until(lambda: world.phase_of("a"), "Suspended")
            assert await world.holder() == ("two", 1)


async def test_who_is_told_to_end_gives_the_lease_back(world: World) -> None:
    async with world.operator("one") as one:
        await until(world.holder, ("one", 0))
        await world.create_suspended("a")
        await until(lambda: world.phase_of("a"), "Suspended")
        one.terminate()
        assert await one.wait() == ExitCode.OK
        assert await world.holder() == ("", 0)

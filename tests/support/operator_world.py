"""An operator on a real API server, in a namespace of its own; of pods the tests say what kubelets would say."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from foedus_contract.inspection import InspectedModel, Inspection
from foedus_contract.size import bert_modules
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import Conflict, NotFound
from foedus_engine.decide.plan import ObjectKey, key_of
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import KubeCluster, path_of

from .brain import MODEL, SILOS, manifest
from .kubernetes import api_server, has_node, install_crds, kubeconfig, make_namespace

PATIENCE_SECONDS = 300.0  # of loops that wait for a state; no case measures time
BUDGET = ("foedus.dev/v1alpha1", "PrivacyBudget")
FOUND = Inspection(
    model=InspectedModel(digest=MODEL.digest, hidden_size=32, layers=2, positions=64, modules=bert_modules(32, 64))
)


class World:
    """A namespace with four budgets, and an operator."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server = server
        self.cluster = KubeCluster(server, KeyFeed())
        self.namespace = namespace

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[None]:
        environ = {
            "KUBECONFIG": str(kubeconfig()),
            "PATH": os.environ["PATH"],
            "FOEDUS_OPERATOR_IDENTITY": "one",
            "FOEDUS_OPERATOR_NAMESPACE": self.namespace,
            "FOEDUS_OPERATOR_HEALTH_PORT": "0",
        }
        keeper = asyncio.create_task(keep_running(environ))
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])

    async def make_budgets(self) -> None:
        for number, silo in enumerate(SILOS, 1):
            await self.make_budget(number, silo)

    async def make_budget(self, number: int, silo: str) -> None:
        spec = {
            "dataset": {"digest": "sha256:" + f"{number:02x}" * 32, "records": 500},
            "labels": ["no", "yes"],
            "epsilon": 1,
            "delta": 1e-5,
        }
        await self.cluster.create(self.document(*BUDGET, f"budget-{silo}", spec=spec))

    async def make_job(self, name: str = "demo", **spec: Any) -> None:
        document = manifest(**spec)
        meta = {"name": name, "namespace": self.namespace}
        await self.cluster.create({**document, "metadata": meta})

    def document(self, api_version: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
        meta = {"name": name, "namespace": self.namespace}
        return {"apiVersion": api_version, "kind": kind, "metadata": meta, **content}

    def key(self, api_version: str, kind: str, name: str) -> ObjectKey:
        return ObjectKey(api_version, kind, self.namespace, name)

    @property
    def job(self) -> ObjectKey:
        return self.key("foedus.dev/v1alpha1", "FederatedTrainingJob", "demo")

    async def status(self) -> dict[str, Any]:
        return dict((await self.cluster.get(self.job)).get("status", {}))

    async def reason(self, kind: str = "Ready") -> str:
        return str((await self._condition(kind)).get("reason", ""))

    async def message(self, kind: str = "Ready") -> str:
        return str((await self._condition(kind)).get("message", ""))

    async def _condition(self, kind: str) -> dict[str, Any]:
        conditions = (await self.status()).get("conditions", ())
        return next((each for each in conditions if each["type"] == kind), {})

    async def accounts(self) -> set[str]:
        found = set()
        for silo in SILOS:
            budget = await self.cluster.get(self.key(*BUDGET, f"budget-{silo}"))
            found |= {account["state"] for account in budget.get("status", {}).get("accounts", {}).values()}
        return found

    async def pod_of(self, role: str) -> dict[str, Any]:
        """Return the latest pod of a role, once it is there."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                pods = await self.cluster.list("v1", "Pod", self.namespace, {"batch.kubernetes.io/job-name": role})
                if pods:
                    return dict(max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"]))
                await asyncio.sleep(0.1)

    async def say(self, role: str, *, message: str | None = None) -> dict[str, Any]:
        """Say of a role's pod that it runs, or that it has ended with a message; return the pod."""
        if message is None:
            return await self.tell(role, "Running", {"running": {}})
        return await self.tell(role, "Succeeded", {"terminated": {"exitCode": 0, "message": message}})

    async def tell(self, role: str, phase: str, state: dict[str, Any]) -> dict[str, Any]:
        """Write into the status of a role's pod what its kubelet would; return the pod."""
        while True:
            pod = await self.pod_of(role)
            runs = phase == "Running"
            container = {"name": "workload", "image": "x", "imageID": "", "ready": runs, "restartCount": 0}
            status = {"phase": phase, "containerStatuses": [{**container, "started": runs, "state": state}]}
            with suppress(Conflict):
                return await self.server.request(
                    "PUT", f"{path_of(key_of(pod_of(pod)))}/status", body={**pod, "status": status}
                )

    async def let_pods_go(self) -> None:
        """Take off the pods that are being deleted, as a kubelet does once their processes have ended."""
        for pod in await self.cluster.list("v1", "Pod", self.namespace):
            if pod["metadata"].get("deletionTimestamp"):
                with suppress(NotFound):
                    options = {"gracePeriodSeconds": 0}
                    await self.server.request("DELETE", path_of(key_of(pod_of(dict(pod)))), body=options)


async def keep_running(environ: dict[str, str]) -> None:
    """Run the operator, and start it again when it ends, as a Deployment does: on a busy machine it loses its lease."""
    while True:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "foedus_operator.main", env=environ)
        try:
            await process.wait()
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


def pod_of(pod: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", **pod}


@asynccontextmanager
async def operator_world() -> AsyncIterator[World]:
    """Yield a world whose operator runs; where nodes are, their kubelets speak for themselves, and it skips."""
    async with api_server() as server:
        await install_crds(server)
        namespace = f"foedus-jobs-{uuid.uuid4().hex[:8]}"
        await make_namespace(server, namespace)
        made = World(server, namespace)
        if await has_node(made.cluster):
            pytest.skip("there are nodes, and their kubelets say themselves what their pods do")
        await made.make_budgets()
        async with made.operator():
            yield made
        with suppress(NotFound):
            await server.request("DELETE", f"/api/v1/namespaces/{namespace}")
    await asyncio.sleep(0.1)


async def until(read: Callable[[], Awaitable[Any]], want: Any) -> None:
    found = None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (found := await read()) != want:
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"still {found!r}, not {want!r}") from None


async def start(world: World, **spec: Any) -> None:
    """Bring a job to where all its pods run."""
    await world.make_job(**spec)
    await world.say("demo-inspector", message=FOUND.to_json().decode())
    for silo in SILOS:
        await world.say(f"demo-{silo}")
    await world.say("demo-coordinator")
    await until(world.reason, "Preparing")

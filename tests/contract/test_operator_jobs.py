"""The operator with a real API server, from `kubectl apply` on. Where there are no nodes, the test says of pods what
their kubelets would say; the Jobs' controller, the garbage collector and the scheduler are the cluster's own."""

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
from foedus_contract.progress import TrainingResult
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import Conflict, NotFound, find
from foedus_engine.decide.plan import ObjectKey, key_of
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import KubeCluster, path_of
from support.brain import MODEL, SILOS, bert_modules, manifest
from support.kubernetes import api_server, has_node, install_crds, kubeconfig, make_namespace

pytestmark = pytest.mark.e2e
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
            spec = {
                "dataset": {"digest": "sha256:" + f"{number:02x}" * 32, "records": 500},
                "labels": ["no", "yes"],
                "epsilon": 1,
                "delta": 1e-5,
            }
            await self.cluster.create(self.document(*BUDGET, f"budget-{silo}", spec=spec))

    async def make_job(self, **spec: Any) -> None:
        document = manifest(**spec)
        meta = {"name": "demo", "namespace": self.namespace}
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
        conditions = (await self.status()).get("conditions", ())
        return next((str(each["reason"]) for each in conditions if each["type"] == kind), "")

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
        while True:
            pod = await self.pod_of(role)
            ended = {"exitCode": 0, "message": message}
            state = {"running": {}} if message is None else {"terminated": ended}
            container = {"name": "workload", "image": "x", "imageID": "", "ready": message is None, "restartCount": 0}
            status = {
                "phase": "Running" if message is None else "Succeeded",
                "containerStatuses": [{**container, "started": message is None, "state": state}],
            }
            with suppress(Conflict):
                return await self.server.request(
                    "PUT", f"{path_of(key_of(pod_of(pod)))}/status", body={**pod, "status": status}
                )


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


@pytest.fixture
async def world() -> AsyncIterator[World]:
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
        await server.request("DELETE", f"/api/v1/namespaces/{namespace}")
    await asyncio.sleep(0.1)


async def until(read: Callable[[], Awaitable[Any]], want: Any) -> None:
    found = None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (found := await read()) != want:
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"still {found!r}, not {want!r}")


async def start(world: World) -> None:
    """Bring a job to where all its pods run."""
    await world.make_job()
    await world.say("demo-inspector", message=FOUND.to_json().decode())
    for silo in SILOS:
        await world.say(f"demo-{silo}")
    await world.say("demo-coordinator")
    await until(world.reason, "Preparing")


async def test_a_job_goes_from_its_manifest_to_its_result(world: World) -> None:
    await world.make_job()
    await until(world.reason, "Unschedulable")  # no node takes the pod that is to look at the model
    assert (await world.status())["phase"] == "Pending"
    assert await world.accounts() == set()

    await world.say("demo-inspector", message=FOUND.to_json().decode())
    await until(lambda: world.reason("BudgetAvailable"), "Reserved")
    assert await world.accounts() == {"Open"}
    status = await world.status()
    assert status["model"]["digest"] == MODEL.digest
    assert status["plan"]["totalRecords"] == 2000

    await until(world.reason, "Unschedulable")  # now it is the silos' pods
    assert (await world.cluster.get(world.key("batch/v1", "Job", "demo-coordinator")))["spec"]["suspend"] is True
    await until(lambda: find(world.cluster, world.key("batch/v1", "Job", "demo-inspector")), None)
    for silo in SILOS:
        await world.say(f"demo-{silo}")
    await world.say("demo-coordinator")
    await until(world.reason, "Preparing")

    result = TrainingResult(outcome="Complete", rounds=3, attempts=3, accuracy=0.9)
    pod = await world.say("demo-coordinator", message=result.to_json().decode())
    await until(lambda: world.reason("Complete"), "AllRounds")
    assert (await world.status())["result"]["accuracy"] == 0.9
    await until(world.accounts, {"Closed"})

    async def finalizers() -> list[str]:
        return list((await world.cluster.get(key_of(pod_of(pod))))["metadata"].get("finalizers", ()))

    await until(finalizers, [])


async def test_a_broken_model_is_a_condition_with_what_is_wrong(world: World) -> None:
    await world.make_job()
    await world.say(
        "demo-inspector", message=Inspection(problem="config.json: no such file", code=12).to_json().decode()
    )
    await until(lambda: world.reason("Accepted"), "InvalidModel")
    assert (await world.status())["message"] == "config.json: no such file"
    assert await world.accounts() == set()


async def test_what_is_deleted_or_changed_is_repaired(world: World) -> None:
    await start(world)
    kinds = {
        "NetworkPolicy": ("networking.k8s.io/v1", "demo-deny"),
        "ServiceAccount": ("v1", "demo-client"),
        "PodDisruptionBudget": ("policy/v1", "demo-client"),
        "ConfigMap": ("v1", "demo-silo-1"),
    }
    for kind, (version, name) in kinds.items():
        key = world.key(version, kind, name)
        old = await world.cluster.get(key)
        await world.cluster.delete(key)

        async def is_new(key: ObjectKey = key, uid: str = old["metadata"]["uid"]) -> bool:
            found = await find(world.cluster, key)
            return found is not None and found["metadata"]["uid"] != uid

        await until(is_new, True)
    policy = await world.cluster.get(world.key("networking.k8s.io/v1", "NetworkPolicy", "demo-client"))
    rules = policy["spec"]["egress"]
    await world.cluster.update({**policy, "spec": {**policy["spec"], "egress": [{}]}}, field_manager="somebody")

    async def egress() -> Any:
        return (await world.cluster.get(key_of(policy)))["spec"]["egress"]

    await until(egress, rules)


async def test_what_is_as_it_should_be_is_not_written_again(world: World) -> None:
    await start(world)

    async def versions() -> dict[str, str]:
        found = {}
        for kind in (("v1", "ConfigMap"), ("v1", "Service"), ("v1", "ServiceAccount"), ("batch/v1", "Job"),
                     ("networking.k8s.io/v1", "NetworkPolicy")):  # fmt: skip
            for each in await world.cluster.list(*kind, world.namespace, {"foedus.dev/job": "demo"}):
                found[f"{kind[1]} {each['metadata']['name']}"] = each["metadata"]["resourceVersion"]
        return found

    before = await versions()
    await asyncio.sleep(12)  # two polls and more
    assert await versions() == before


async def test_the_accounts_of_a_job_that_is_deleted_are_closed_and_its_pods_go(world: World) -> None:
    await start(world)
    assert await world.accounts() == {"Open"}
    await world.cluster.delete(world.job)
    await until(world.accounts, {"Closed"})

    async def pods() -> int:
        found = await world.cluster.list("v1", "Pod", world.namespace, {"foedus.dev/job": "demo"})
        for pod in found:  # there is no kubelet that would say that they have ended
            with suppress(NotFound):
                options = {"gracePeriodSeconds": 0}
                await world.server.request("DELETE", path_of(key_of(pod_of(dict(pod)))), body=options)
        return len(found)

    await until(pods, 0)


async def test_a_budget_says_what_is_used_of_it(world: World) -> None:
    async def ready() -> Any:
        budget = await world.cluster.get(world.key(*BUDGET, "budget-silo-1"))
        status = budget.get("status", {})
        reasons = [each["reason"] for each in status.get("conditions", ())]
        return reasons, status.get("epsilonSpent"), status.get("epsilonReserved", 0) > 0

    await until(ready, (["Available"], 0, False))
    await start(world)
    await until(ready, (["Exhausted"], 0, True))


async def test_a_quota_is_a_condition_and_nothing_is_lost(world: World) -> None:
    quotas = f"/api/v1/namespaces/{world.namespace}/resourcequotas"
    body = {"metadata": {"name": "small"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    await world.server.request("POST", quotas, body=body)
    await until(lambda: _is_counted(world, f"{quotas}/small"), True)
    await world.make_job()
    await until(world.reason, "QuotaExceeded")
    await world.server.request("DELETE", f"{quotas}/small")
    await until(world.reason, "Unschedulable")


async def _is_counted(world: World, path: str) -> bool:
    return "used" in (await world.server.request("GET", path)).get("status", {})


async def test_a_job_that_somebody_else_manages_is_left_alone(world: World) -> None:
    await world.make_job(managedBy="example.org/another")
    await asyncio.sleep(3)
    assert await world.status() == {}

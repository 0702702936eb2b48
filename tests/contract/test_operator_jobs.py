"""The operator with a real API server, from `kubectl apply` on. Where there are no nodes, the test says of pods what
their kubelets would say; the Jobs' controller, the garbage collector and the scheduler are the cluster's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from foedus_contract.inspection import Inspection
from foedus_contract.progress import TrainingResult
from foedus_engine.cluster.protocol import NotFound, find
from foedus_engine.decide.plan import ObjectKey, key_of
from foedus_operator.kube import path_of
from support.brain import MODEL, SILOS
from support.operator_world import BUDGET, FOUND, World, operator_world, pod_of, start, until

pytestmark = pytest.mark.e2e


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with operator_world() as made:
        yield made


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

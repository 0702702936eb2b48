"""Bad input that no admission can see: each is a condition with a reason and a cure, and nothing is lost by it.

There are no nodes. What a kubelet would write into a pod's status is written by the test (`world.say`, `world.tell`);
what the scheduler, the Jobs' controller, the quota and the garbage collector say is their own.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from foedus_engine.cluster.protocol import Conflict, NotFound, find
from foedus_engine.decide.plan import ObjectKey, key_of
from foedus_operator.kube import path_of
from support.brain import SILOS
from support.kubernetes import make_namespace
from support.operator_world import BUDGET, FOUND, World, operator_world, start, until

pytestmark = pytest.mark.e2e
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/privacybudgets.foedus.dev"
MECHANISM = {"kind": "DistributedDiscreteGaussian", "noiseMultiplier": 100}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with operator_world() as made:
        yield made


Step = Callable[[World], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """What is wrong with a job, what its condition says then, and how it goes on once the cure was taken."""

    name: str
    spoil: Step
    condition: str
    reason: str
    says: tuple[str, ...]  # what is wrong, and the cure
    cure: Step
    then: str  # the reason of Ready afterwards
    accounts: frozenset[str] = frozenset({"Open"})


async def plan(world: World) -> None:
    """Bring a job to where its silos' pods wait for a node."""
    await world.make_job()
    await world.say("demo-inspector", message=FOUND.to_json().decode())
    await until(lambda: world.reason("BudgetAvailable"), "Reserved")
    await world.pod_of("demo-silo-1")


async def change_secret(world: World, name: str, **data: bytes) -> None:
    key = world.key("v1", "Secret", name)
    secret = await world.cluster.get(key)
    changed = {key.replace("_", "."): base64.b64encode(value).decode() for key, value in data.items()}
    await world.cluster.update({**secret, "data": {**secret["data"], **changed}}, field_manager="somebody")


async def garble_a_leaf(world: World) -> None:
    await plan(world)
    await change_secret(world, "demo-silo-1-tls", tls_crt=b"no certificate")


async def remove_the_leaf(world: World) -> None:
    await world.cluster.delete(world.key("v1", "Secret", "demo-silo-1-tls"))


async def garble_the_authority(world: World) -> None:
    await plan(world)
    await change_secret(world, "demo-ca", tls_key=b"no key")


async def lose_the_authority(world: World) -> None:
    await plan(world)
    await world.cluster.delete(world.key("v1", "Secret", "demo-ca"))


async def create_again(world: World) -> None:
    """Delete the job, and make one of its name at once: what is left of the first goes, and its accounts are closed."""
    await world.cluster.delete(world.job)
    await world.make_job()
    await world.let_pods_go()


async def name_no_claim(world: World) -> None:
    """The scheduler itself says that there is no such claim, once there is a node that it could choose."""
    await make_node(world)
    await plan(world)


async def make_node(world: World) -> None:
    """Make a node of the namespace's name, where nothing runs: it is never ready."""
    await world.server.request("POST", "/api/v1/nodes", body={"metadata": {"name": world.namespace}})


async def make_the_claims(world: World) -> None:
    for silo in SILOS:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        await world.cluster.create(world.document("v1", "PersistentVolumeClaim", silo, spec=spec))


async def pull_no_image(world: World) -> None:
    """A kubelet says so of a pod that was bound to its node; the test has chosen the node, too."""
    await make_node(world)
    await plan(world)
    pod = await world.pod_of("demo-silo-1")
    target = {"apiVersion": "v1", "kind": "Node", "name": world.namespace}
    path = f"/api/v1/namespaces/{world.namespace}/pods/{pod['metadata']['name']}/binding"
    await world.server.request("POST", path, body={"metadata": {"name": pod["metadata"]["name"]}, "target": target})
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x": not found'}
    await world.tell("demo-silo-1", "Pending", {"waiting": waiting})


async def start_the_silos(world: World) -> None:
    for silo in SILOS:
        await world.say(f"demo-{silo}")
    await world.say("demo-coordinator")


async def allow_no_jobs(world: World) -> None:
    await set_quota(world, "count/jobs.batch")
    await world.make_job()


async def allow_no_pods(world: World) -> None:
    await set_quota(world, "pods")
    await world.make_job()


async def set_quota(world: World, resource: str) -> None:
    quotas = f"/api/v1/namespaces/{world.namespace}/resourcequotas"
    body = {"metadata": {"name": "small"}, "spec": {"hard": {resource: "0"}}}
    await world.server.request("POST", quotas, body=body)

    async def is_counted() -> bool:
        return "used" in (await world.server.request("GET", f"{quotas}/small")).get("status", {})

    await until(is_counted, True)


async def lift_the_quota(world: World) -> None:
    await world.server.request("DELETE", f"/api/v1/namespaces/{world.namespace}/resourcequotas/small")


async def have_no_budget(world: World) -> None:
    await world.cluster.delete(world.key(*BUDGET, "budget-silo-2"))
    await world.make_job()


async def make_the_budget(world: World) -> None:
    await world.make_budget(2, "silo-2")


async def damage_a_budget(world: World) -> None:
    """An account with more charges than attempts: the CRD's rules see each field alone, the ledger all of them."""
    account = {"mechanism": MECHANISM, "reserved": 5, "charged": 3, "lastAttempt": 1, "claimant": "x", "state": "Open"}
    await write_accounts(world, {"damaged": account})
    await world.make_job()


async def mend_the_budget(world: World) -> None:
    """What was charged cannot fall, so the holder can only raise what contradicts it."""
    account = {"mechanism": MECHANISM, "reserved": 5, "charged": 3, "lastAttempt": 2, "claimant": "x", "state": "Open"}
    await write_accounts(world, {"damaged": account})


async def write_accounts(world: World, accounts: dict[str, Any]) -> None:
    while True:
        budget = await world.cluster.get(world.key(*BUDGET, "budget-silo-2"))
        status = {**budget.get("status", {}), "accounts": accounts}
        with suppress(Conflict):
            await world.server.request("PUT", f"{path_of(key_of(budget))}/status", body={**budget, "status": status})
            return


CASES = [
    Case("a certificate that cannot be read", garble_a_leaf, "Ready", "CertificateInvalid",
         ("Secret demo-silo-1-tls holds no certificate", "delete the Secret, and it is made again"),
         remove_the_leaf, "Unschedulable"),
    Case("an authority that cannot be read", garble_the_authority, "Ready", "CertificateInvalid",
         ("Secret demo-ca holds no certificate", "delete the job and create it again"),
         create_again, "Unschedulable", frozenset({"Closed"})),
    Case("an authority that is gone", lose_the_authority, "Ready", "CertificateInvalid",
         ("whose Secret is gone", "delete the job and create it again"),
         create_again, "Unschedulable", frozenset({"Closed"})),
    Case("a claim that is not there", name_no_claim, "Ready", "VolumeMissing",
         ("persistentvolumeclaim", "not found", "create the PersistentVolumeClaim"),
         make_the_claims, "Unschedulable"),
    Case("an image that cannot be pulled", pull_no_image, "Ready", "ImagePullFailed",
         ("silo silo-1", "ImagePullBackOff", "see that nodes can pull the image"),
         start_the_silos, "Preparing"),
    Case("a quota on Jobs", allow_no_jobs, "Ready", "QuotaExceeded",
         ("exceeded quota", "see whether rights, quota and namespace allow it"),
         lift_the_quota, "Unschedulable", frozenset()),
    Case("a quota on pods", allow_no_pods, "Ready", "QuotaExceeded",
         ("exceeded quota", "raise the namespace's quota"),
         lift_the_quota, "Unschedulable", frozenset()),
    Case("a budget that is not there", have_no_budget, "Accepted", "BudgetNotFound",
         ("PrivacyBudget", "budget-silo-2 does not exist", "foedus budget create"),
         make_the_budget, "Unschedulable", frozenset()),
    Case("a budget that contradicts itself", damage_a_budget, "BudgetAvailable", "BudgetRefused",
         ("silo silo-2", "cannot be trusted", "its holder looks at it"),
         mend_the_budget, "Unschedulable", frozenset({"Open"})),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_it_is_said_with_its_cure_and_the_cure_helps(world: World, case: Case) -> None:
    try:
        await case.spoil(world)
        await until(lambda: world.reason(case.condition), case.reason)
        message = await world.message(case.condition)
        assert [part for part in case.says if part not in message] == [], message
        assert (await world.status())["phase"] == "Pending"
        await case.cure(world)
        await until(world.reason, case.then)
        await until(world.accounts, set(case.accounts))
    finally:
        with suppress(NotFound):
            await world.server.request("DELETE", f"/api/v1/nodes/{world.namespace}")


@pytest.mark.parametrize(
    ("api_version", "kind", "name"),
    [("v1", "Secret", "demo-silo-1-tls"), ("v1", "ConfigMap", "demo-silo-1"), ("v1", "ServiceAccount", "demo-client")],
)
async def test_what_pods_mount_and_somebody_deleted_is_made_again(
    world: World, api_version: str, kind: str, name: str
) -> None:
    await plan(world)
    key = world.key(api_version, kind, name)
    old = (await world.cluster.get(key))["metadata"]["uid"]
    await world.cluster.delete(key)

    async def is_new() -> bool:
        found = await find(world.cluster, key)
        return found is not None and found["metadata"]["uid"] != old

    await until(is_new, True)
    await until(world.reason, "Unschedulable")


async def test_fields_of_another_version_in_a_budget_are_left_out_and_left_alone(world: World) -> None:
    """The kind as a newer version may have it: with a field that this one does not know."""
    crd = await world.server.request("GET", CRD)
    newer = copy.deepcopy(crd)
    status = newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    status["properties"]["ofAnotherVersion"] = {"type": "string", "maxLength": 16}
    await world.server.request("PUT", CRD, body=newer)
    try:
        await until(lambda: _write_foreign(world), "kept")
        await plan(world)
        assert (await world.cluster.get(world.key(*BUDGET, "budget-silo-2")))["status"]["ofAnotherVersion"] == "kept"
    finally:
        now = await world.server.request("GET", CRD)
        await world.server.request("PUT", CRD, body={**now, "spec": crd["spec"]})


async def _write_foreign(world: World) -> str | None:
    """Write the field, and return what was kept of it: the new schema is served a moment later."""
    budget = await world.cluster.get(world.key(*BUDGET, "budget-silo-2"))
    body = {**budget, "status": {**budget.get("status", {}), "ofAnotherVersion": "kept"}}
    with suppress(Conflict):
        answer = await world.server.request("PUT", f"{path_of(key_of(budget))}/status", body=body)
        return str(answer["status"].get("ofAnotherVersion"))
    return None


async def test_a_namespace_that_is_deleted_in_mid_job_goes_and_the_operator_goes_on(world: World) -> None:
    lost = World(world.server, f"{world.namespace}-lost")
    place = f"/api/v1/namespaces/{lost.namespace}"
    await make_namespace(world.server, lost.namespace)
    await lost.make_budgets()
    await start(lost)
    await world.server.request("DELETE", place)

    async def is_gone() -> bool:
        await lost.let_pods_go()
        try:
            await world.server.request("GET", place)
        except NotFound:
            return True
        return False

    await until(is_gone, True)
    await plan(world)
    await until(world.accounts, {"Open"})


async def test_two_jobs_of_one_name_in_a_row_are_two_jobs(world: World) -> None:
    await plan(world)
    first = (await world.cluster.get(world.job))["metadata"]["uid"]
    key = world.key("v1", "Service", "demo-coordinator")
    await hold(world, key, ["example.org/hold"])  # else the collector may be done before anybody looks
    await world.cluster.delete(world.job)
    await world.make_job()
    await until(lambda: world.reason("Accepted"), "Pending")
    assert "belongs to another object; wait until it is deleted, or rename this job" in await world.message("Accepted")

    async def is_left() -> bool:
        return (await world.message("Accepted")).startswith("Service ")

    await until(is_left, True)  # the collector has taken the others, one by one
    await hold(world, key, [])
    await world.say("demo-inspector", message=FOUND.to_json().decode())
    await until(lambda: world.reason("BudgetAvailable"), "Reserved")
    second = (await world.cluster.get(world.job))["metadata"]["uid"]

    async def states() -> dict[str, str]:
        budget = await world.cluster.get(world.key(*BUDGET, "budget-silo-1"))
        return {uid: account["state"] for uid, account in budget["status"]["accounts"].items()}

    await until(states, {first: "Closed", second: "Open"})


async def hold(world: World, key: ObjectKey, finalizers: list[str]) -> None:
    found = await world.cluster.get(key)
    await world.cluster.update({**found, "metadata": {**found["metadata"], "finalizers": finalizers}})

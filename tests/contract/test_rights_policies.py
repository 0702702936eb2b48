"""What roles cannot say, on a real API server: the identities here may do everything, and the policies hold them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from contract.test_ledger_policies import LEDGER, OPERATOR, make_administrators, path_of_policy
from foedus_engine.cluster.protocol import Forbidden
from foedus_operator.api_server import SERVER_SIDE_APPLY, ApiServer
from support.kubernetes import api_server, make_namespace

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
POLICIES = Path(__file__).parents[2] / "charts/foedus/policies/rights.yaml"
ADMIN = "mallory"
KEPT, OTHER = "foedus-rights-kept", "foedus-rights-other"
PODS, LEASES = "/api/v1/namespaces/{}/pods", "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
DRY = {"dryRun": "All"}
POD = {
    "metadata": {
        "name": "demo-coordinator-0",
        "labels": {"foedus.dev/job": "demo"},
        "annotations": {"note": "a"},
        "finalizers": ["example.com/other", "foedus.dev/result"],
    },
    "spec": {"containers": [{"name": "workload", "image": "trusted"}]},
}
OWNER = {"apiVersion": "foedus.dev/v1alpha1", "kind": "FederatedTrainingJob", "name": "demo", "uid": "uid-1"}
SPEC = {"holderIdentity": "pod-1", "leaseTransitions": 0}


@dataclass(frozen=True)
class World:
    """The API server as three administrators see it, and a pod that is there."""

    root: ApiServer
    operator: ApiServer
    ledger: ApiServer
    admin: ApiServer
    pod: dict[str, Any]

    async def put_pod(self, server: ApiServer, pod: dict[str, Any]) -> None:
        await server.request("PUT", f"{PODS.format(KEPT)}/{pod['metadata']['name']}", query=DRY, body=pod)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world() -> AsyncIterator[World]:
    async with (
        api_server() as root,
        api_server(OPERATOR) as operator,
        api_server(LEDGER) as ledger,
        api_server(ADMIN) as admin,
    ):
        await make_administrators(root, OPERATOR, LEDGER, ADMIN)
        await make_namespace(root, KEPT, {"foedus.dev/budgets": "kept"})
        await make_namespace(root, OTHER)
        await until_pods_are_taken(root)
        pod = await root.request("POST", PODS.format(KEPT), body=POD)
        del pod["metadata"]["resourceVersion"]  # the scheduler writes what it makes of the pod
        await root.request("POST", LEASES.format(KEPT), body=lease("demo-theirs", owner=None))
        await root.request("POST", LEASES.format(KEPT), body=lease("demo-coordinator"))
        await apply_policies(root, operator)
        yield World(root, operator, ledger, admin, pod)
        for document in yaml.safe_load_all(POLICIES.read_text("utf-8")):
            await root.request("DELETE", path_of_policy(document))


async def until_pods_are_taken(root: ApiServer) -> None:
    """Wait for the namespace's own ServiceAccount, without which no pod is made."""
    while True:
        found = await root.request("GET", f"/api/v1/namespaces/{KEPT}/serviceaccounts")
        if found["items"]:
            return
        await asyncio.sleep(0.1)


async def apply_policies(root: ApiServer, operator: ApiServer) -> None:
    """Apply them, see that their expressions have no type errors, and wait until they are enforced."""
    query = {"fieldManager": "foedus-tests", "force": "true", "fieldValidation": "Strict"}
    documents = list(yaml.safe_load_all(POLICIES.read_text("utf-8")))
    for document in documents:
        place = path_of_policy(document)
        await root.request("PATCH", place, query=query, body=document, content_type=SERVER_SIDE_APPLY)
    for place in (path_of_policy(each) for each in documents if each["kind"] == "ValidatingAdmissionPolicy"):
        while "typeChecking" not in (status := (await root.request("GET", place)).get("status", {})):
            await asyncio.sleep(0.1)
        assert status["typeChecking"] == {}
    with suppress(Forbidden):
        while True:
            await operator.request("DELETE", f"{PODS.format(KEPT)}/{POD['metadata']['name']}", query=DRY)
            await asyncio.sleep(0.1)


def lease(name: str, owner: dict[str, str] | None = OWNER, **changed: str) -> dict[str, Any]:
    owners = {"ownerReferences": [{**owner, **changed, "controller": True}]} if owner else {}
    return {"metadata": {"name": name, **owners}, "spec": SPEC}


def changes() -> Iterator[Any]:
    """Yield what could be changed of a pod that is there, and that the operator must not."""

    def case(name: str, *path: Any, value: Any) -> Any:
        return pytest.param(path, value, id=name)

    yield case("image", "spec", "containers", 0, "image", value="evil")
    yield case("deadline", "spec", "activeDeadlineSeconds", value=1)
    yield case("toleration", "spec", "tolerations", 0, "tolerationSeconds", value=1)
    yield case("label", "metadata", "labels", value={"foedus.dev/job": "demo", "app": "database"})
    yield case("no labels", "metadata", "labels", value={})
    yield case("annotation", "metadata", "annotations", value={"note": "b"})
    yield case("no annotations", "metadata", "annotations", value={"foedus.dev/told": "uid-1"})
    yield case("another annotation", "metadata", "annotations", value={"note": "a", "other": ""})
    yield case("owner", "metadata", "ownerReferences", value=[OWNER])
    yield case("another's finalizer", "metadata", "finalizers", value=["foedus.dev/result"])
    yield case("both finalizers", "metadata", "finalizers", value=[])
    yield case("one finalizer more", "metadata", "finalizers", value=["example.com/other", "example.com/more"])


def with_change(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    new = copy.deepcopy(document)
    *places, last = path
    place: Any = new
    for each in places:
        place = place[each]
    place[last] = value
    return new


async def test_the_operator_takes_its_finalizer_off_and_sets_its_annotation(world: World) -> None:
    freed = with_change(world.pod, ("metadata", "finalizers"), ["example.com/other"])
    await world.put_pod(world.operator, freed)
    told = with_change(freed, ("metadata", "annotations"), {"note": "a", "foedus.dev/told": "uid-1"})
    await world.put_pod(world.operator, told)


@pytest.mark.parametrize(("path", "value"), list(changes()))
async def test_the_operator_changes_nothing_else_of_a_pod(world: World, path: tuple[Any, ...], value: Any) -> None:
    changed = with_change(world.pod, path, value)
    with pytest.raises(Forbidden, match="its own finalizer"):
        await world.put_pod(world.operator, changed)


async def test_the_operator_makes_and_deletes_no_pod_though_a_role_let_it(world: World) -> None:
    with pytest.raises(Forbidden, match="its own finalizer"):
        await world.operator.request("POST", PODS.format(KEPT), query=DRY, body={**POD, "metadata": {"name": "new"}})
    with pytest.raises(Forbidden, match="its own finalizer"):
        await world.operator.request("DELETE", f"{PODS.format(KEPT)}/{POD['metadata']['name']}", query=DRY)


async def test_others_may_change_pods(world: World) -> None:
    await world.put_pod(world.admin, with_change(world.pod, ("spec", "containers", 0, "image"), "newer"))


@pytest.mark.parametrize("name", ["demo-silo-1", "demo-inspector"])
async def test_the_ledger_makes_the_leases_of_a_jobs_roles(world: World, name: str) -> None:
    await world.ledger.request("POST", LEASES.format(KEPT), query=DRY, body=lease(name))


@pytest.mark.parametrize(
    ("namespace", "body"),
    [
        pytest.param(OTHER, lease("demo-silo-1"), id="where no budget is"),
        pytest.param("kube-system", lease("demo-silo-1"), id="where the cluster's own parts elect"),
        pytest.param(KEPT, lease("demo-silo-1", owner=None), id="nobody's"),
        pytest.param(KEPT, lease("foedus-operator"), id="a name that is no role's"),
        pytest.param(KEPT, lease("demo-silo-1", kind="Job"), id="another kind's"),
        pytest.param(KEPT, lease("demo-silo-1", apiVersion="example.com/v1"), id="another group's"),
    ],
)
async def test_the_ledger_makes_no_other_lease(world: World, namespace: str, body: dict[str, Any]) -> None:
    with pytest.raises(Forbidden, match="and no others"):
        await world.ledger.request("POST", LEASES.format(namespace), query=DRY, body=body)


async def test_the_ledger_renews_its_own_lease_and_takes_over_nobody_elses(world: World) -> None:
    place = LEASES.format(KEPT)
    held = await world.ledger.request("GET", f"{place}/demo-coordinator")
    renewed = with_change(held, ("spec", "leaseTransitions"), 1)
    await world.ledger.request("PUT", f"{place}/demo-coordinator", query=DRY, body=renewed)
    moved = with_change(renewed, ("metadata", "ownerReferences", 0, "uid"), "uid-2")
    theirs = await world.ledger.request("GET", f"{place}/demo-theirs")
    taken = with_change(theirs, ("metadata", "ownerReferences"), lease("demo-theirs")["metadata"]["ownerReferences"])
    for body in (moved, taken):
        with pytest.raises(Forbidden, match="not taken over"):
            await world.ledger.request("PUT", f"{place}/{body['metadata']['name']}", query=DRY, body=body)
    with pytest.raises(Forbidden, match="and no others"):
        await world.ledger.request("PUT", f"{place}/demo-theirs", query=DRY, body=theirs)
    with pytest.raises(Forbidden, match="and no others"):
        await world.ledger.request("DELETE", f"{place}/demo-coordinator", query=DRY)


async def test_others_write_leases_as_they_like(world: World) -> None:
    await world.admin.request("POST", LEASES.format(OTHER), query=DRY, body=lease("anything", owner=None))

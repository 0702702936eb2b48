"""The admission policies on a real API server: every user here is a cluster administrator, and is still refused."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from contract.test_crds import account, changed, head
from contract.test_crds import budget as budget_document
from foedus_contract.errors import InvalidInput
from foedus_engine.cluster.protocol import AlreadyExists, Forbidden
from foedus_operator.api_server import SERVER_SIDE_APPLY, ApiServer
from support.kubernetes import api_server, install_crds, make_namespace

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
POLICIES = Path(__file__).parents[2] / "charts/foedus/policies/ledger.yaml"
OPERATOR = "system:serviceaccount:foedus-system:foedus-operator"
LEDGER = "system:serviceaccount:foedus-system:foedus-ledger"
ADMIN = "mallory"  # may do everything, so `reconcile`, too
EDITOR = "oscar"  # may write budgets and their status
U = "status.accounts.uid-1"


class Budget:
    """A budget with one account, and the API server as three users see it."""

    def __init__(self, servers: dict[str, ApiServer], path: str, document: dict[str, Any]) -> None:
        self.servers = servers
        self.path = path
        self.document = document

    async def put(self, user: str, path: str, value: Any, *, subresource: str = "/status") -> None:
        new = changed(copy.deepcopy(self.document), path, value)
        await self.servers[user].request("PUT", self.path + subresource, query={"dryRun": "All"}, body=new)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def servers() -> AsyncIterator[dict[str, ApiServer]]:
    async with (
        api_server() as root,
        api_server(ADMIN) as admin,
        api_server(OPERATOR) as operator,
        api_server(LEDGER) as ledger,
        api_server(EDITOR) as editor,
    ):
        await install_crds(root)
        await make_administrators(root, ADMIN, OPERATOR, LEDGER)
        await make_editor(root, EDITOR)
        yield {"root": root, ADMIN: admin, OPERATOR: operator, LEDGER: ledger, EDITOR: editor}
        for document in documents():
            await root.request("DELETE", path_of_policy(document))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def budget(servers: dict[str, ApiServer]) -> Budget:
    root = servers["root"]
    namespace = f"foedus-policies-{uuid.uuid4().hex[:8]}"
    await make_namespace(root, namespace, {"foedus.dev/budgets": "kept"})
    place = f"/apis/foedus.dev/v1alpha1/namespaces/{namespace}/privacybudgets"
    document = budget_document()
    made = await root.request("POST", place, body=document)
    path = f"{place}/{made['metadata']['name']}"
    stored = await root.request("PUT", f"{path}/status", body={**made, "status": document["status"]})
    await apply_policies(root, path)
    return Budget(servers, path, stored)


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(POLICIES.read_text("utf-8")))


def path_of_policy(document: dict[str, Any]) -> str:
    plural = {
        "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
        "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
    }[document["kind"]]
    return f"/apis/admissionregistration.k8s.io/v1/{plural}/{document['metadata']['name']}"


async def apply_policies(root: ApiServer, path: str) -> None:
    """Apply them, see that their expressions have no type errors, and wait until they are enforced."""
    query = {"fieldManager": "foedus-tests", "force": "true", "fieldValidation": "Strict"}
    for document in documents():
        place = path_of_policy(document)
        await root.request("PATCH", place, query=query, body=document, content_type=SERVER_SIDE_APPLY)
    for document in documents():
        if document["kind"] == "ValidatingAdmissionPolicy":
            while "typeChecking" not in (found := await root.request("GET", path_of_policy(document))).get(
                "status", {}
            ):
                await asyncio.sleep(0.1)
            assert found["status"]["typeChecking"] == {}
    with suppress(Forbidden):
        while True:
            await root.request("DELETE", path, query={"dryRun": "All"})
            await asyncio.sleep(0.1)


async def make_administrators(root: ApiServer, *users: str) -> None:
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user} for user in users]
    body = {"metadata": {"name": "foedus-policy-tests"}, "roleRef": role, "subjects": subjects}
    with suppress(AlreadyExists):
        await root.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", body=body)


async def make_editor(root: ApiServer, user: str) -> None:
    rbac, name = "/apis/rbac.authorization.k8s.io/v1", "foedus-policy-tests-editor"
    resources = ["privacybudgets", "privacybudgets/status"]
    rules = [{"apiGroups": ["foedus.dev"], "resources": resources, "verbs": ["get", "update", "patch", "delete"]}]
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    binding = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
    for plural, body in (
        ("clusterroles", {"metadata": {"name": name}, "rules": rules}),
        ("clusterrolebindings", binding),
    ):
        with suppress(AlreadyExists):
            await root.request("POST", f"{rbac}/{plural}", body=body)


NEW = account(charged=0, lastAttempt=-1)
HEAD = head(9)
OTHERS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.com"},
    "spec": {
        "group": "example.com",
        "names": {"kind": "Thing", "plural": "things"},
        "scope": "Namespaced",
        "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
    },
}


@pytest.mark.parametrize(
    ("user", "path", "value", "refusal"),
    [
        (OPERATOR, "status.accounts.uid-2", NEW, None),
        (OPERATOR, f"{U}.state", "Closed", None),
        (OPERATOR, "status.epsilonSpent", 0.5, None),
        (OPERATOR, f"{U}.charged", 4, "never charges"),
        (OPERATOR, "status.accounts.uid-2", account(charged=1), "never charges"),
        (LEDGER, f"{U}.charged", 4, None),
        (LEDGER, f"{U}.charged", 5, "one release at a time"),
        (LEDGER, f"{U}.state", "Closed", "one release at a time"),
        (LEDGER, "status.accounts.uid-2", NEW, "one release at a time"),
        (LEDGER, "status.head", HEAD, "one release at a time"),
        (OPERATOR, "status.head", HEAD, None),
        (EDITOR, f"{U}.charged", 4, "only Foedus' ledger identities write status"),
        (EDITOR, "status.epsilonSpent", 0.5, "only Foedus' ledger identities write status"),
        (ADMIN, f"{U}.charged", 5, None),
        (ADMIN, "status.accounts.uid-2", account(charged=2, state="Closed"), None),
        (ADMIN, "status.accounts.uid-2", NEW, "neither opens nor closes"),
        (ADMIN, "status.epsilonSpent", 0.5, "takes over charges"),
        (ADMIN, "status.head", HEAD, "takes over charges"),
        ("root", f"{U}.state", "Closed", "neither opens nor closes"),
    ],
)
async def test_who_may_write_the_ledger(budget: Budget, user: str, path: str, value: Any, refusal: str | None) -> None:
    if refusal is None:
        await budget.put(user, path, value)
        return
    with pytest.raises(Forbidden, match=refusal):
        await budget.put(user, path, value)


@pytest.mark.parametrize("user", [ADMIN, OPERATOR, LEDGER, EDITOR])
async def test_nobody_lowers_or_deletes(budget: Budget, user: str) -> None:
    with pytest.raises(Forbidden, match="kept for ever"):
        await budget.servers[user].request("DELETE", budget.path, query={"dryRun": "All"})
    with pytest.raises((InvalidInput, Forbidden)):
        await budget.put(user, f"{U}.charged", 2)
    with pytest.raises(InvalidInput, match="cannot change"):
        await budget.put(user, "spec.epsilon", 2, subresource="")
    await budget.put(user, "metadata.labels", {"a": "b"}, subresource="")


async def test_what_a_budget_stands_in_stays(budget: Budget, servers: dict[str, ApiServer]) -> None:
    admin, dry = servers[ADMIN], {"dryRun": "All"}
    namespace = f"/api/v1/namespaces/{budget.document['metadata']['namespace']}"
    with pytest.raises(Forbidden, match="holds privacy budgets"):
        await admin.request("DELETE", namespace, query=dry)
    found = await admin.request("GET", namespace)
    del found["metadata"]["labels"]["foedus.dev/budgets"]
    with pytest.raises(Forbidden, match="its label"):
        await admin.request("PUT", namespace, query=dry, body=found)
    crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/privacybudgets.foedus.dev"
    with pytest.raises(Forbidden, match="every ledger"):
        await admin.request("DELETE", crd, query=dry)
    place, _, name = crd.rpartition("/")
    await admin.request("POST", place, body=OTHERS)
    with pytest.raises(Forbidden, match="every ledger"):  # all that a selection holds
        await admin.request("DELETE", place, query={**dry, "fieldSelector": f"metadata.name={name}"})
    await admin.request("DELETE", place, query={"fieldSelector": f"metadata.name={OTHERS['metadata']['name']}"})


async def test_a_budget_needs_a_namespace_that_is_kept(budget: Budget, servers: dict[str, ApiServer]) -> None:
    await make_namespace(servers["root"], "foedus-not-kept")
    place = "/apis/foedus.dev/v1alpha1/namespaces/foedus-not-kept/privacybudgets"
    with pytest.raises(Forbidden, match="kubectl label namespace"):
        await servers[ADMIN].request("POST", place, query={"dryRun": "All"}, body=budget_document())

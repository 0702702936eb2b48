"""The API server gives the verdicts of pydantic: the table of test_crds.py, sent as kubectl sends it.

Nothing of Foedus runs meanwhile: the CRDs alone refuse, strictly, and each refusal names the field.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from contract.test_crds import BUDGETS, JOBS, TRANSITIONS, budget, changed, client, job
from foedus_contract.errors import InvalidInput
from foedus_engine.api.parse import check_transition, parse
from foedus_engine.decide.plan import key_of
from foedus_engine.manifests import KINDS, load_manifests
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import collection, path_of
from support.kubernetes import api_server, install_crds, make_namespace

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
ROOT = Path(__file__).parents[2]
NAMESPACE = "foedus-admission"
DRY = {"dryRun": "All", "fieldValidation": "Strict"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[ApiServer]:
    async with api_server() as made:
        await install_crds(made)
        await make_namespace(made, NAMESPACE)
        yield made


def is_of_status(path: str) -> bool:
    return path.startswith("status")


# Too large for the oracle of test_crds.py, whose CEL is slow.
LARGE = [
    ("spec.clients", [client(number) for number in range(50)], None),
    ("spec.model.labels", [str(number) for number in range(100)], None),
]
CREATED = [(job(), *each) for each in (*JOBS, *LARGE)] + [
    (budget(), *each) for each in BUDGETS if not is_of_status(each[0])
]
CHANGED = [*TRANSITIONS, *((budget(), *each) for each in BUDGETS if is_of_status(each[0]))]


def blamed(judge: Callable[[], object]) -> str:
    """Return the last field of the path that pydantic's side blames."""
    with pytest.raises(InvalidInput) as refused:
        judge()
    return refused.value.where.rpartition(".")[2].partition("[")[0]


@pytest.mark.parametrize(("base", "path", "value", "want"), CREATED)
async def test_creation(server: ApiServer, base: dict[str, Any], path: str, value: Any, want: str | None) -> None:
    document = placed(changed(base, path, value))
    place = collection(document["apiVersion"], document["kind"], NAMESPACE)
    if want is None:
        await server.request("POST", place, query=DRY, body=document)
        return
    with pytest.raises(InvalidInput) as refused:
        await server.request("POST", place, query=DRY, body=document)
    assert blamed(lambda: parse(KINDS[base["kind"]], document)) in refused.value.what


@pytest.mark.parametrize(("old", "path", "value", "want"), CHANGED)
async def test_change(server: ApiServer, old: dict[str, Any], path: str, value: Any, want: str | None) -> None:
    stored = await store(server, placed(old))
    new = copy.deepcopy(stored)
    if path == "spec.clients.4":
        new["spec"]["clients"].append(value)
    else:
        new = changed(stored, path, value)
    place = path_of(key_of(stored)) + ("/status" if is_of_status(path) else "")
    if want is None:
        await server.request("PUT", place, query=DRY, body=new)
        return
    with pytest.raises(InvalidInput) as refused:
        await server.request("PUT", place, query=DRY, body=new)
    assert blamed(lambda: judge_change(stored, new)) in refused.value.what


def judge_change(old: dict[str, Any], new: dict[str, Any]) -> None:
    model = KINDS[old["kind"]]
    check_transition(parse(model, old), parse(model, new))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
async def test_examples_are_accepted(server: ApiServer, path: Path) -> None:
    for document in load_manifests(path.read_bytes(), source=path.name):
        place = collection(document["apiVersion"], document["kind"], NAMESPACE)
        await server.request("POST", place, query=DRY, body=placed(document))


def placed(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], "namespace": NAMESPACE}}


async def store(server: ApiServer, document: dict[str, Any]) -> dict[str, Any]:
    """Make the object under a name of its own, with its status, and return it as stored."""
    document = changed(document, "metadata.name", f"{document['metadata']['name']}-{uuid.uuid4().hex[:8]}")
    place = collection(document["apiVersion"], document["kind"], NAMESPACE)
    made = await server.request("POST", place, body=document)
    if "status" not in document:
        return made
    return await server.request("PUT", f"{path_of(key_of(made))}/status", body={**made, "status": document["status"]})


async def test_the_table_is_large_enough() -> None:
    created = [case[3] for case in CREATED]
    assert sum(want is not None for want in created) >= 60
    assert sum(want is None for want in created) >= 40

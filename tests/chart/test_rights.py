"""What Foedus may do in a cluster is what its code does, what the chart grants and what docs/operator.md says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from chart.golden import SETS, read
from chart.life import Life, watched
from chart.rights import documented, granted
from chart.store_server import StoreServer, resource
from contract.test_crds import budget
from foedus_contract.ledger_wire import BUDGET_PATH, CHARGES_PATH, INCARNATIONS_PATH
from foedus_engine.cluster.store import ObjectStore, open_database
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account
from foedus_operator.ledger_service.service import Service
from foedus_operator.ledgers import write_accounts
from foedus_operator.serving import reviewed_by
from support.brain import manifest

OPERATOR = "foedus-operator"
READER = "foedus-metrics"  # whose token a monitoring system shows
PAGES = ("/metrics", "/privacy/status", "/security/status")
NOISE = 100.0


@pytest.mark.parametrize("name", SETS)
def test_the_chart_grants_what_the_page_says(name: str) -> None:
    grants = list(granted(read(name)))
    readers = {grant for grant in grants if grant[0] == READER}
    assert readers in (set(), {(READER, "cluster", path, "get") for path in PAGES})
    assert sorted(set(grants) - readers) == sorted(documented())
    assert len(grants) == len(set(grants))


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(open_database(tmp_path / "store"), now=lambda: datetime.now(UTC), changed=lambda *_: None)


async def test_the_operator_uses_each_of_its_rights_and_no_other(store: ObjectStore) -> None:
    operator = StoreServer(store)
    life = Life(StoreServer(store), operator, "team-a", "foedus-system", with_controllers=False)
    await life.live()
    assert await life.left() == [("PersistentVolumeClaim", "demo-coordinator-output")]
    store.create(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any", "namespace": "team-a"}}, manager="test"
    )
    assert await reviewed_by(operator)("team-a/any", "/metrics")
    watches = {(resource(each.group, each.plural), verb) for each in watched() for verb in ("list", "watch")}
    assert operator.used | watches == used_by_page(OPERATOR)


async def test_the_ledger_service_uses_each_of_its_rights_and_no_other(store: ObjectStore) -> None:
    make_silo(store)
    service = StoreServer(store)
    async with TestClient(TestServer(Service(service).app())) as client:
        for pod in ("one", "two"):  # the second start of the role is another incarnation
            token = {"Authorization": f"Bearer team-a/{pod}"}
            assert (await client.post(INCARNATIONS_PATH, headers=token)).status == 200
        body = {"attempt": 0, "noise_multiplier": NOISE}
        assert (await client.post(CHARGES_PATH, headers=token, json=body)).status == 200
        assert (await client.get(BUDGET_PATH, headers=token)).status == 200
        assert (await client.get("/ready")).status == 200
        assert (await client.get("/metrics", headers=token)).status == 200
    assert service.used == used_by_page("foedus-ledger")


def make_silo(store: ObjectStore) -> None:
    """Make a job, the Job of its first silo with two pods, and the silo's budget with a reservation."""

    def make(api_version: str, kind: str, name: str, owner: Any = None, **content: Any) -> Any:
        meta: dict[str, Any] = {"name": name, "namespace": "team-a"}
        if owner is not None:
            reference = {key: owner[key] for key in ("apiVersion", "kind")} | {"controller": True}
            meta["ownerReferences"] = [reference | {key: owner["metadata"][key] for key in ("name", "uid")}]
        return store.create({"apiVersion": api_version, "kind": kind, "metadata": meta, **content}, manager="test")

    training = make("foedus.dev/v1alpha1", "FederatedTrainingJob", "demo", spec=manifest()["spec"])
    job = make("batch/v1", "Job", "demo-silo-1", training)
    for pod in ("one", "two"):
        make("v1", "Pod", pod, job)
    account = Account(mechanism=Mechanism(noise_multiplier=NOISE), reserved=4, claimant="team-a/demo")
    document = budget()
    made = make("foedus.dev/v1alpha1", "PrivacyBudget", "budget-silo-1", spec=document["spec"])
    accounts = write_accounts({training["metadata"]["uid"]: account})
    store.update_status({**made, "status": {**document["status"], "accounts": accounts}})


def used_by_page(identity: str) -> set[tuple[str, str]]:
    """Return the rights that docs/operator.md says an identity uses, without the names that they are limited to."""
    return {
        (what.split(" ")[0], verb)
        for (who, _, what, verb), why in documented().items()
        if who == identity and not why.startswith("no request")
    }


def test_no_right_reaches_beyond_its_purpose() -> None:
    for identity, _, what, verb in documented():
        assert "*" not in (what, verb)
        assert verb not in {"escalate", "bind", "impersonate", "deletecollection"}
        assert identity == OPERATOR or not what.startswith("secrets")

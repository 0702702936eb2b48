"""The ledger in a PrivacyBudget on a real API server: it does what the SQLite ledger does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from contract.test_crds import budget as budget_document
from foedus_contract.errors import Refused, Unavailable
from foedus_contract.wire import LedgerHead
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import Busy
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.charges import LedgerBehind
from foedus_ledger.mechanisms import Mechanism
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import KubeCluster
from foedus_operator.ledgers import KubeLedgers
from support.kubernetes import api_server, install_crds, make_namespace

pytestmark = pytest.mark.e2e
NAMESPACE = "foedus-ledgers"
MECHANISM = Mechanism(noise_multiplier=17.2, gap_epsilon=1e-9, gap_delta=1e-30)


@dataclass
class Book:
    server: ApiServer
    ledgers: KubeLedgers
    key: BudgetKey

    async def reserve(self, job_uid: str, mechanism: Mechanism = MECHANISM, count: int = 20) -> None:
        await self.ledgers.reserve(self.key, job_uid=job_uid, mechanism=mechanism, count=count, claimant="engine")

    async def charge(self, job_uid: str, attempt: int, noise_multiplier: float = 17.2) -> None:
        await self.ledgers.charge(self.key, job_uid=job_uid, attempt=attempt, noise_multiplier=noise_multiplier)

    async def account(self, job_uid: str) -> Any:
        record = await self.ledgers.read(self.key)
        assert record is not None
        return record.accounts[job_uid]


@pytest.fixture
async def book() -> AsyncIterator[Book]:
    async with api_server() as server:
        await install_crds(server)
        await make_namespace(server, NAMESPACE)
        name = f"budget-{uuid.uuid4().hex[:8]}"  # budgets are not deleted, in tests neither
        document = budget_document()
        del document["status"]
        await KubeCluster(server, KeyFeed()).create({**document, "metadata": {"name": name, "namespace": NAMESPACE}})
        yield Book(server, KubeLedgers(server), BudgetKey(NAMESPACE, name))
    await asyncio.sleep(0.1)


async def test_what_is_read_is_what_was_written(book: Book) -> None:
    await book.reserve("job-a")
    await book.charge("job-a", 0)
    await book.charge("job-a", 3)
    found = await book.account("job-a")
    assert (found.mechanism, found.reserved, found.charged, found.last_attempt, found.state) == (
        MECHANISM, 20, 2, 3, "Open",
    )  # fmt: skip
    await book.ledgers.close(book.key, job_uid="job-a")
    await book.ledgers.close(book.key, job_uid="job-a")
    record = await book.ledgers.read(book.key)
    assert record is not None
    assert (record.accounts["job-a"].state, record.version) == ("Closed", 4)
    assert record.spec.epsilon == 1.0


async def test_a_ledger_that_a_head_shows_to_be_an_old_copy_starts_nothing(book: Book) -> None:
    await book.reserve("job-a")
    await book.charge("job-a", 0)
    document = budget_document()["spec"]["dataset"]
    for count in (2, 1):  # an older one does not take the place of a newer one
        head = LedgerHead(dataset=document["digest"], count=count, hash=document["digest"], signature=b"s" * 64)
        await book.ledgers.keep_head(book.key, head)
    with pytest.raises(LedgerBehind, match="it holds 1 charges, 2 have been seen"):
        await book.ledgers.read(book.key)
    with pytest.raises(LedgerBehind):
        await book.reserve("job-b")
    with pytest.raises(LedgerBehind):
        await book.charge("job-a", 1)
    await book.ledgers.close(book.key, job_uid="job-a")  # gives nothing back that is spent


async def test_a_budget_that_is_gone_has_nothing_to_close(book: Book) -> None:
    await book.ledgers.close(BudgetKey(NAMESPACE, "nowhere"), job_uid="job-a")


async def test_the_same_reservation_twice_is_one(book: Book) -> None:
    await book.reserve("job-a")
    await book.reserve("job-a")
    assert (await book.account("job-a")).reserved == 20


async def test_what_does_not_fit_is_refused(book: Book) -> None:
    await book.reserve("job-a")
    with pytest.raises(Refused, match="would bring ε"):
        await book.reserve("job-b")
    await book.charge("job-a", 5)
    with pytest.raises(Refused, match="is not above the last charged one"):
        await book.charge("job-a", 5)
    with pytest.raises(Refused, match="has reserved nothing"):
        await book.charge("job-c", 0)
    with pytest.raises(Refused, match="below"):
        await book.charge("job-a", 6, noise_multiplier=17.0)


async def test_a_budget_that_is_not_there_is_none(book: Book) -> None:
    absent = BudgetKey(NAMESPACE, "absent")
    assert await book.ledgers.read(absent) is None
    with pytest.raises(Refused, match="there is no budget here"):
        await book.ledgers.charge(absent, job_uid="job-a", attempt=0, noise_multiplier=18.0)


async def test_of_many_writers_at_once_each_charge_counts_once(book: Book) -> None:
    jobs = [f"job-{number}" for number in range(4)]
    weak = Mechanism(noise_multiplier=100.0)
    for job in jobs:
        await book.reserve(job, weak)

    async def charge_all(job: str) -> None:
        for attempt in range(10):
            await book.charge(job, attempt, noise_multiplier=100.0)

    await asyncio.gather(*map(charge_all, jobs))
    assert [(await book.account(job)).charged for job in jobs] == [10] * 4


async def test_of_two_reservations_that_fit_alone_one_is_refused(book: Book) -> None:
    results = await asyncio.gather(*(book.reserve(job) for job in ("a", "b", "c")), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "Refused", "Refused"]


async def test_an_answer_that_is_lost_is_unavailable_and_the_charge_stands(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    await book.reserve("job-a")
    whole = book.server.request

    async def lose_the_answer(verb: str, path: str, **more: Any) -> Any:
        answer = await whole(verb, path, **more)  # type: ignore[arg-type]
        if verb == "PUT":
            raise Busy("the API server does not answer", where=path)
        return answer

    monkeypatch.setattr(book.server, "request", lose_the_answer)
    with pytest.raises(Unavailable):
        await book.charge("job-a", 0)
    monkeypatch.undo()
    assert (await book.account("job-a")).charged == 1
    with pytest.raises(Refused, match="not above the last charged one"):
        await book.charge("job-a", 0)


async def test_charges_are_taken_over_as_spent_and_once(book: Book) -> None:
    await book.reserve("job-a")
    await book.charge("job-a", 0)
    record = await book.ledgers.read(book.key)
    assert record is not None
    held = record.accounts["job-a"]
    newer = held.model_copy(update={"charged": 5, "last_attempt": 6})
    for _ in range(2):
        await book.ledgers.take_over(book.key, {"job-a": newer, "job-b": newer})
    assert await book.account("job-a") == newer
    assert await book.account("job-b") == newer.model_copy(update={"state": "Closed"})
    await book.ledgers.take_over(book.key, {"job-a": held})
    assert await book.account("job-a") == newer


async def test_a_ledger_that_contradicts_itself_is_not_trusted(book: Book) -> None:
    await book.reserve("job-a")
    cluster = KubeCluster(book.server, KeyFeed())
    path = f"/apis/foedus.dev/v1alpha1/namespaces/{NAMESPACE}/privacybudgets/{book.key.name}"
    obj = await book.server.request("GET", path)
    account = {**obj["status"]["accounts"]["job-a"], "charged": 3, "lastAttempt": 1}  # three charges in two attempts
    await cluster.update_status({**obj, "status": {"accounts": {"job-a": account}}})
    with pytest.raises(Refused, match="cannot be trusted"):
        await book.ledgers.read(book.key)

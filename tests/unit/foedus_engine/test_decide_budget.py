"""What is said of a budget, and what happens to the accounts of jobs that are gone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from foedus_contract.errors import Refused
from foedus_engine.accounting import Accounting
from foedus_engine.api.budget import PrivacyBudgetStatus
from foedus_engine.budget import budget_kinds
from foedus_engine.cluster.protocol import NotFound
from foedus_engine.decide.plan import BudgetKey, Close, ObjectKey, Plan
from foedus_ledger.charges import LedgerBehind
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = ("foedus.dev/v1alpha1", "PrivacyBudget")
SPEC = BudgetSpec(digest="sha256:" + "0" * 64, records=500, epsilon=1.0, delta=1e-5)
STORED = {"accounts": {"uid-1": {"kept": "as it is"}}}
OBJECT = {
    "kind": KEY[1],
    "metadata": {"name": "b", "namespace": "team-a", "uid": "u", "generation": 3},
    "status": STORED,
}


class FakeCluster:
    """Jobs by name, of which some are `over`; whatever else is asked for does not exist."""

    def __init__(self, jobs: Mapping[str, str], over: Collection[str] = ()) -> None:
        self.jobs = jobs
        self.over = over

    async def get(self, key: ObjectKey) -> dict[str, Any]:
        if (key.kind, key.namespace) == ("FederatedTrainingJob", "team-a") and key.name in self.jobs:
            conditions = [{"type": "Complete", "status": "True"}] if key.name in self.over else []
            return {"metadata": {"uid": self.jobs[key.name]}, "status": {"conditions": conditions}}
        raise NotFound("not there")


class FakeLedgers:
    def __init__(self, found: BudgetRecord | Exception | None) -> None:
        self.found = found

    async def read(self, key: BudgetKey) -> BudgetRecord | None:
        assert key == BudgetKey("team-a", "b")
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def account(claimant: str = "team-a/demo", **changes: Any) -> Account:
    fields = {"mechanism": Mechanism(noise_multiplier=40.0), "reserved": 4, "claimant": claimant}
    return Account.model_validate(fields | changes)


async def decide(
    found: BudgetRecord | Exception | None, jobs: Mapping[str, str] | None = None, over: Collection[str] = ()
) -> Plan:
    cluster: Any = FakeCluster(jobs or {}, over)
    ledgers: Any = FakeLedgers(found)
    return await budget_kinds(cluster, ledgers, Accounting(None), clock=lambda: NOW)[KEY](OBJECT)


def record(**accounts: Account) -> BudgetRecord:
    return BudgetRecord(spec=SPEC, accounts={uid.replace("_", "-"): each for uid, each in accounts.items()})


def ready(plan: Plan) -> tuple[str, str, str]:
    assert plan.status is not None
    (condition,) = plan.status["conditions"]
    return condition["status"], condition["reason"], condition["message"]


async def test_a_fresh_budget_is_available_and_its_accounts_stay_as_they_were_read() -> None:
    plan = await decide(record())

    assert ready(plan) == ("True", "Available", "")
    assert plan.status is not None
    assert (plan.status["epsilonSpent"], plan.status["epsilonReserved"], plan.status["observedGeneration"]) == (0, 0, 3)
    assert plan.status["accounts"] is STORED["accounts"]
    (claim,) = [ensure.manifest for ensure in plan.ensure]
    assert (claim["kind"], claim["metadata"]["name"]) == ("PersistentVolumeClaim", "b-ledger")
    assert [owner["uid"] for owner in claim["metadata"]["ownerReferences"]] == ["u"]


async def test_what_is_spent_and_what_may_still_be_spent_is_said_in_epsilon() -> None:
    plan = await decide(record(uid_1=account(charged=1, last_attempt=0)), {"demo": "uid-1"})

    assert plan.status is not None
    spent, reserved = plan.status["epsilonSpent"], plan.status["epsilonReserved"]
    assert 0 < spent < reserved < 1
    assert plan.ledger == ()
    status = {key: value for key, value in plan.status.items() if key != "accounts"}
    PrivacyBudgetStatus.model_validate(status)


async def test_a_budget_that_was_just_measured_is_looked_at_again_and_its_orphans_are_closed_at_once() -> None:
    jobs: Any = FakeCluster({"demo": "uid-1"})
    ledgers: Any = FakeLedgers(record())
    decide = budget_kinds(jobs, ledgers, Accounting(None, clock=lambda: 7.0), clock=lambda: NOW)[KEY]
    assert (await decide(OBJECT)).status is not None

    ledgers.found = record(uid_1=account())
    plan = await decide(OBJECT)
    assert (plan.status, plan.requeue_seconds, len(plan.ensure)) == (None, 30.0, 1)
    jobs.jobs = {}
    assert (await decide(OBJECT)).ledger == (Close(BudgetKey("team-a", "b"), "uid-1"),)


# The noise with which four releases fill a budget of ε = 1 at δ = 1e-5, as `foedus_ledger.calibration` finds it.
FILLING = Mechanism(noise_multiplier=7.462713)


@pytest.mark.parametrize(("reserved", "reason"), [(3, "Available"), (4, "Exhausted")])
async def test_a_budget_that_holds_nothing_more_is_exhausted(reserved: int, reason: str) -> None:
    plan = await decide(record(uid_1=account(mechanism=FILLING, reserved=reserved)), {"demo": "uid-1"})

    assert ready(plan)[1] == reason


@pytest.mark.parametrize(
    ("claimant", "state", "jobs", "closed"),
    [
        ("team-a/demo", "Open", {"demo": "uid-1"}, False),
        ("team-a/demo", "Open", {}, True),  # deleted
        ("team-a/demo", "Open", {"demo": "uid-2"}, True),  # deleted, and made again
        ("team-a/demo", "Closed", {}, False),
        ("elsewhere/demo", "Open", {}, False),  # not a job that could be looked for here
        ("by hand", "Open", {}, False),
    ],
)
async def test_an_account_is_closed_when_its_job_is_gone(
    claimant: str, state: str, jobs: dict[str, str], closed: bool
) -> None:
    plan = await decide(record(uid_1=account(claimant, state=state)), jobs)

    assert plan.ledger == ((Close(BudgetKey("team-a", "b"), "uid-1"),) if closed else ())
    assert (plan.status is None) is closed


async def test_an_account_is_closed_when_its_job_is_over() -> None:
    plan = await decide(record(uid_1=account()), {"demo": "uid-1"}, over={"demo"})

    assert plan.ledger == (Close(BudgetKey("team-a", "b"), "uid-1"),)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(LedgerBehind("is an old copy"), "LedgerBehind"), (Refused("cannot be trusted"), "LedgerDamaged")],
)
async def test_a_ledger_that_cannot_be_used_is_said_and_nothing_is_closed(error: Exception, reason: str) -> None:
    plan = await decide(error)

    assert ready(plan) == ("False", reason, str(error))
    assert (plan.ledger, plan.requeue_seconds) == ((), 60.0)


async def test_a_budget_that_is_gone_is_left_alone() -> None:
    assert await decide(None) == Plan()

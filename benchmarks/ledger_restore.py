"""An old copy of etcd is put back: the silos and a head must see it, and what is taken over must bring all back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.api_cluster import LEDGER
from benchmarks.ledger_session import NAMESPACE, Session, read_records, with_ledgers
from foedus_contract.errors import FoedusError
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.charge_log import read_charges
from foedus_ledger.charges import LedgerBehind, check_reaches
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord
from foedus_operator.ledgers import KubeLedgers
from foedus_workloads.training.silo_ledger import SiloLedger

NOTHING = Account(mechanism=Mechanism(noise_multiplier=1.0), reserved=1, claimant="nobody")


@dataclass
class HeldByCluster:
    """A silo's ledger in the cluster, for the silo's own code, which is not asynchronous."""

    session: Session
    name: str

    @property
    def where(self) -> str:
        """Return the budget."""
        return f"{NAMESPACE}/{self.name}"

    def read(self) -> BudgetRecord:
        """Return the record as last committed."""
        return asyncio.run(read_records(self.session))[self.name]

    def charge(self, job_uid: str, attempt: int, *, noise_multiplier: float | None = None) -> BudgetRecord:
        """Charge one release as the ledger service does."""
        key = BudgetKey(NAMESPACE, self.name)

        async def charge(ledgers: KubeLedgers) -> BudgetRecord:
            return await ledgers.charge(key, job_uid=job_uid, attempt=attempt, noise_multiplier=noise_multiplier or 0.0)

        return asyncio.run(with_ledgers(self.session.cluster, charge, LEDGER))


def restore(session: Session) -> dict[str, Any]:
    """Put the old copy of etcd back; return what silos and operator make of it, and of what they take over."""
    assert session.snapshot is not None
    key = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
    logs = {name: session.folder / name / "charges.jsonl" for name in session.budgets}
    silos = {name: SiloLedger(HeldByCluster(session, name), log, key) for name, log in logs.items()}
    for log in logs.values():
        log.parent.mkdir()
    heads = {name: silo.open() for name, silo in silos.items()}
    before = asyncio.run(read_records(session))
    session.cluster.restore_snapshot(session.snapshot)
    old = asyncio.run(read_records(session))
    flagged = {
        "by the silo at its start": [is_behind(silo.open) for silo in silos.values()],
        "by the silo at a charge": [is_behind(lambda name=name: charge_on(silos[name], old[name])) for name in silos],  # type: ignore[misc]
        "by a head": [is_behind(lambda name=name: check_reaches(old[name], heads[name])) for name in silos],  # type: ignore[misc]
    }

    async def take_over(ledgers: KubeLedgers) -> None:
        for name, log in logs.items():
            await ledgers.take_over(BudgetKey(NAMESPACE, name), read_charges(log).accounts)

    asyncio.run(with_ledgers(session.cluster, take_over))
    after = asyncio.run(read_records(session))
    lost = {name: charges(before[name]) - charges(old[name]) for name in before}
    refunded = [
        f"{name}/{uid}"
        for name, record in before.items()
        for uid, account in record.accounts.items()
        if account.charged and account.charged > (after[name].accounts.get(uid) or NOTHING).charged
    ]
    return {"chargesInNoOldCopy": lost, "flagged": flagged, "refunded": refunded}


def charges(record: BudgetRecord) -> int:
    """Return how many releases a ledger holds."""
    return sum(account.charged for account in record.accounts.values())


def charge_on(silo: SiloLedger, record: BudgetRecord) -> None:
    """Charge whatever account of an old copy is still open and has room."""
    for uid, account in record.accounts.items():
        if account.state == "Open" and account.charged < account.reserved:
            noise = account.mechanism.noise_multiplier
            silo.charge(uid, account.last_attempt + 1000, noise_multiplier=noise)


def is_behind(act: Callable[[], object]) -> bool:
    """Say whether this is refused for an old copy."""
    try:
        act()
    except LedgerBehind:
        return True
    except FoedusError:
        return False
    return False

"""The silos' ledgers as the embedded engine keeps them: one SQLite file in the claim `<budget>-ledger`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from foedus_contract.errors import Unavailable
from foedus_engine.cluster.embedded import claim_path
from foedus_engine.decide.plan import BudgetKey
from foedus_engine.names import LEDGER_FILE, ledger_claim
from foedus_ledger.ledger import BudgetRecord
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.sqlite import LedgerMissing, SqliteLedger


def ledger_path(state: Path, budget: BudgetKey) -> Path:
    """Return the ledger file of a budget below a state folder."""
    return claim_path(state, budget.namespace, ledger_claim(budget.name)) / LEDGER_FILE


class EmbeddedLedgers:
    """The ledgers below one state folder. Files are read and written in threads: a commit waits for the disk."""

    def __init__(self, state: Path) -> None:
        self._state = state

    async def read(self, budget: BudgetKey) -> BudgetRecord | None:
        """Return the budget with all its accounts; None when its holder has not created it."""
        ledger = self._ledger(budget)
        try:
            return await asyncio.to_thread(ledger.read)
        except LedgerMissing:
            return None
        except OSError as error:
            cure = "check the folder's permissions"
            raise Unavailable(
                f"the ledger cannot be read ({error.strerror})", where=str(ledger.path), cure=cure
            ) from None

    async def reserve(
        self, budget: BudgetKey, *, job_uid: str, mechanism: Mechanism, count: int, claimant: str
    ) -> None:
        """Set aside `count` releases; raises Refused when they do not fit, Unavailable when the answer is unknown."""
        await asyncio.to_thread(self._ledger(budget).reserve, job_uid, mechanism, count, claimant)

    async def close(self, budget: BudgetKey, *, job_uid: str) -> None:
        """Give back what was reserved and not charged; an absent or closed account is left as it is."""
        await asyncio.to_thread(self._ledger(budget).close, job_uid)

    def _ledger(self, budget: BudgetKey) -> SqliteLedger:
        return SqliteLedger(ledger_path(self._state, budget))

"""The silos' ledgers on one machine: what of a file's trouble is an error, and of which class."""

from __future__ import annotations

from pathlib import Path

import pytest

from foedus_contract.errors import Unavailable
from foedus_engine.cluster.embedded_ledgers import EmbeddedLedgers, ledger_path
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.records import BudgetRecord
from foedus_ledger.sqlite import LedgerDamaged, SqliteLedger

BUDGET = BudgetKey("default", "silo-1")


async def test_a_budget_that_nobody_made_is_none(tmp_path: Path) -> None:
    assert await EmbeddedLedgers(tmp_path).read(BUDGET) is None


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = ledger_path(tmp_path, BUDGET)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerDamaged, match="cannot be trusted"):
        await EmbeddedLedgers(tmp_path).read(BUDGET)


async def test_what_the_file_system_refuses_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_ledger: SqliteLedger) -> BudgetRecord:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(SqliteLedger, "read", read)
    with pytest.raises(Unavailable) as caught:
        await EmbeddedLedgers(tmp_path).read(BUDGET)
    assert "the ledger cannot be read (Permission denied); check the folder's permissions" in str(caught.value)

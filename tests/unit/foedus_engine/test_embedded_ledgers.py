"""The silos' ledgers on one machine: what of a file's trouble is an error, and of which class."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract.errors import Unavailable
from foedus_contract.wire import LedgerHead
from foedus_engine.cluster.embedded_ledgers import EmbeddedLedgers, head_path, ledger_path
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.charge_log import log_path
from foedus_ledger.charges import LedgerBehind, LogDamaged
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetRecord, BudgetSpec
from foedus_ledger.sqlite import LedgerDamaged, SqliteLedger
from support.silo_ledgers import file_ledger

BUDGET = BudgetKey("default", "silo-1")
SPEC = BudgetSpec(digest="sha256:" + "a" * 64, records=5, epsilon=50.0, delta=1e-5)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


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


@pytest.fixture
async def used(tmp_path: Path) -> tuple[EmbeddedLedgers, Path, dict[Path, bytes | None]]:
    """A budget that a job has charged once and closed, and the files as they were after the reservation."""
    path = ledger_path(tmp_path, BUDGET)
    SqliteLedger(path).create(SPEC)
    ledgers = EmbeddedLedgers(tmp_path)
    await ledgers.reserve(
        BUDGET, job_uid="uid", mechanism=Mechanism(noise_multiplier=9.0), count=3, claimant="default/job"
    )
    before: dict[Path, bytes | None] = {path: path.read_bytes(), log_path(path): None}
    path.with_name("identity.key").write_bytes(bytes(32))
    file_ledger(path, KEY).charge("uid", 0)
    await ledgers.close(BUDGET, job_uid="uid")
    return ledgers, path, before


def restore(before: dict[Path, bytes | None], *files: Path) -> None:
    for file in files:
        content = before[file]
        file.unlink() if content is None else file.write_bytes(content)


async def test_a_restored_ledger_is_behind_its_silos_log(used: tuple) -> None:
    ledgers, path, before = used
    record = await ledgers.read(BUDGET)
    assert record is not None
    assert record.accounts["uid"].charged == 1
    restore(before, path)
    with pytest.raises(LedgerBehind, match="it holds 0 of 1 charges that the silo's own log has"):
        await ledgers.read(BUDGET)


async def test_ledger_and_log_restored_together_are_behind_what_the_engine_saw(used: tuple) -> None:
    ledgers, path, before = used
    restore(before, path, log_path(path))
    with pytest.raises(LedgerBehind, match="it holds 0 charges, 1 have been seen; restore the newest copies"):
        await ledgers.read(BUDGET)
    path.unlink()
    SqliteLedger(path).create(SPEC)  # nor does a budget made anew forget
    with pytest.raises(LedgerBehind):
        await EmbeddedLedgers(ledgers._state).read(BUDGET)


@pytest.mark.parametrize("then", [None, 1])
async def test_a_head_that_goes_further_than_the_ledger_is_kept(used: tuple, then: int | None) -> None:
    ledgers, _, _ = used
    for count in filter(None, (2, then)):  # an older one does not take the place of a newer one
        head = LedgerHead(dataset=SPEC.digest, count=count, hash="sha256:" + "e" * 64, signature=b"s" * 64)
        await ledgers.keep_head(BUDGET, head)
    with pytest.raises(LedgerBehind, match="it holds 1 charges, 2 have been seen"):
        await ledgers.read(BUDGET)


async def test_a_log_that_is_lost_alone_takes_nothing_from_the_ledger(used: tuple) -> None:
    ledgers, path, before = used
    restore(before, log_path(path))
    assert await ledgers.read(BUDGET) is not None
    assert file_ledger(path, KEY).open().count == 1


async def test_a_log_that_cannot_be_trusted_is_refused_each_time(used: tuple) -> None:
    ledgers, path, _ = used
    await ledgers.read(BUDGET)
    log_path(path).write_bytes(log_path(path).read_bytes().replace(b'"count":1', b'"count":2'))
    for _ in range(2):
        with pytest.raises(LogDamaged, match=r"charges\.jsonl:1: the charge log cannot be trusted"):
            await ledgers.read(BUDGET)


async def test_a_budget_for_other_data_under_an_old_name_is_refused(used: tuple) -> None:
    ledgers, path, before = used
    restore(before, log_path(path))
    path.unlink()
    SqliteLedger(path).create(SPEC.model_copy(update={"digest": "sha256:" + "b" * 64}))
    with pytest.raises(LogDamaged, match="the head that was seen is of another data set"):
        await ledgers.read(BUDGET)


async def test_a_head_that_was_kept_and_is_damaged_is_refused(used: tuple, tmp_path: Path) -> None:
    ledgers, _, _ = used
    head_path(tmp_path, BUDGET).write_text("{}")
    with pytest.raises(LogDamaged, match="the head that was kept is damaged"):
        await ledgers.read(BUDGET)

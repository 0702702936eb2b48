"""The power fails after any change that a silo's or the coordinator's process makes on its disk.

What it has told others still holds then. The process and its changes are real (system calls, SQLite's included); what
a disk keeps of them is a model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from foedus_contract.errors import Refused
from foedus_ledger.charge_log import log_path, read_charges
from foedus_ledger.records import Account
from foedus_ledger.sqlite import LedgerMissing, SqliteLedger
from foedus_workloads.training.coordinator_journal import open_coordinator_journal
from foedus_workloads.training.identity import load_identity
from foedus_workloads.training.journal import open_journal
from foedus_workloads.training.silo_entries import ORDER
from foedus_workloads.training.silo_ledger import SiloLedger
from support import coordinator_story, lost_power, silo_story
from support.silo_story import ATTEMPTS, JOB, TOLD, ledger_path, no_entropy, upload

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # the disk is modelled; this one only has to be quick


@pytest.mark.parametrize(
    ("story", "last", "kinds"),
    [
        (silo_story, "close", {"create", "write", "cut", "sync", "link", "rename", "unlink"}),
        (coordinator_story, "closed", {"create", "write", "cut", "sync", "rename", "unlink"}),
    ],
    ids=["silo", "coordinator"],
)
def test_what_was_told_holds_wherever_the_power_fails(
    tmp_path: Path, story: ModuleType, last: str, kinds: set[str]
) -> None:
    library, traced = tmp_path / "library", tmp_path / "traced"
    library.mkdir()
    traced.mkdir()
    changes = lost_power.trace(story.__name__, traced, lost_power.build_shim(library))
    assert {change.kind for change in changes} == kinds
    check = {silo_story: check_silo, coordinator_story: check_coordinator}[story]
    states, told = 0, ()
    for told, disk in lost_power.cuts(changes, TOLD):
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            for file, content in disk.items():
                Path(name, file).write_bytes(content)
            check(Path(name), told)
            states += 1
    assert told[-1] == last
    assert states > 2 * len(told)  # more than what it went through anyway


def check_silo(folder: Path, told: Sequence[str]) -> None:
    """What is there is what was told, or one step more that nobody has heard of; and it can be gone on with."""
    key = load_identity(folder, silo_story.entropy if "key" not in told else no_entropy)
    ledger = SqliteLedger(ledger_path(folder))
    try:
        record = ledger.read()
    except LedgerMissing:
        assert "create" not in told
        return
    account = record.accounts.get(JOB)
    assert account is not None or "reserve" not in told
    charged, charges_told = (0 if account is None else account.charged), _count(told, "charge")
    assert charged - charges_told in {0, 1}
    logged = read_charges(log_path(ledger.path)).accounts.get(JOB)
    assert charges_told <= (0 if logged is None else logged.charged) <= charged
    silo = SiloLedger(ledger, log_path(ledger.path), key)
    assert silo.open().count == charged
    check_journal(folder, told, charged)
    if account is not None:
        assert account.state == "Closed" or "close" not in told
        check_goes_on(silo, account)


def check_journal(folder: Path, told: Sequence[str], charged: int) -> None:
    with open_journal(folder, JOB) as journal:
        last = journal.last
    written = 0 if last is None else last.attempt * len(ORDER) + ORDER.index(last.stage) + 1
    assert written - sum(_count(told, stage) for stage in ORDER) in {0, 1}
    if last is not None:
        assert charged > last.attempt or last.stage in {"Opened", "Charging"}, "noise is drawn for a charge alone"
        assert charged <= last.attempt + (last.stage != "Opened"), "a charge is announced"
        if last.stage == "Uploaded":
            (kept,) = folder.glob(f"journal-*-{last.attempt}.masked")
            assert kept.read_bytes() == upload(last.attempt)


def check_goes_on(silo: SiloLedger, account: Account) -> None:
    for attempt in range(account.charged):
        with pytest.raises(Refused):
            silo.charge(JOB, attempt, noise_multiplier=20.0)
    if account.state == "Closed":
        with pytest.raises(Refused):
            silo.charge(JOB, ATTEMPTS, noise_multiplier=20.0)
    else:
        silo.charge(JOB, account.charged, noise_multiplier=20.0)
        assert silo.read().accounts[JOB].charged == account.charged + 1


def _count(told: Sequence[str], what: str) -> int:
    return sum(line.split()[0] == what for line in told)


def check_coordinator(folder: Path, told: Sequence[str]) -> None:
    with open_coordinator_journal(coordinator_story.journal_path(folder)) as journal:
        recovered = journal.recovered
    if recovered is None:
        assert "began" not in told
        return
    standing = recovered.standing
    assert standing.attempts - told.count("opened") in {0, 1}, "a number that silos have heard is never used again"
    assert standing.charged == standing.attempts
    assert standing.rounds - told.count("closed") in {0, 1}
    assert (recovered.checkpoint is None) == (standing.rounds == 0)
    if recovered.checkpoint is not None:
        content = coordinator_story.checkpoints(folder).load(recovered.checkpoint)
        assert content == coordinator_story.adapter(standing.rounds)

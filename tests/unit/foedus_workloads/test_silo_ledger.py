"""Ledger and log of a silo together: whatever is restored or cut off, spent never falls below what was released."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from foedus_contract.durable import open_locked
from foedus_contract.errors import Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_ledger.charge_log import log_path, read_charges
from foedus_ledger.charges import Charges, LedgerBehind, is_signed, missing, parse_charges
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetRecord, BudgetSpec
from foedus_ledger.sqlite import LedgerMissing, SqliteLedger
from foedus_workloads.training import silo_ledger
from support.silo_ledgers import file_ledger

KEY, OTHER_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
SPEC = BudgetSpec(digest="sha256:" + "a" * 64, records=5, epsilon=50.0, delta=1e-5)
MECHANISM = Mechanism(noise_multiplier=20.0)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of syncs; what a power cut leaves is not asked
JOBS = ("job-a", "job-b")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.create(SPEC)
    ledger.reserve("job-a", MECHANISM, 9, "default/job")
    return ledger.path


def test_a_charge_is_in_ledger_and_log_and_the_head_counts_it(path: Path) -> None:
    silo = file_ledger(path, KEY)
    assert silo.open().count == 0
    for attempt in (0, 2):
        silo.charge("job-a", attempt, noise_multiplier=20.0)
    assert silo.read().accounts["job-a"].charged == 2
    assert read_charges(log_path(path)).accounts == {"job-a": silo.read().accounts["job-a"]}
    head = file_ledger(path, KEY).open()
    assert (head.count, head.dataset) == (2, SPEC.digest)
    assert is_signed(head, KEY.public_key().public_bytes_raw())


def test_a_log_that_begins_late_starts_with_what_the_ledger_holds(path: Path) -> None:
    for attempt in range(3):
        SqliteLedger(path).charge("job-a", attempt)
    assert file_ledger(path, KEY).open().count == 3
    assert len(log_path(path).read_bytes().splitlines()) == 1


def test_an_old_copy_is_refused_at_the_start_and_at_the_next_charge(path: Path, tmp_path: Path) -> None:
    silo = file_ledger(path, KEY)
    silo.charge("job-a", 0)
    shutil.copy(path, tmp_path / "old")
    silo.charge("job-a", 1)
    shutil.copy(tmp_path / "old", path)
    for act in (silo.open, lambda: silo.charge("job-a", 2)):
        with pytest.raises(LedgerBehind, match=f"^{path}: the ledger is an old copy: .*foedus budget reconcile$") as e:
            act()
        assert e.value.code is ExitCode.LEDGER_BEHIND
    # The refused charge brought the old copy to as many as the log has; the next one would be a release too many.
    SqliteLedger(path).take_over(read_charges(log_path(path)).accounts)
    silo.charge("job-a", 3)
    assert silo.read().accounts["job-a"].charged == 3


def test_a_newer_copy_that_lacks_the_charge_does_not_stand_for_it(path: Path, tmp_path: Path) -> None:
    silo, start = file_ledger(path, KEY), path.read_bytes()
    silo.charge("job-a", 0)
    with dying("before the line"), pytest.raises(Died):
        silo.charge("job-a", 1)
    newer = tmp_path / "newer"
    shutil.copy(path, newer)  # it has one charge more than the log, which was never released
    path.write_bytes(start)
    with restoring(path, newer), pytest.raises(LedgerBehind):
        silo.charge("job-a", 2)


def test_an_attempt_that_the_log_knows_is_not_charged_again_on_an_old_copy(path: Path) -> None:
    silo, start = file_ledger(path, KEY), path.read_bytes()
    silo.charge("job-a", 0)
    path.write_bytes(start)
    with pytest.raises(LedgerBehind):
        silo.charge("job-a", 0)


def test_a_line_that_another_jobs_silo_wrote_for_a_charge_stands_for_it(path: Path) -> None:
    SqliteLedger(path).reserve("job-b", MECHANISM, 9, "default/other")
    silo, other = file_ledger(path, KEY), file_ledger(path, KEY)
    with after_the_commit(other.open):
        silo.charge("job-a", 0)
    other.charge("job-b", 0)
    assert silo.open().count == 2


@pytest.mark.parametrize("when", ["before it answers", "after it answered"])
@pytest.mark.parametrize("own", ["open", "charge"])
def test_a_silo_that_waits_for_its_ledger_keeps_no_other_waiting(
    path: Path, monkeypatch: pytest.MonkeyPatch, own: str, when: str
) -> None:
    monkeypatch.setattr(silo_ledger, "LOCK_SECONDS", 0.0)  # whoever would have to wait fails
    SqliteLedger(path).reserve("job-b", MECHANISM, 9, "default/other")
    silo, other = file_ledger(path, KEY), file_ledger(path, KEY)
    other.charge("job-b", 0)
    with during_a_read(lambda: other.charge("job-b", 1), when, number=2 if own == "open" else 1):
        silo.open() if own == "open" else silo.charge("job-a", 0)
    charged = {job: account.charged for job, account in read_charges(log_path(path)).accounts.items()}
    assert charged == ({"job-b": 2} if own == "open" else {"job-a": 1, "job-b": 2})
    assert silo.open().count == sum(charged.values())


def test_a_ledger_that_is_exchanged_while_it_is_read_is_an_old_copy(path: Path) -> None:
    ledger, silo, other = SqliteLedger(path), file_ledger(path, KEY), file_ledger(path, KEY)
    start = path.read_bytes()
    for attempt in (0, 1):
        ledger.charge("job-a", attempt)

    def exchange() -> None:
        path.write_bytes(start)
        other.charge("job-a", 5)

    with (
        during_a_read(exchange, "after it answered", number=2),
        pytest.raises(LedgerBehind, match="exchanged while it was read"),
    ):
        silo.open()
    assert read_charges(log_path(path)).accounts["job-a"].last_attempt == 5


def test_what_another_process_appended_is_read_on_from_what_was_read_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silo, other = file_ledger(path, KEY), file_ledger(path, KEY)
    for attempt in range(3):
        silo.charge("job-a", attempt)
    other.charge("job-a", 3)
    parsed: list[int] = []

    def parse(lines: Sequence[bytes], *arguments: Any, **named: Any) -> Charges:
        parsed.append(len(lines))
        return parse_charges(lines, *arguments, **named)

    monkeypatch.setattr(silo_ledger, "parse_charges", parse)
    silo.charge("job-a", 4)
    assert sum(parsed) == 2  # its own last line, and the other's
    assert silo.open().count == 5


def test_a_log_that_was_cut_in_its_place_is_read_anew(path: Path) -> None:
    silo = file_ledger(path, KEY)
    for attempt in range(2):
        silo.charge("job-a", attempt)
    first, _, _ = log_path(path).read_bytes().partition(b"\n")
    log_path(path).write_bytes(first + b"\n")
    assert silo.open().count == 2
    assert read_charges(log_path(path)).accounts["job-a"].charged == 2


def test_a_log_signed_with_another_key_is_refused(path: Path) -> None:
    file_ledger(path, KEY).charge("job-a", 0)
    other = file_ledger(path, OTHER_KEY)
    for act in (other.open, lambda: other.charge("job-a", 1)):
        with pytest.raises(Refused, match="the charge log is not signed with this silo's identity key") as caught:
            act()
        assert caught.value.code is ExitCode.IDENTITY_REFUSED


def test_without_a_ledger_no_log_is_begun(tmp_path: Path) -> None:
    with pytest.raises(LedgerMissing):
        file_ledger(tmp_path / "ledger.sqlite", KEY).open()
    assert list(tmp_path.iterdir()) == []


def test_half_a_line_is_cut_off_and_its_charge_is_noted_again(path: Path) -> None:
    silo = file_ledger(path, KEY)
    silo.charge("job-a", 0)
    with dying("half a line"), pytest.raises(Died):
        silo.charge("job-a", 1)
    assert not log_path(path).read_bytes().endswith(b"\n")
    assert file_ledger(path, KEY).open().count == 2
    assert [line[-1:] for line in log_path(path).read_bytes().splitlines()] == [b"}", b"}"]


def test_a_full_volume_is_said_and_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silo = file_ledger(path, KEY)
    silo.charge("job-a", 0)
    whole, write = log_path(path).read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:9]))
    with pytest.raises(Unavailable, match=r"charges\.jsonl: cannot be written"):
        silo.charge("job-a", 1)
    assert log_path(path).read_bytes() == whole


def test_a_log_that_another_process_holds_too_long_is_unavailable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silo_ledger, "LOCK_SECONDS", 0.0)
    with (
        open_locked(log_path(path), busy=Unavailable("is held")),
        pytest.raises(Unavailable, match=r"charges\.jsonl: a silo of another job has not let go of the charge log"),
    ):
        file_ledger(path, KEY).charge("job-a", 0)


class Died(Exception):
    """The process ended here."""


@contextmanager
def dying(when: str) -> Iterator[None]:
    """Let the process die between two durable steps of a charge."""

    def append(descriptor: int, line: bytes) -> None:
        written = {"before the line": b"", "half a line": line[: len(line) // 2], "after the line": line}[when]
        os.write(descriptor, written)
        raise Died

    with patch.object(silo_ledger, "append_durably", append):
        yield


@contextmanager
def after_the_commit(act: Callable[[], object]) -> Iterator[None]:
    """Let something happen right after a charge of the ledger is committed."""
    charge: Callable[..., object] = SqliteLedger.charge

    def charge_then_act(self: SqliteLedger, *arguments: object, **named: object) -> None:
        charge(self, *arguments, **named)
        act()

    with patch.object(SqliteLedger, "charge", charge_then_act):
        yield


@contextmanager
def during_a_read(act: Callable[[], object], when: str, *, number: int = 1) -> Iterator[None]:
    """Let something happen while a ledger is asked what it holds, for the `number`th time."""
    read, asked = SqliteLedger.read, itertools.count(1)

    def read_slowly(self: SqliteLedger) -> BudgetRecord:
        mine = next(asked) == number
        if mine and when == "before it answers":
            act()
        record = read(self)
        if mine and when == "after it answered":
            act()
        return record

    with patch.object(SqliteLedger, "read", read_slowly):
        yield


def restoring(path: Path, copy: Path) -> AbstractContextManager[None]:
    """Put an old copy in the ledger's place right after its charge is committed."""
    return after_the_commit(lambda: shutil.copy(copy, path))


class RestoredLedgers(RuleBasedStateMachine):
    """Two jobs charge one budget; processes die, old copies of the ledger come back at any moment."""

    copies = Bundle("copies")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.ledger = SqliteLedger(self.folder / "ledger.sqlite")
        self.ledger.create(SPEC)
        self.silos = {job: file_ledger(self.ledger.path, KEY) for job in JOBS}
        self.released = Counter[str]()
        self.attempts = 0

    @initialize(target=copies)
    def start_with_both_jobs(self) -> MultipleResults[Path]:
        empty = self.copy_ledger()
        for job in JOBS:
            self.reserve(job)
        return multiple(empty, self.copy_ledger())

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def copy_ledger(self) -> Path:
        copy = self.folder / f"copy-{len(list(self.folder.iterdir()))}"
        shutil.copy(self.ledger.path, copy)
        return copy

    def is_behind(self) -> bool:
        return bool(missing(self.ledger.read(), read_charges(log_path(self.ledger.path))))

    def charge(self, job: str) -> None:
        """Do what a silo does; a charge that returns is released."""
        self.attempts += 1
        was_behind = self.is_behind()
        try:
            self.silos[job].charge(job, self.attempts)
        except (Refused, Died):
            return
        assert not was_behind
        self.released[job] += 1

    @rule(job=st.sampled_from(JOBS))
    def reserve(self, job: str) -> None:
        if not self.is_behind():  # else the engine starts nothing
            try:
                self.ledger.reserve(job, MECHANISM, 9, "default/job")
            except Refused:
                assert self.ledger.read().accounts[job].state == "Closed"

    @rule(job=st.sampled_from(JOBS))
    def charge_and_release(self, job: str) -> None:
        self.charge(job)

    @rule(job=st.sampled_from(JOBS), when=st.sampled_from(["before the line", "half a line", "after the line"]))
    def charge_and_die(self, job: str, when: str) -> None:
        with dying(when):
            self.charge(job)
        self.silos[job] = file_ledger(self.ledger.path, KEY)

    @rule(job=st.sampled_from(JOBS))
    def close(self, job: str) -> None:
        self.ledger.close(job)

    @rule(job=st.sampled_from(JOBS))
    def charge_while_another_job_starts(self, job: str) -> None:
        def start() -> None:
            with suppress(Refused):
                file_ledger(self.ledger.path, KEY).open()

        account, released = self.ledger.read().accounts.get(job), self.released[job]
        fits = account is not None and account.state == "Open" and account.charged < account.reserved
        wanted = fits and not self.is_behind()
        with after_the_commit(start):
            self.charge(job)
        assert self.released[job] == released + wanted

    @rule(job=st.sampled_from(JOBS))
    def charge_while_the_other_job_charges(self, job: str) -> None:
        (other,) = set(JOBS) - {job}
        with during_a_read(lambda: self.charge(other), "after it answered", number=2):  # after is_behind's
            self.charge(job)

    @rule()
    def start(self) -> None:
        try:
            head = file_ledger(self.ledger.path, KEY).open()
        except LedgerBehind:
            assert self.is_behind()
        else:
            assert head.count >= self.released.total()

    @rule(target=copies)
    def copy(self) -> Path:
        return self.copy_ledger()

    @rule(copy=copies)
    def restore(self, copy: Path) -> None:
        shutil.copy(copy, self.ledger.path)

    @rule(copy=copies, job=st.sampled_from(JOBS))
    def restore_while_charging(self, copy: Path, job: str) -> None:
        with restoring(self.ledger.path, copy):
            self.charge(job)

    @rule()
    def reconcile(self) -> None:
        logged = read_charges(log_path(self.ledger.path)).accounts
        before = self.ledger.read()
        after = self.ledger.take_over(logged)
        assert self.ledger.take_over(logged) == after
        assert not self.is_behind()
        for job, account in before.accounts.items():
            assert after.accounts[job].charged >= account.charged

    @invariant()
    def nothing_is_refunded(self) -> None:
        held = self.ledger.read().accounts
        logged = read_charges(log_path(self.ledger.path)).accounts
        for job, released in self.released.items():
            assert logged[job].charged >= released
            if not self.is_behind():
                assert held[job].charged >= released


TestRestoredLedgers = RestoredLedgers.TestCase
TestRestoredLedgers.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)

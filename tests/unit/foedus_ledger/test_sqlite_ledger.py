"""The SQLite backend: durable, one writer at a time, killed anywhere, and clear about a file it cannot trust."""

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from foedus_contract.errors import FoedusError, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_ledger import ledger
from foedus_ledger import sqlite as backend
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetSpec
from foedus_ledger.sqlite import LedgerDamaged, LedgerMissing, SqliteLedger

SPEC = BudgetSpec(digest="sha256:" + "0" * 64, records=170, epsilon=1.0, delta=1e-5, owner="Hospital A")
MECHANISM = Mechanism(noise_multiplier=17.2)

# A child does nothing but SQLite on a file of its own, so the deadlock that Python 3.12 warns of cannot happen.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@pytest.fixture
def book(tmp_path: Path) -> SqliteLedger:
    book = SqliteLedger(tmp_path / "volume" / "ledger.sqlite")
    book.create(SPEC)
    return book


def in_child(action) -> int:
    """Run `action` in a forked process and return its exit status (or minus the signal)."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_budget_is_created_once(book):
    book.reserve("job-a", MECHANISM, 21, "engine")
    with pytest.raises(Refused, match="exists here already and is never replaced") as caught:
        book.create(SPEC)
    assert caught.value.code is ExitCode.BUDGET_EXISTS
    assert book.read().accounts["job-a"].reserved == 21
    assert [path.name for path in book.path.parent.iterdir()] == ["ledger.sqlite"]


def test_the_file_is_for_its_owner_alone(book):
    assert stat.S_IMODE(book.path.stat().st_mode) == 0o600


def test_another_process_reads_what_was_committed(book):
    book.reserve("job-a", MECHANISM, 21, "engine")
    charged = book.charge("job-a", 0)
    assert charged.accounts["job-a"].charged == 1
    assert SqliteLedger(book.path).read() == charged
    assert book.close("job-a").accounts["job-a"].state == "Closed"
    assert book.close("job-a").version == 3  # closing again is no change


def test_commits_are_durable_before_they_are_reported(book):
    with closing(backend._connect(book.path)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 3  # EXTRA, above FULL
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"


def test_an_attempt_is_never_charged_twice(book):
    book.reserve("job-a", MECHANISM, 3, "engine")
    book.charge("job-a", 0)
    with pytest.raises(Refused, match="attempt 0 of job job-a") as caught:
        SqliteLedger(book.path).charge("job-a", 0)
    assert str(caught.value).startswith(str(book.path))


def test_charges_pass_on_the_noise_that_will_be_drawn(book):
    book.reserve("job-a", MECHANISM, 3, "engine")
    with pytest.raises(Refused, match=r"noise multiplier 17 is below 17\.2"):
        book.charge("job-a", 0, noise_multiplier=17.0)
    assert book.read().accounts["job-a"].charged == 0


def test_of_two_writers_with_the_same_version_one_loses(book):
    book.reserve("job-a", MECHANISM, 21, "engine")
    seen = book.read()
    first, second = ledger.charge(seen, "job-a", 0), ledger.charge(seen, "job-a", 1)
    assert book.swap(seen, first)
    assert not SqliteLedger(book.path).swap(seen, second)
    assert book.read() == first


def test_a_lost_race_is_decided_again(book, monkeypatch):
    book.reserve("job-a", MECHANISM, 21, "engine")
    decide, other = ledger.charge, SqliteLedger(book.path)

    def overtaken(record, job_uid, attempt, **noise):
        monkeypatch.setattr(ledger, "charge", decide)
        other.charge("job-a", 0)
        return decide(record, job_uid, attempt, **noise)

    monkeypatch.setattr(ledger, "charge", overtaken)
    assert book.charge("job-a", 1).accounts["job-a"].charged == 2


def test_a_writer_that_always_loses_says_so(book, monkeypatch):
    monkeypatch.setattr(SqliteLedger, "_swap", lambda *_: False)
    with pytest.raises(Unavailable, match="other writers keep changing the ledger"):
        book.reserve("job-a", MECHANISM, 21, "engine")


def test_processes_that_race_for_the_last_releases_get_no_more_than_there_are(book):
    def grab() -> None:
        for job in ("job-a", "job-b"):
            try:
                book.reserve(job, MECHANISM, 12, f"process {os.getpid()}")
            except Refused:
                continue

    child = os.fork()
    if child == 0:
        grab()
        os._exit(0)
    grab()
    assert os.waitpid(child, 0)[1] == 0
    assert len(book.read().accounts) == 1  # 24 releases at σ = 17.2 are above ε = 1, 12 are below


class Dying(sqlite3.Connection):
    """A connection whose process is killed just before or just after its n-th statement."""

    countdown = 0

    def execute(self, *arguments):
        Dying.countdown -= 1
        if Dying.countdown == 0:
            os._exit(99)
        result = super().execute(*arguments)
        if Dying.countdown == -1:
            os._exit(99)
        return result


@pytest.mark.parametrize("statement", range(1, 12))
def test_a_kill_between_statements_loses_no_charge_and_invents_none(book, statement, monkeypatch):
    before = book.reserve("job-a", MECHANISM, 21, "engine")

    def die() -> None:
        Dying.countdown = statement
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Dying))
        book.charge("job-a", 0)

    status = in_child(die)
    after = book.read()
    assert status in {0, 99}
    # Reported as charged means charged; killed means either, and the file is sound in both cases.
    charged = ledger.charge(before, "job-a", 0)
    assert after in ([charged] if status == 0 else [before, charged])
    assert book.charge("job-a", 1).version == after.version + 1


def test_a_missing_ledger_is_not_created(tmp_path):
    book = SqliteLedger(tmp_path / "ledger.sqlite")
    for call in (book.read, lambda: book.charge("job-a", 0), lambda: book.close("job-a")):
        with pytest.raises(LedgerMissing, match="no budget here; its holder runs `foedus budget create`"):
            call()
    assert not book.path.exists()


def test_a_locked_ledger_is_unavailable(book, monkeypatch):
    monkeypatch.setattr(backend, "LOCK_SECONDS", 0.01)
    book.reserve("job-a", MECHANISM, 21, "engine")
    with closing(sqlite3.connect(book.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="locked by another process; end that process, or try again") as caught:
            book.charge("job-a", 0)
        assert caught.value.code.retryable
    assert book.charge("job-a", 0).accounts["job-a"].charged == 1


def other_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text)")


def run_sql(statement: str):
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("DROP TRIGGER version_rises")
            connection.execute("DROP TRIGGER kept_for_ever")
            connection.execute(statement)

    return damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_bytes(b"not a database at all" * 100), "file is not a database"),
        (lambda path: path.write_bytes(b""), "it is a database, but no ledger"),
        (truncate, "in database main"),
        (other_database, "it is a database, but no ledger"),
        (run_sql("PRAGMA user_version = 2"), "its schema is version 2, this program reads 1"),
        (run_sql("DROP TABLE budget"), "no such table"),
        (run_sql("DELETE FROM budget"), "it holds no budget"),
        (run_sql("UPDATE budget SET version = 7"), "version and record disagree"),
        (run_sql("UPDATE budget SET record = '{}'"), "spec: Field required"),
        (run_sql("UPDATE budget SET record = 'x'"), "Invalid JSON"),
        (run_sql("UPDATE budget SET record = replace(record, '\"charged\":0', '\"charged\":9')"), "must not exceed"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_in_one_line(book, damage, why):
    book.reserve("job-a", MECHANISM, 5, "engine")
    damage(book.path)
    with pytest.raises(LedgerDamaged, match=why) as caught:
        book.charge("job-a", 0)
    line = str(caught.value)
    assert line.startswith(f"{book.path}: the ledger cannot be trusted: ")
    assert "\n" not in line
    assert caught.value.code is ExitCode.BUDGET_REFUSED


@pytest.mark.parametrize(
    "statement", ["DELETE FROM budget", "UPDATE budget SET record = '{}'", "UPDATE budget SET version = version - 1"]
)
def test_the_file_itself_refuses_to_go_back(book, statement):
    book.reserve("job-a", MECHANISM, 5, "engine")
    with closing(sqlite3.connect(book.path)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FoedusError, match="the ledger cannot be written") as caught:
        SqliteLedger(tmp_path / "file" / "ledger.sqlite").create(SPEC)
    assert caught.value.code is ExitCode.UNAVAILABLE


def test_a_path_with_odd_characters_is_opened_as_it_is(tmp_path):
    book = SqliteLedger(tmp_path / "a?mode=memory#é %20" / "ledger.sqlite")
    book.create(SPEC)
    assert book.read().spec == SPEC
    assert book.path.is_file()


def test_a_copied_ledger_is_still_one(book, tmp_path):
    shutil.copy(book.path, tmp_path / "copy.sqlite")
    assert SqliteLedger(tmp_path / "copy.sqlite").read() == book.read()

"""The ledger of one silo dataset in one SQLite file: the embedded engine's and the silo's own backend.

One row holds the record as JSON and its version. Every change reads the row, decides, and writes with
`UPDATE … WHERE version = <what was read>`; of two writers that read the same version one changes nothing and
decides again. `synchronous = EXTRA` makes a commit durable before it is reported: FULL would do for the file, but in
rollback-journal mode only EXTRA also syncs the folder, without which a power cut may bring the old journal, and with
it the money, back. The write-ahead log is not used: it needs shared memory, which network volumes lack.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from foedus_contract.durable import sync_folder
from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_ledger import ledger
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec

APPLICATION_ID = 0x666F6564  # "foed": marks the file as ours in SQLite's own header field
SCHEMA_VERSION = 1
LOCK_SECONDS = 10.0  # a change takes milliseconds; whoever holds the file longer is not one of ours
MAX_CONFLICTS = 32  # each lost race means that another writer got on

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE budget (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE TRIGGER version_rises BEFORE UPDATE ON budget WHEN new.version <> old.version + 1
BEGIN SELECT RAISE(ABORT, 'the version rises by one'); END;
CREATE TRIGGER kept_for_ever BEFORE DELETE ON budget
BEGIN SELECT RAISE(ABORT, 'a budget is kept for ever'); END;
"""


Check = Callable[[BudgetRecord, BudgetRecord], None]  # raises Refused unless the second may follow the first


class LedgerMissing(Refused):
    """There is no ledger at this place; only its holder creates one."""


class LedgerDamaged(Refused):
    """The file is not a ledger that can be trusted; nothing may be charged on it."""


class SqliteLedger:
    """A budget in the file `path`. Opens it for each call, so that processes and threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def where(self) -> str:
        """Return the file, for people."""
        return str(self.path)

    def create(self, spec: BudgetSpec) -> BudgetRecord:
        """Create the file with `spec`; raises Refused (BUDGET_EXISTS) when there is one."""
        record = BudgetRecord(spec=spec)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            created = self._place(record)
            sync_folder(self.path.parent)
        except (OSError, sqlite3.Error) as error:
            cure = "check the volume's space and permissions"
            raise Unavailable(f"the ledger cannot be written ({error})", where=str(self.path), cure=cure) from None
        if not created:
            raise Refused(
                "a budget exists here already and is never replaced",
                where=str(self.path),
                cure="show it with `foedus budget`",
                code=ExitCode.BUDGET_EXISTS,
            )
        return record

    def read(self) -> BudgetRecord:
        """Return the record as last committed; raises LedgerMissing or LedgerDamaged."""
        with self._open() as connection:
            return self._read(connection)

    def reserve(self, job_uid: str, mechanism: Mechanism, count: int, claimant: str) -> BudgetRecord:
        """Set aside `count` releases for a job; raises Refused when they do not fit."""
        return self._change(lambda record: ledger.reserve(record, job_uid, mechanism, count, claimant))

    def charge(self, job_uid: str, attempt: int, *, noise_multiplier: float | None = None) -> BudgetRecord:
        """Charge one release; returns only once that is durable. After any error the attempt counts as charged."""
        return self._change(lambda record: ledger.charge(record, job_uid, attempt, noise_multiplier=noise_multiplier))

    def close(self, job_uid: str) -> BudgetRecord:
        """Give back what a job reserved and did not charge; an absent or closed account is left as it is."""
        return self._change(lambda record: ledger.close(record, job_uid))

    def take_over(self, logged: Mapping[str, Account]) -> BudgetRecord:
        """Take over charges of the silo's log that are missing here, as spent; the same log again changes nothing."""
        return self._change(lambda record: ledger.import_charges(record, logged), ledger.check_import)

    def swap(self, old: BudgetRecord, new: BudgetRecord) -> bool:
        """Replace `old` by `new` if `old` is still what is stored; False when another writer was first."""
        with self._open() as connection:
            return self._swap(connection, old, new, ledger.check_transition)

    def _change(
        self, decide: Callable[[BudgetRecord], BudgetRecord], check: Check = ledger.check_transition
    ) -> BudgetRecord:
        for _ in range(MAX_CONFLICTS):
            with self._open() as connection:
                old = self._read(connection)
                new = self._decide(decide, old)
                if new is old or self._swap(connection, old, new, check):
                    return new
        raise Unavailable("other writers keep changing the ledger", where=str(self.path), cure="try again")

    def _decide(self, decide: Callable[[BudgetRecord], BudgetRecord], old: BudgetRecord) -> BudgetRecord:
        try:
            return decide(old)
        except FoedusError as error:
            raise type(error)(error.what, where=str(self.path), cure=error.cure, code=error.code) from None

    def _swap(self, connection: sqlite3.Connection, old: BudgetRecord, new: BudgetRecord, check: Check) -> bool:
        check(old, new)
        text = new.to_json().decode("utf-8")
        connection.execute("BEGIN IMMEDIATE")
        changed = connection.execute(
            "UPDATE budget SET version = ?, record = ? WHERE id = 1 AND version = ?",
            (new.version, text, old.version),
        ).rowcount
        connection.execute("COMMIT" if changed == 1 else "ROLLBACK")
        return changed == 1

    def _read(self, connection: sqlite3.Connection) -> BudgetRecord:
        row: Any = connection.execute("SELECT version, record FROM budget WHERE id = 1").fetchone()
        if row is None:
            raise self._damaged("it holds no budget")
        try:
            record = BudgetRecord.from_json(row[1])
        except InvalidInput as error:
            raise self._damaged(error.what) from None
        if record.version != row[0]:
            raise self._damaged("version and record disagree")
        return record

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection to a file that is certainly a ledger of ours; turns SQLite's errors into ours."""
        if not self.path.is_file():
            raise LedgerMissing(
                "there is no budget here", where=str(self.path), cure="its holder runs `foedus budget create`"
            )
        try:
            with closing(_connect(self.path)) as connection:
                self._check(connection)
                yield connection
        except sqlite3.OperationalError as error:
            raise self._unavailable(error) from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from None

    def _check(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise self._damaged("it is a database, but no ledger")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise self._damaged(f"its schema is version {version}, this program reads {SCHEMA_VERSION}")
        report = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if report != "ok":
            raise self._damaged(str(report))

    def _place(self, record: BudgetRecord) -> bool:
        """Write the file beside its place and link it there, so nobody sees half a ledger; False when one is there."""
        descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        os.close(descriptor)
        draft = Path(name)
        try:
            with closing(_connect(draft)) as connection:
                connection.executescript(_SCHEMA)
                connection.execute(
                    "INSERT INTO budget (id, version, record) VALUES (1, ?, ?)",
                    (record.version, record.to_json().decode("utf-8")),
                )
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _damaged(self, what: str) -> LedgerDamaged:
        return LedgerDamaged(
            f"the ledger cannot be trusted: {what}",
            where=str(self.path),
            cure="restore the newest copy of the file; nothing is charged on it before",
        )

    def _unavailable(self, error: sqlite3.OperationalError) -> FoedusError:
        code = error.sqlite_errorcode & 0xFF  # the low byte is the primary code
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            what, cure = "the ledger is locked by another process", "end that process, or try again"
        elif code in {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA}:
            return self._damaged(str(error))
        else:
            what, cure = f"the ledger does not answer ({error})", "check the volume's space and permissions"
        return Unavailable(what, where=str(self.path), cure=cure)


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw never creates a file; isolation_level None leaves BEGIN and COMMIT to us.
    connection = sqlite3.connect(
        path.absolute().as_uri() + "?mode=rw", uri=True, isolation_level=None, timeout=LOCK_SECONDS
    )
    try:
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA trusted_schema = OFF")
    except sqlite3.Error:
        connection.close()
        raise
    return connection

"""Durable storage in memory: what survives a process, and how much of a write a crash leaves.

Journals are the bytes of their files, written as `foedus_contract.durable` writes them and read by production's own
parser.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from foedus_contract.canonical import bytes_digest
from foedus_contract.errors import FoedusError, Unavailable
from foedus_contract.wire import StartAttempt
from foedus_ledger import ledger
from foedus_ledger.charges import Charges, check_not_behind
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec
from foedus_workloads.training import coordinator_journal, journal
from foedus_workloads.training.coordinator_entries import CoordinatorEntry, Recovered, cut_off, follow
from foedus_workloads.training.silo_entries import Entry, check_follows

NOISE_MULTIPLIER = 8.0


def whole_lines(content: bytes) -> tuple[bytes, ...]:
    """Return the lines that were finished; a last one without its line feed was never acted on."""
    whole, separator, _ = content.rpartition(b"\n")
    return tuple(whole.split(b"\n")) if separator else ()


@dataclass
class SiloDisk:
    """A silo's state folder."""

    lines: bytes = b""
    uploads: dict[int, bytes] = field(default_factory=dict)
    kept: tuple[StartAttempt, bytes] | None = None
    last: Entry | None = None

    def open(self) -> Entry | None:
        """Cut off half a line and return the last entry, as a new process does; raises InvalidInput on damage."""
        lines = whole_lines(self.lines)
        self.lines = b"".join(line + b"\n" for line in lines)
        entries = journal._read(Path("journal"), lines)
        self.last = entries[-1] if entries else None
        return self.last

    def append(self, entry: Entry) -> None:
        """Make an entry durable; raises Refused unless it may follow."""
        check_follows(self.last, entry)
        self.lines += entry.to_json() + b"\n"
        self.last = entry


@dataclass
class CoordinatorDisk:
    """The coordinator's volume."""

    lines: bytes = b""
    checkpoints: dict[str, bytes] = field(default_factory=dict)
    known: Recovered | None = None

    def open(self) -> Recovered | None:
        """Return where a new process goes on; raises InvalidInput on damage."""
        lines = whole_lines(self.lines)
        self.lines = b"".join(line + b"\n" for line in lines)
        self.known = coordinator_journal._read(Path("journal"), lines)
        return None if self.known is None else cut_off(self.known)

    def append(self, entry: CoordinatorEntry) -> None:
        """Make an entry durable; raises InvalidInput unless it may follow."""
        self.known = follow(self.known, entry)
        self.lines += entry.to_json() + b"\n"

    def save(self, content: bytes) -> str:
        """Make a checkpoint durable beside the others."""
        digest = bytes_digest(content)
        self.checkpoints[digest] = content
        return digest


class LedgerStore:
    """One silo's budget and its own log of charges, each durable or not; production judges one by the other."""

    def __init__(self, job_uid: str, attempts: int) -> None:
        spec = BudgetSpec(digest="sha256:" + "0" * 64, records=5, epsilon=50.0, delta=1e-5)
        account = Account(
            mechanism=Mechanism(noise_multiplier=NOISE_MULTIPLIER), reserved=attempts, claimant="simulation"
        )
        self.record = BudgetRecord(spec=spec, accounts={job_uid: account})
        self.log = Charges()
        self._job = job_uid

    @property
    def charged(self) -> int:
        """How many releases are charged."""
        return self.record.accounts[self._job].charged

    def charge(self, attempt: int) -> None:
        """Commit one charge; raises Refused."""
        new = ledger.charge(self.record, self._job, attempt, noise_multiplier=NOISE_MULTIPLIER)
        ledger.check_transition(self.record, new)
        self.record = new

    @property
    def logged(self) -> int:
        """How many releases the log holds."""
        return sum(account.charged for account in self.log.accounts.values())

    def follow(self) -> None:
        """Bring the log up to the ledger; raises LedgerBehind."""
        check_not_behind(self.record, self.log)
        self.log = Charges(self.record.accounts)


def out_of_reach(what: str) -> FoedusError:
    """Return the error of a store that does not answer."""
    return Unavailable(what, where="simulation")

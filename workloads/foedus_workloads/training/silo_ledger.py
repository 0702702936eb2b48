"""A silo's ledger together with its own log of charges: what is charged here is in both, in that order."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract.durable import append_durably, open_locked, sync_folder, take_lines, unwritable
from foedus_contract.errors import InvalidInput, Unavailable
from foedus_contract.wire import LedgerHead
from foedus_ledger.charges import (
    MAX_LOG_BYTES,
    Charges,
    LedgerBehind,
    add_line,
    check_not_behind,
    damaged,
    head_of,
    next_lines,
    parse_charges,
)
from foedus_ledger.records import NO_ATTEMPT, BudgetRecord
from foedus_workloads.training.held_ledgers import HeldLedger

# Another job's silo on the same budget holds the log while it checks and appends lines, never while it asks its ledger,
# which may take a minute. Most often that takes milliseconds; the rest is for a slow volume or a long log.
LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class _Read:
    """How much of which file has been read and checked, and what it says up to there."""

    inode: int
    size: int = 0
    lines: int = 0
    charges: Charges = field(default_factory=Charges)


class SiloLedger:
    """The ledger that a silo charges, and its log; `key` is its identity, which signs the log."""

    def __init__(self, ledger: HeldLedger, log: Path, key: Ed25519PrivateKey) -> None:
        self._ledger = ledger
        self._log = log
        self._key = key
        self._identity = key.public_key().public_bytes_raw()
        self._read_already = _Read(inode=0)

    def open(self) -> LedgerHead:
        """Compare ledger and log, bring the log up to the ledger, and return its head.

        Raises LedgerMissing before anything is written, LedgerBehind when the ledger is an old copy, LogDamaged or
        Refused for a log that is not this silo's.
        """
        record = self._ledger.read()
        return head_of(self._follow(), record.spec.digest, self._key.sign)

    def read(self) -> BudgetRecord:
        """Return the ledger's record as last committed."""
        return self._ledger.read()

    def charge(self, job_uid: str, attempt: int, *, noise_multiplier: float | None = None) -> None:
        """Charge one release; returns only once ledger and log hold it. After any error nothing may be released.

        1. Read what the log says before.
        2. Charge the ledger.
        3. Append to the log what it lacks of the ledger, unless another job's silo has just done so. The log must
           know this attempt now and not before: an old copy that was put in the ledger's place has no more charges
           than the log, which holds every release, or lacks this attempt.
        """
        with self._locked_log() as descriptor:
            before = self._read_log(descriptor)
        self._ledger.charge(job_uid, attempt, noise_multiplier=noise_multiplier)
        after = self._follow()
        if _last_attempt(before, job_uid) >= attempt or _last_attempt(after, job_uid) != attempt:
            raise self._behind(f"attempt {attempt} was charged where earlier charges are missing")

    def _follow(self) -> Charges:
        """Append the lines that the log lacks of the ledger; return what it says then.

        1. Read the log, under its lock.
        2. Read the ledger, without the lock: a service may take a minute to answer. It must hold what the log held
           before, for who charges elsewhere commits to the ledger before the log.
        3. Read the log again, under its lock, and append what it still lacks. Where it went on meanwhile, it may hold
           more than the ledger held in step 2; that makes no old copy.
        """
        with self._locked_log() as descriptor:
            before = self._read_log(descriptor)
        record = self._ledger.read()
        check_not_behind(record, before, self._ledger.where)
        with self._locked_log() as descriptor:
            charges = self._read_log(descriptor)
            try:
                lines = tuple(next_lines(charges, record, self._identity, self._key.sign))
            except InvalidInput:  # a line that would contradict one that was appended meanwhile
                raise self._behind("it was exchanged while it was read") from None
            try:
                for line in lines:
                    append_durably(descriptor, line.to_json() + b"\n")
            except OSError as error:
                raise unwritable(self._log, error) from error
            return functools.reduce(add_line, lines, charges)

    def _behind(self, what: str) -> LedgerBehind:
        return LedgerBehind(
            f"the ledger is an old copy: {what}",
            where=self._ledger.where,
            cure="take what it lacks over as spent with: foedus budget reconcile",
        )

    @contextmanager
    def _locked_log(self) -> Iterator[int]:
        busy = Unavailable(
            f"a silo of another job has not let go of the charge log for {LOCK_SECONDS:g} s",
            where=str(self._log),
            cure="see what holds it up, or whether its volume is slow; then try again",
        )
        with open_locked(self._log, busy=busy, wait_seconds=LOCK_SECONDS) as descriptor:
            yield descriptor

    def _read_log(self, descriptor: int) -> Charges:
        """Return what the log says. Only what was appended since it was last read is read and checked."""
        status, known = os.fstat(descriptor), self._read_already
        if status.st_size > MAX_LOG_BYTES:
            raise damaged("it is too large", str(self._log))
        if known.inode != status.st_ino or known.size > status.st_size:
            known = _Read(status.st_ino)
        try:
            lines = take_lines(descriptor, known.size)
            sync_folder(self._log.parent)
        except OSError as error:
            raise unwritable(self._log, error) from error
        charges = parse_charges(lines, self._log, identity=self._identity, after=known.charges, first=known.lines + 1)
        size = known.size + sum(len(line) + 1 for line in lines)
        self._read_already = _Read(status.st_ino, size, known.lines + len(lines), charges)
        return charges


def _last_attempt(charges: Charges, job_uid: str) -> int:
    account = charges.accounts.get(job_uid)
    return NO_ATTEMPT if account is None else account.last_attempt

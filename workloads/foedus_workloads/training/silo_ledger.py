"""A silo's ledger together with its own log of charges: what is charged here is in both, in that order."""

from __future__ import annotations

import functools
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract.errors import Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.wire import LedgerHead
from foedus_ledger.charge_log import read_charges
from foedus_ledger.charges import (
    ChargeLine,
    Charges,
    LedgerBehind,
    add_line,
    check_not_behind,
    head_of,
    next_lines,
)
from foedus_ledger.records import BudgetRecord
from foedus_workloads.training.durable import append_durably, open_lines, unwritable
from foedus_workloads.training.held_ledgers import HeldLedger

LOCK_SECONDS = 10.0  # another job's silo on the same budget holds the log for milliseconds


class SiloLedger:
    """The ledger that a silo charges, and its log; `key` is its identity, which signs the log."""

    def __init__(self, ledger: HeldLedger, log: Path, key: Ed25519PrivateKey) -> None:
        self._ledger = ledger
        self._log = log
        self._key = key
        self._identity = key.public_key().public_bytes_raw()

    def open(self) -> LedgerHead:
        """Compare ledger and log, bring the log up to the ledger, and return its head.

        Raises LedgerMissing before anything is written, LedgerBehind when the ledger is an old copy, LogDamaged or
        Refused for a log that is not this silo's.
        """
        record = self._ledger.read()
        charges, _ = self._follow()
        return head_of(charges, record.spec.digest, self._key.sign)

    def read(self) -> BudgetRecord:
        """Return the ledger's record as last committed."""
        return self._ledger.read()

    def charge(self, job_uid: str, attempt: int, *, noise_multiplier: float | None = None) -> None:
        """Charge one release; returns only once ledger and log hold it. After any error nothing may be released.

        1. Charge the ledger.
        2. Append to the log what it lacks of the ledger. That must include this charge: an old copy that was put in
           the ledger's place has no more charges than the log, which holds every release, or lacks this attempt.
        """
        self._ledger.charge(job_uid, attempt, noise_multiplier=noise_multiplier)
        _, lines = self._follow()
        if not any((line.job, line.account.last_attempt) == (job_uid, attempt) for line in lines):
            raise LedgerBehind(
                f"the ledger is an old copy: attempt {attempt} was charged where earlier charges are missing",
                where=self._ledger.where,
                cure="take them over as spent with: foedus budget reconcile",
            )

    def _follow(self) -> tuple[Charges, tuple[ChargeLine, ...]]:
        """Append the lines that the log lacks; return what it says then, and those lines."""
        with open_lines(self._log, owner="silo", wait_seconds=LOCK_SECONDS) as (descriptor, _):
            charges = self._read_own()
            # After the log: who charges elsewhere commits to the ledger before it takes the log.
            record = self._ledger.read()
            check_not_behind(record, charges, self._ledger.where)
            lines = tuple(next_lines(charges, record, self._identity, self._key.sign))
            try:
                for line in lines:
                    append_durably(descriptor, line.to_json() + b"\n")
            except OSError as error:
                raise unwritable(self._log, error) from error
            return functools.reduce(add_line, lines, charges), lines

    def _read_own(self) -> Charges:
        charges = read_charges(self._log)
        if charges.identity not in (b"", self._identity):
            raise Refused(
                "the charge log is signed with another key",
                where=str(self._log),
                cure="restore the identity key that it was signed with",
                code=ExitCode.IDENTITY_REFUSED,
            )
        return charges

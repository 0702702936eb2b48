"""A silo's ledger in a file, with its log beside it, and what somebody else could write in the log's place."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_ledger.charge_log import log_path
from foedus_ledger.charges import Charges, next_lines
from foedus_ledger.records import BudgetRecord
from foedus_ledger.sqlite import SqliteLedger
from foedus_workloads.training.silo_ledger import SiloLedger


def file_ledger(path: Path, key: Ed25519PrivateKey) -> SiloLedger:
    return SiloLedger(SqliteLedger(path), log_path(path), key)


def written_log(record: BudgetRecord, key: Ed25519PrivateKey) -> bytes:
    """Return the log of a ledger that holds this, as the holder of a key writes it."""
    lines = next_lines(Charges(), record, key.public_key().public_bytes_raw(), key.sign)
    return b"".join(line.to_json() + b"\n" for line in lines)

"""A silo's ledger in a file, with its log beside it."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_ledger.charge_log import log_path
from foedus_ledger.sqlite import SqliteLedger
from foedus_workloads.training.silo_ledger import SiloLedger


def file_ledger(path: Path, key: Ed25519PrivateKey) -> SiloLedger:
    return SiloLedger(SqliteLedger(path), log_path(path), key)

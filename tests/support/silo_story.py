"""A silo's first job, as far as its disk is concerned: `python -m support.silo_story FOLDER`.

In the file TOLD it notes each call that has returned: what others have been told, or may rely on.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from foedus_ledger.charge_log import log_path
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetSpec
from foedus_ledger.sqlite import SqliteLedger
from foedus_workloads.training.identity import load_identity
from foedus_workloads.training.journal import open_journal
from foedus_workloads.training.silo_entries import ORDER, Entry
from foedus_workloads.training.silo_ledger import SiloLedger

TOLD = "told"
JOB, ATTEMPTS = "job-a", 2
SPEC = BudgetSpec(digest="sha256:" + "a" * 64, records=5, epsilon=50.0, delta=1e-5)
MECHANISM = Mechanism(noise_multiplier=20.0)


def ledger_path(folder: Path) -> Path:
    return folder / "ledger.sqlite"


def entropy(size: int) -> bytes:
    return b"k" * size


def no_entropy(size: int) -> bytes:
    raise AssertionError("a key that others know is made anew")


def upload(attempt: int) -> bytes:
    return bytes([attempt + 1]) * 5000


def main(folder: Path) -> None:
    notes = os.open(folder / TOLD, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def told(what: str) -> None:
        os.write(notes, what.encode() + b"\n")

    key = load_identity(folder, entropy)
    told("key")
    ledger = SqliteLedger(ledger_path(folder))
    ledger.create(SPEC)
    told("create")
    ledger.reserve(JOB, MECHANISM, ATTEMPTS + 1, "default/job")
    told("reserve")
    silo = SiloLedger(ledger, log_path(ledger.path), key)
    silo.open()
    with open_journal(folder, JOB) as journal:
        for attempt in range(ATTEMPTS):
            for stage in ORDER:
                payload = upload(attempt) if stage == "Uploaded" else b""
                digest = f"sha256:{hashlib.sha256(payload).hexdigest()}" if payload else ""
                journal.write(Entry(round=attempt, attempt=attempt, stage=stage, digest=digest), payload)
                told(f"{stage} {attempt}")
                if stage == "Charging":
                    silo.charge(JOB, attempt, noise_multiplier=20.0)
                    told(f"charge {attempt}")
    ledger.close(JOB)
    told("close")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

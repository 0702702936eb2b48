"""A coordinator's first rounds, as far as its disk is concerned: `python -m support.coordinator_story FOLDER`.

In the file TOLD it notes each call that has returned: what silos have been told, or may rely on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from foedus_workloads.training.checkpoint import CheckpointStore
from foedus_workloads.training.coordinator_entries import Began, Closed, Opened, Standing
from foedus_workloads.training.coordinator_journal import open_coordinator_journal

TOLD, ROUNDS = "told", 3
DIGEST = "sha256:" + "a" * 64


def journal_path(folder: Path) -> Path:
    return folder / "journal.jsonl"


def checkpoints(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder, "checkpoint")


def adapter(rounds: int) -> bytes:
    return bytes([rounds]) * 9000


def main(folder: Path) -> None:
    notes = os.open(folder / TOLD, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def told(what: str) -> None:
        os.write(notes, what.encode() + b"\n")

    store = checkpoints(folder)
    with open_coordinator_journal(journal_path(folder)) as journal:
        journal.write(Began())
        told("began")
        for done in range(ROUNDS):
            journal.write(Opened(round=done, attempt=done, adapter_digest=DIGEST))
            told("opened")
            digest = store.save(adapter(done + 1))
            standing = Standing(rounds=done + 1, attempts=done + 1, charged=done + 1)
            journal.write(Closed(standing=standing, checkpoint=digest))
            told("closed")
            store.keep_only(digest)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

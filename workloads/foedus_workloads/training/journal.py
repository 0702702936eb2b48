"""A silo's journal of one job: no attempt is answered twice, before or after a restart.

Entries of an attempt, each on disk (fsync) before what it allows is done:

    Opened    -> the silo advertises its keys
    Charging  -> the ledger is charged, then noise is drawn
    Uploaded  -> the masked vector is sent (its bytes lie beside the journal while the attempt is the last one)
    Unmasked  -> the one unmasking answer is sent

Attempt numbers only rise. The secrets of an attempt live in memory, so after a restart an attempt that was open gets
no further answer. An attempt whose entries end at Charging was charged without a release. The file is JSON lines; a
last line without its line feed was never acted on and is cut off; any other damage stops the silo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foedus_contract.durable import append_durably, open_lines, unwritable, write_durably
from foedus_contract.errors import InvalidInput, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_workloads.training.silo_entries import Entry, check_follows


class Journal:
    """The open journal; `open_journal` gives one. Every method returns only once its entry is durable."""

    def __init__(self, path: Path, descriptor: int, entries: tuple[Entry, ...]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._last = entries[-1] if entries else None

    @property
    def last(self) -> Entry | None:
        """The last entry, None in a new journal."""
        return self._last

    def write(self, entry: Entry, payload: bytes = b"") -> None:
        """Note what is about to be done; for Uploaded, keep the masked bytes that are about to be sent.

        Raises Refused unless the entry follows the last one, Unavailable when the volume does not take it.
        """
        check_follows(self._last, entry)
        try:
            if entry.stage == "Uploaded":
                write_durably(self._upload_path(entry.attempt), payload)
            append_durably(self._descriptor, entry.to_json() + b"\n")
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._last = entry
        if entry.stage == "Opened":
            for old in self._path.parent.glob(f"{self._path.stem}-*.masked"):
                old.unlink(missing_ok=True)

    def _upload_path(self, attempt: int) -> Path:
        return self._path.with_name(f"{self._path.stem}-{attempt}.masked")


@contextmanager
def open_journal(folder: Path, job_uid: str) -> Iterator[Journal]:
    """Give the job's journal in `folder`, for this process alone while the block runs.

    Raises Unavailable while another process has it, InvalidInput when it is damaged.
    """
    path = folder / f"journal-{name_of(job_uid)}.jsonl"
    with open_lines(path, owner="silo") as (descriptor, lines):
        yield Journal(path, descriptor, _read(path, lines))


def name_of(job_uid: str) -> str:
    """Return what stands for a job in file names: a uid is not this program's to use as one."""
    return hashlib.sha256(job_uid.encode()).hexdigest()[:16]


def _read(path: Path, lines: tuple[bytes, ...]) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = Entry.from_json(line)
            check_follows(entries[-1] if entries else None, entry)
        except (InvalidInput, Refused) as error:
            raise InvalidInput(
                f"the journal is damaged ({error.what})",
                where=f"{path}:{number}",
                cure="this silo cannot take part in the job any more; the next job starts a new journal",
                code=ExitCode.INVALID_DATA,
            ) from None
        entries.append(entry)
    return tuple(entries)

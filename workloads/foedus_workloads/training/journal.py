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

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from foedus_contract import limits
from foedus_contract.errors import InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.models import ContractModel
from foedus_contract.wire import AttemptId, Unmask

Stage = Literal["Opened", "Charging", "Uploaded", "Unmasked"]
ORDER: tuple[Stage, ...] = ("Opened", "Charging", "Uploaded", "Unmasked")


class Entry(ContractModel):
    """One line: what is about to be done in an attempt; `digest` is the SHA-256 of what is about to be sent."""

    round: Annotated[int, Field(ge=0, lt=limits.MAX_ATTEMPTS)]
    attempt: Annotated[int, Field(ge=0, lt=limits.MAX_ATTEMPTS)]
    stage: Stage
    digest: str = ""


class Journal:
    """The open journal; `open_journal` gives one. Every method returns only once its entry is durable."""

    def __init__(self, path: Path, descriptor: int, entries: tuple[Entry, ...]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._last = entries[-1] if entries else None

    @property
    def last_attempt(self) -> int:
        """The highest attempt number that was ever opened, -1 when none was."""
        return -1 if self._last is None else self._last.attempt

    def opened(self, attempt: AttemptId) -> None:
        """Note that the attempt is about to be answered; raises Refused unless its number is a new highest."""
        self._append(Entry(round=attempt.round, attempt=attempt.attempt, stage="Opened"))
        for old in self._path.parent.glob(f"{self._path.stem}-*.masked"):
            old.unlink(missing_ok=True)

    def charging(self, attempt: AttemptId) -> None:
        """Note that the ledger is about to be charged for the attempt."""
        self._append(Entry(round=attempt.round, attempt=attempt.attempt, stage="Charging"))

    def uploaded(self, attempt: AttemptId, payload: bytes) -> None:
        """Keep the masked bytes that are about to be sent."""
        entry = Entry(round=attempt.round, attempt=attempt.attempt, stage="Uploaded", digest=_digest(payload))
        check_follows(self._last, entry)
        _write_durably(self._upload_path(attempt.attempt), payload)
        self._append(entry)

    def unmasked(self, attempt: AttemptId, message: Unmask) -> None:
        """Note the one unmasking answer that is about to be sent."""
        digest = _digest(message.to_json())
        self._append(Entry(round=attempt.round, attempt=attempt.attempt, stage="Unmasked", digest=digest))

    def _append(self, entry: Entry) -> None:
        check_follows(self._last, entry)
        line = entry.to_json() + b"\n"
        length = os.fstat(self._descriptor).st_size
        if os.write(self._descriptor, line) != len(line):
            os.ftruncate(self._descriptor, length)  # half a line would spoil the next one
            raise Unavailable("the journal cannot be written", where=str(self._path), cure="free space on the volume")
        os.fsync(self._descriptor)
        self._last = entry

    def _upload_path(self, attempt: int) -> Path:
        return self._path.with_name(f"{self._path.stem}-{attempt}.masked")


@contextmanager
def open_journal(folder: Path, job_uid: str) -> Iterator[Journal]:
    """Give the job's journal in `folder`, for this process alone while the block runs.

    Raises Unavailable while another process has it, InvalidInput when it is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The name is a hash: a uid is not this program's to use as a file name.
    path = folder / f"journal-{hashlib.sha256(job_uid.encode()).hexdigest()[:16]}.jsonl"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                "another process of this silo runs on the same state", where=str(folder), cure="wait until it has ended"
            ) from None
        sync_folder(folder)
        yield Journal(path, descriptor, _read(path, descriptor))
    finally:
        os.close(descriptor)


def check_follows(last: Entry | None, entry: Entry) -> None:
    """Raise Refused unless `entry` may follow `last`: a new, higher attempt, or the same attempt's next stage."""
    if entry.stage == "Opened":
        if last is not None and entry.attempt <= last.attempt:
            raise _answered_already(entry)
        return
    before = ORDER[ORDER.index(entry.stage) - 1]
    same = last is not None and (last.round, last.attempt) == (entry.round, entry.attempt)
    if last is None or not same or last.stage != before:
        raise _answered_already(entry)


def sync_folder(folder: Path) -> None:
    """Make names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, descriptor: int) -> tuple[Entry, ...]:
    whole, separator, _ = path.read_bytes().rpartition(b"\n")
    os.ftruncate(descriptor, len(whole) + len(separator))
    entries: list[Entry] = []
    for number, line in enumerate(whole.splitlines(), start=1):
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


def _write_durably(path: Path, payload: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _answered_already(entry: Entry) -> Refused:
    return Refused(
        f"attempt {entry.attempt} was answered before, or its steps come in another order",
        where="journal",
        code=ExitCode.SUPERSEDED,
    )


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()

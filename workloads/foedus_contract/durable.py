"""Files that outlive a power cut: locked append-only line files, and files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foedus_contract import limits
from foedus_contract.errors import InvalidInput, Unavailable
from foedus_contract.exit_codes import ExitCode

LOOK_SECONDS = 0.02  # between two tries for a lock that is held for milliseconds


@contextmanager
def open_lines(path: Path, *, owner: str) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    """Give the file's descriptor, for appending by this process alone, and its whole lines; as `open_locked`.

    Raises InvalidInput on a file that no job can have made so long.
    """
    with open_locked(path, busy=in_use(path, owner)) as descriptor:
        try:
            if os.fstat(descriptor).st_size > limits.MAX_JOURNAL_BYTES:
                raise InvalidInput("the journal is too large", where=str(path), code=ExitCode.INVALID_DATA)
            lines = take_lines(descriptor)
            sync_folder(path.parent)
        except OSError as error:
            raise unwritable(path, error) from error
        yield descriptor, lines


@contextmanager
def open_locked(path: Path, *, busy: Unavailable, wait_seconds: float = 0.0) -> Iterator[int]:
    """Give the file's descriptor, for reading and appending by this process alone; makes file and folder.

    Raises `busy` when another process has the file for longer than `wait_seconds`, Unavailable when the volume cannot
    be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        try:
            _lock(descriptor, wait_seconds)
        except BlockingIOError:
            raise busy from None
        yield descriptor
    finally:
        os.close(descriptor)


def take_lines(descriptor: int, start: int = 0) -> tuple[bytes, ...]:
    """Return the whole lines from byte `start` on; raises OSError.

    A last line without its line feed was never acted on and is cut off.
    """
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(start)
        content = file.read()
    whole, separator, _ = content.rpartition(b"\n")
    os.ftruncate(descriptor, start + len(whole) + len(separator))
    return tuple(whole.split(b"\n")) if separator else ()


def _lock(descriptor: int, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOOK_SECONDS)


def append_durably(descriptor: int, line: bytes) -> None:
    """Append one line, its line feed included, and sync it; raises OSError, and then the file ends as before."""
    length = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError("only part of a line was written")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, length)  # half a line would spoil the next one
        raise


def read_at_most(path: Path, most: int) -> bytes:
    """Return what the file holds, at most one byte more than `most`: so that a longer one is known; raises OSError."""
    with path.open("rb") as file:
        return file.read(most + 1)


def write_durably(path: Path, content: bytes) -> None:
    """Make `path` hold `content`, for this user alone; after a crash it holds that or what it held before.

    Raises OSError. Of one path there is one writer at a time.
    """
    draft = path.with_name(path.name + ".draft")
    try:
        _write_synced(draft, content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def create_durably(path: Path, content: bytes) -> bool:
    """Make `path` hold `content` unless there is such a file; say whether it was made now. Raises OSError.

    Of two processes one wins, and no crash leaves half a file.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        _write_synced(draft, content)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def _write_synced(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)  # what a crash left could have another mode
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def in_use(path: Path, owner: str) -> Unavailable:
    """Return the error of a file that another process of its owner has."""
    what = f"another process of this {owner} runs on the same state"
    return Unavailable(what, where=str(path.parent), cure="wait until it has ended")


def unwritable(path: Path, error: OSError) -> Unavailable:
    """Return the error of a volume that did not take what must be durable before anything else happens."""
    reason = error.strerror or str(error) or type(error).__name__
    return Unavailable(f"cannot be written ({reason})", where=str(path), cure="free space on the volume, or mend it")

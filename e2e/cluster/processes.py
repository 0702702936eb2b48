"""Processes that outlive the harness and that it finds again, after a crash of its own too.

A process is known by its number and its start time within one boot of the machine: a number alone could by then belong
to somebody else. The record is on the disk before the process becomes what it is to be:

1. the harness starts a shell that waits for a line;
2. it writes the record with the shell's number and start time;
3. it sends the line, and the shell turns into the daemon, which keeps number and start time.

When the harness dies before 3, the shell reads the end of the file and leaves. So nothing runs without a record.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.cluster.errors import HarnessError
from e2e.cluster.files import write_atomically

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Enters the cgroups whose files are named before `--`, then becomes the rest.
LAUNCH = (
    'read -r go || exit 0; while [ "$1" != -- ]; do echo $$ > "$1" || exit 1; shift; done; shift; exec "$@" </dev/null'
)


@dataclass(frozen=True)
class Identity:
    """One process of one boot of the machine."""

    pid: int
    started: int  # clock ticks since the boot: field 22 of /proc/PID/stat
    boot: str


@dataclass(frozen=True)
class Daemon:
    """A program that runs in the background: what is executed, and where its record and its log are.

    `cgroups` are the folders that the process enters before it becomes `argv`. `environment` is all it gets.
    """

    name: str
    argv: tuple[str, ...]
    record: Path
    log: Path
    environment: Mapping[str, str]
    cgroups: tuple[Path, ...] = ()

    @property
    def running(self) -> bool:
        """Whether the recorded process is there; a stopped one is, a zombie is not."""
        identity = read_record(self.record)
        return identity is not None and _same(identity)

    def start(self) -> None:
        """Start the program unless it runs."""
        if self.running:
            return
        self.record.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        ready, go = os.pipe()
        try:
            pid = os.posix_spawn(
                "/bin/sh", self._shell(), dict(self.environment), file_actions=self._files(ready), setsid=True
            )
            write_atomically(self.record, json.dumps(asdict(_identity(pid))))
            os.write(go, b"\n")
        finally:
            os.close(ready)
            os.close(go)

    def stop(self, patience: float = 10.0) -> None:
        """Ask the process to end, and kill it when it has not after `patience` seconds. Does nothing when none runs."""
        end(self.record, patience)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, for instance SIGKILL or SIGSTOP; an error when it does not run."""
        with _opened(self.record) as handle:
            if handle is None:
                raise HarnessError(f"{self.name} does not run")
            signal.pidfd_send_signal(handle, number)
            if number == signal.SIGKILL:
                _gone(handle, 10.0)

    def _shell(self) -> list[str]:
        entries = [str(folder / "cgroup.procs") for folder in self.cgroups]
        return ["/bin/sh", "-c", LAUNCH, self.name, *entries, "--", *self.argv]

    def _files(self, ready: int) -> list[tuple[int, ...] | tuple[int, int, str, int, int]]:
        """Return what the process has open: a pipe, its log, and nothing of whoever started the harness.

        A lock that somebody holds by an open file, as flock(1) does, would last as long as the daemon.
        """
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return [
            (os.POSIX_SPAWN_DUP2, ready, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_CLOSE, each) for each in _inherited()),
        ]


def _inherited() -> list[int]:
    """Return the files beyond standard error that this process would pass on."""
    found = []
    for each in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the folder's own is closed by now
            if each > 2 and os.get_inheritable(each):
                found.append(each)
    return found


def end(record: Path, patience: float = 10.0) -> None:
    """End the process of a record, by SIGTERM or at last by SIGKILL, and remove the record."""
    with _opened(record) as handle:
        if handle is not None:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            signal.pidfd_send_signal(handle, signal.SIGCONT)
            if not _gone(handle, patience):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                if not _gone(handle, 10.0):
                    raise HarnessError(f"{record.stem} does not end, not even by SIGKILL")
    record.unlink(missing_ok=True)


def read_record(record: Path) -> Identity | None:
    """Return what was recorded, or None when nothing was."""
    try:
        return Identity(**json.loads(record.read_text()))
    except FileNotFoundError:
        return None


@contextmanager
def _opened(record: Path) -> Iterator[int | None]:
    """Yield a handle on the recorded process, which no other process can take over, or None when it is gone."""
    identity = read_record(record)
    handle = None
    try:
        if identity is not None:
            with suppress(ProcessLookupError):
                handle = os.pidfd_open(identity.pid)
        # Judged after opening: from here on the handle means this very process.
        yield handle if identity is not None and _same(identity) else None
    finally:
        if handle is not None:
            os.close(handle)


def _same(identity: Identity) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(identity.pid, os.WNOHANG)  # our own dead child would stay a zombie otherwise
    found = _stat(identity.pid)
    return found is not None and found == (identity.started, True) and identity.boot == _boot()


def _identity(pid: int) -> Identity:
    found = _stat(pid)
    if found is None:
        raise HarnessError(f"process {pid} ended right after its start")
    return Identity(pid, found[0], _boot())


def _stat(pid: int) -> tuple[int, bool] | None:
    """Return start time and whether the process lives (a zombie does not), or None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses and may hold spaces; the third is the state.
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[19]), fields[0] not in "ZX"


def _gone(handle: int, seconds: float) -> bool:
    """Wait for the process's end, and say whether it came."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _boot() -> str:
    return BOOT_ID.read_text().strip()

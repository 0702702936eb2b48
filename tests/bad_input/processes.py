"""Real processes for cases.

What a process prints goes through pipes, which no limit on file sizes reaches. A process that does not end in time
fails its test.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from foedus import main
from foedus_contract import paths
from foedus_workloads import entry
from support.forked import forked

LIMIT_SECONDS = 600.0  # above every deadline of a case, on a loaded machine too; who takes longer hangs
Sabotage = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: a signal), what it wrote on standard output and error."""

    code: int
    out: str
    err: str


class Process:
    """A process that runs `target(*arguments)` with its output caught."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        pipes = [Pipe(duplex=False) for _ in range(2)]
        ends = [writer for _, writer in pipes]
        self._process = forked(_caught, *ends, target, arguments)
        self._process.start()
        for end in ends:
            end.close()
        self._texts: list[bytes] = [b"", b""]
        self._readers = [
            threading.Thread(target=self._read, args=(index, reader)) for index, (reader, _) in enumerate(pipes)
        ]
        for reader in self._readers:
            reader.start()

    @property
    def runs(self) -> bool:
        return self._process.exitcode is None

    def wait(self) -> Ended:
        """Return how it ended; an error when it does not."""
        self._process.join(LIMIT_SECONDS)
        hangs = self._process.exitcode is None
        self.end()
        out, err = (text.decode("utf-8", "replace") for text in self._texts)
        assert not hangs, f"it hangs: {out}{err}"
        return Ended(int(self._process.exitcode or 0), out, err)

    def end(self) -> None:
        """Kill it and what it started, if it still runs."""
        if self._process.exitcode is None and self._process.pid is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.join()
        for reader in self._readers:
            reader.join()

    def _read(self, index: int, reader: Connection) -> None:
        with reader:
            while piece := os.read(reader.fileno(), 65536):
                self._texts[index] += piece


def _caught(out: Connection, err: Connection, target: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.setsid()  # so that the test can end it together with what it starts
    for connection, number in ((out, 1), (err, 2)):
        os.dup2(connection.fileno(), number)
        connection.close()
    target(*arguments)


def foedus(arguments: list[str], sabotage: Sabotage | None = None) -> Process:
    """Start the command line."""
    return Process(_foedus, arguments, sabotage)


def pod(root: Path, spec: Path, sabotage: Sabotage | None = None) -> Process:
    """Start `foedus_workloads.entry` on a run spec, with `root` as the embedded engine would set it."""
    return Process(_pod, root, spec, sabotage)


def _foedus(arguments: list[str], sabotage: Sabotage | None) -> None:
    if sabotage is not None:
        sabotage()
    main.main(arguments)


def _pod(root: Path, spec: Path, sabotage: Sabotage | None) -> None:
    os.environ[paths.ROOT_VARIABLE] = str(root)
    os.environ[paths.ENDPOINTS_VARIABLE] = str(root / "endpoints.json")
    sys.argv = ["entry", "--spec", f"/{spec.relative_to(root)}"]
    if sabotage is not None:
        sabotage()
    entry.main()

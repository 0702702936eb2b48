"""What a process has from outside: where paths lead, entropy, clocks, its code. Tests give their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foedus_contract.code import code_digest
from foedus_contract.paths import locate, resolve_endpoint
from foedus_contract.run_spec import TlsFiles
from foedus_workloads.training.progress import ProgressWriter
from foedus_workloads.transport.tls import TlsPaths


def unwatched(_effect: object) -> None:
    """Let the effect happen."""


@dataclass(frozen=True)
class Surroundings:
    """`root` and `endpoints` are set by the embedded engine; `entropy` is the operating system's.

    `console` is a pod's standard output: the operator reads progress there, for it cannot see a pod's files. `watch` is
    shown each effect right before it is executed; no run spec and no environment can set it.
    """

    root: Path | None = None
    endpoints: Path | None = None
    console: int | None = None
    entropy: Callable[[int], bytes] = os.urandom
    wall_clock: Callable[[], float] = time.time  # for people: time stamps of progress
    clock: Callable[[], float] = time.monotonic  # for deadlines
    code_digest: Callable[[], str] = code_digest  # of what this process runs
    watch: Callable[[object], None] = unwatched

    def path(self, path: str) -> Path:
        """Return where a path of the run spec lies."""
        return locate(path, root=self.root)

    def progress(self, path: str) -> ProgressWriter:
        """Return the writer of a progress file."""
        return ProgressWriter(self.path(path), self.console)

    def tls(self, files: TlsFiles) -> TlsPaths:
        """Return where the role's TLS files lie."""
        return TlsPaths(self.path(files.certificate), self.path(files.key), self.path(files.ca))

    def address(self, service: str, port: int) -> tuple[str, int]:
        """Return where a Service is dialled; raises KeyError while the endpoints file does not know it."""
        return resolve_endpoint(service, port, self.endpoints)

"""kubectl with one kubeconfig, and waiting."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.errors import HarnessError

# Seconds. Nothing is measured by it: it only ends what would never end, on a machine that may be slow.
PATIENCE = 300


@dataclass(frozen=True)
class Kubectl:
    """Runs kubectl. Everything goes through the API server, as a user's requests do."""

    program: str
    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str | None = None, seconds: float = 120.0) -> str:
        """Return what kubectl printed; an error with its message when it failed."""
        done = self.attempt(*arguments, stdin=stdin, seconds=seconds)
        if done.returncode:
            raise HarnessError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def attempt(
        self, *arguments: str, stdin: str | None = None, seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Return kubectl's exit code and output, whatever they are."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(
            [self.program, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
            check=False,
        )

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return one object, or a list, as the API server has it."""
        found: dict[str, Any] = json.loads(self("get", *arguments, "-o", "json"))
        return found

    def apply(self, manifests: str) -> None:
        """Apply manifests server-side."""
        self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifests)

    def succeeds(self, *arguments: str) -> bool:
        """Whether kubectl exits with 0; one that hangs does not."""
        try:
            return self.attempt("--request-timeout=5s", *arguments, seconds=15).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def wait_for(what: str, holds: Callable[[], bool], seconds: float = PATIENCE, pause: float = 0.2) -> None:
    """Return when something holds; an error that names it when it does not within the given time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise HarnessError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)

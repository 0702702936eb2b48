"""Programs of the machine."""

from __future__ import annotations

import subprocess

from e2e.cluster.errors import HarnessError


def run(*command: str) -> str:
    """Return what a program of the machine printed; an error with its message when it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarnessError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def run_quietly(*command: str) -> None:
    """Run a program whose failure means that there was nothing to do."""
    subprocess.run(command, capture_output=True, check=False)

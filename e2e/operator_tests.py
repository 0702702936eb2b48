"""The operator's tests on real API servers: `python -m e2e.operator_tests [FILE…]`.

Each file of tests gets an API server of its own, which goes with it: kinds and policies that one installs hold for all
of an API server, so the tests of another would meet them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.assembly import start_cluster
from e2e.cluster.binaries import cache_folder
from e2e.cluster.cluster import down
from e2e.cluster.errors import HarnessError
from e2e.cluster.progress import Progress

PROJECT = Path(__file__).parents[1]
FOLDER = PROJECT / "build/e2e/api-server"
MARK = "pytest.mark.e2e"


def files() -> list[str]:
    """Return the files with tests that need an API server and no nodes."""
    found = (path for path in sorted((PROJECT / "tests").rglob("test_*.py")) if MARK in path.read_text("utf-8"))
    return [str(path.relative_to(PROJECT)) for path in found]


def run(file: str, progress: Progress) -> bool:
    """Run the tests of one file on an API server made for it; tell whether they passed."""
    progress.say(f"{file} …")
    since = time.monotonic()
    cluster = start_cluster(FOLDER, cache_folder(os.environ), progress, with_nodes=False)
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-m", "e2e", file]
        environment = {**os.environ, "KUBECONFIG": str(cluster.layout.kubeconfig)}
        passed = subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode == 0
    finally:
        down(cluster.layout, progress)
    progress.say(
        f"{file} {'passed' if passed else 'FAILED'} in {time.monotonic() - since:.0f} s, its API server included"
    )
    return passed


def main(chosen: Sequence[str]) -> int:
    """Run all files, or the chosen ones; 1 when one failed, or with one line when there is no API server."""
    progress = Progress()
    try:
        failed = [file for file in chosen or files() if not run(file, progress)]
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    progress.say(f"failed: {', '.join(failed)}" if failed else "all of the operator's tests passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

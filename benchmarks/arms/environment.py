"""Environments of the programs that are measured beside Foedus: made once of a hashed lock, kept for later runs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEPT = Path("build/bench-environments")


def make_environment(name: str, *, with_ours: bool = False) -> Path:
    """Return the interpreter of an environment with what `name`.lock lists; `with_ours` adds what runs here, behind it.

    The wheels come from pip's own index, and only those whose hashes the lock has.
    """
    lock = HERE / f"{name}.lock"
    folder = KEPT / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    python = (folder / "bin" / "python").absolute()
    done = folder / "done"
    if not done.exists():
        print(f"making an environment with {name}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--require-hashes",
            "--no-deps",
            "--only-binary",
            ":all:",
        ]
        subprocess.run([*command, "-r", str(lock)], check=True)
        if with_ours:
            site = next((folder / "lib").glob("python*/site-packages"))
            (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
        done.touch()
    return python


def run_program(python: Path, program: str, *arguments: str | Path, out: Path) -> dict[str, Any]:
    """Run one of these programs and return the JSON object that it writes to `out`, its last argument."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run([python, HERE / program, *arguments, out], check=True, env=environment, stdout=sys.stderr)
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found

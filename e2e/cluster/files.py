"""Files that are whole or not there, and that are touched only when they change."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file so that a reader, also after a crash, finds the old content or the new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    fresh.replace(path)


def write_changed(path: Path, text: str) -> None:
    """Write a file unless that is its content already: kube-proxy exits when its configuration is written again."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)

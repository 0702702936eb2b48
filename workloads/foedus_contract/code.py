"""Foedus' own code by digest: what a process runs, so that a job's processes can tell whether all run the same."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from foedus_contract.canonical import digest

# What the wheel `foedus` holds. The ring's kernels are a distribution of their own: they compute no release.
PACKAGES = ("foedus", "foedus_contract", "foedus_engine", "foedus_ledger", "foedus_operator", "foedus_workloads")
_BYTECODE = "__pycache__"


@functools.cache
def code_digest() -> str:
    """Return the digest of the code that is installed here: of its files' names and contents, in the order of names.

    A wheel's RECORD lists the same names and hashes, so whoever has the wheel knows the digest. The files themselves
    are read, and not the RECORD beside them: one that was changed afterwards shows. Bytecode is left out.
    """
    return digest("foedus/code", sorted(row for package in PACKAGES for row in _rows(package)))


def _rows(package: str) -> Iterator[list[str]]:
    """Yield name and hash of each file of a package, wherever it lies."""
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for path in Path(folder).rglob("*"):
            name = path.relative_to(folder)
            if path.is_file() and _BYTECODE not in name.parts:
                yield [f"{package}/{name.as_posix()}", f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"]

"""Mutants: builds with a check off, made from this tree as copies with a few lines replaced, and run apart.

A mutant is data. Its old text must stand exactly once in its file, so a check that moves takes its mutant along or
fails the build. Nothing in the shipped code knows of mutants.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("operator", "workloads", "sdk", "tests", "crds", "examples", "pyproject.toml")
ATTACK = "tests/attacks/test_attacks.py::test_the_coordinator_learns_no_silos_vector"
# The one plugin that the tests need: loading all that are installed takes longer than most of the tests.
PLUGINS = ("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider")
SECONDS = 300.0  # a test of the table takes seconds; a mutant that hangs is not caught
# How a test says that what it asserts does not hold. Any other error could be the patch's own fault.
FAILED = re.compile(r"^E +(AssertionError|assert |Failed: |hypothesis\.errors\.)", re.MULTILINE)


@dataclass(frozen=True)
class Patch:
    """Replace `old`, which stands exactly once in `file`, by `new`; `file` is below the tree's root."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A build with one check off: its patches, the test that must fail in it, and what that must print.

    `why` says which patches are needed together where one check stands behind another.
    """

    patches: tuple[Patch, ...]
    test: str
    shows: str = ""
    why: str = ""


def recovers(attack: str, *patches: Patch, why: str = "") -> Mutant:
    """A mutant under which `attack` recovers a silo's vector."""
    return Mutant(patches, f"{ATTACK}[{attack}]", "RECOVERED", why)


def fails(test: str, *patches: Patch, shows: str = "", why: str = "") -> Mutant:
    """A mutant that an ordinary test catches."""
    return Mutant(patches, f"tests/{test}", shows, why)


def patched(text: str, patch: Patch) -> str:
    """Return the text with the patch; raises ValueError unless its old text stands there exactly once."""
    if text.count(patch.old) != 1:
        raise ValueError(f"{patch.file}: {text.count(patch.old)} times, not once: {patch.old!r}")
    return text.replace(patch.old, patch.new)


def build(folder: Path, patches: Iterable[Patch] = ()) -> Path:
    """Copy the tree into `folder` and patch it there; compiled files come along, so nothing else is compiled anew."""
    for part in PARTS:
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, folder / part)
    for patch in patches:
        path = folder / patch.file
        text = patched(path.read_text("utf-8"), patch)
        path.unlink()
        path.write_text(text, "utf-8")
    return folder


def run(tree: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests with the packages of `tree` alone."""
    path = os.pathsep.join(str(tree / part) for part in ("operator", "workloads", "sdk", "tests"))
    command = [sys.executable, "-m", "pytest", "-x", *PLUGINS, "-m", "", "--tb=short", *tests]
    return subprocess.run(
        command,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def caught(done: subprocess.CompletedProcess[str], mutant: Mutant) -> bool:
    """Tell whether the named test failed with what it had to show, an assertion of its own unless told otherwise."""
    shown = mutant.shows in done.stdout if mutant.shows else FAILED.search(done.stdout) is not None
    return done.returncode == 1 and shown

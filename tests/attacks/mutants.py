"""Mutants: builds with a check off, made from this tree as copies with a few lines replaced, and run apart.

A mutant is data. Its old text must stand exactly once in its file, so a check that moves takes its mutant along or
fails the build. Nothing in the shipped code knows of mutants.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("operator", "workloads", "sdk", "tests", "crds", "examples", "pyproject.toml")
ATTACK = "tests/attacks/test_attacks.py::test_the_coordinator_learns_no_silos_vector"
# The one plugin that the tests need: loading all that are installed takes longer than most of the tests.
PLUGINS = ("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider")
# What the tests build on, imported once for all mutants: it takes longer than most of the tests. None of it is ours.
LIBRARIES = [
    "hypothesis",
    "opendp.measurements",
    "peft",
    "pydantic",
    "pytest",
    "cryptography.x509",
    "dp_accounting.pld",
    "dp_accounting.rdp",
    "scipy.stats",
    "transformers.models.bert.modeling_bert",
]
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


@dataclass(frozen=True)
class Done:
    """How a run of tests ended."""

    code: int
    output: str


def run(tree: Path, *tests: str, seconds: float = SECONDS) -> Done:
    """Run tests with the packages of `tree` alone, in a process forked from one that has imported LIBRARIES."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    output = tree / "output"
    process = context.Process(target=_run_here, args=(tree, output, tests))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
    return Done(process.exitcode or 0, output.read_text("utf-8", "replace"))


def _run_here(tree: Path, output: Path, tests: tuple[str, ...]) -> None:
    """Turn this process into one that knows only `tree`, and end it as pytest ends."""
    os.setsid()
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    paths = [str(tree / part) for part in ("operator", "workloads", "workloads/ring", "sdk", "tests")]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for name in [name for name, module in sys.modules.items() if any(map(_is_ours, _places(module)))]:
        del sys.modules[name]
    sys.path[:] = [*paths, *(path for path in sys.path if not _is_ours(path))]
    sys.exit(pytest.main(["-x", *PLUGINS, "-m", "", "--tb=short", *tests]))


def _places(module: ModuleType) -> list[str]:
    """Return a module's file; the folders of a package that has none."""
    file = getattr(module, "__file__", None)
    return [file] if file else list(getattr(module, "__path__", ()))


def _is_ours(path: str) -> bool:
    """Tell whether a file or folder is one of this tree's, not of the environment that may lie within it."""
    return any(Path(path).is_relative_to(ROOT / part) for part in PARTS)


def caught(done: Done, mutant: Mutant) -> bool:
    """Tell whether the named test failed with what it had to show, an assertion of its own unless told otherwise."""
    shown = mutant.shows in done.output if mutant.shows else FAILED.search(done.output) is not None
    return done.code == 1 and shown

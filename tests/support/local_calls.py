"""Calls of `infer_local` with real processes, what is done to them meanwhile, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from foedus.inference.answer import Inference
from foedus.inference.local import Request, infer_local
from foedus.inference.show import Show, Silent

TEXTS = ("the minister told parliament about the new tax law", "the film won an award")
PARTIES = {"Replicated3PC": 3, "Replicated3PCMalicious": 3, "CrypTen": 2}
NAMES = {
    "Replicated3PC": ("party 0", "party 1", "party 2"),
    "Replicated3PCMalicious": ("party 0", "party 1", "party 2"),
    "CrypTen": ("party 0", "party 1", "dealer"),
}


def processes(state: Path) -> list[int]:
    """Return the processes that run in folders below the state."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.joinpath("cwd").resolve().is_relative_to(state):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def process_of(state: Path, name: str) -> int:
    """Return the process of a member, by the name that people are told."""
    folder = name.replace(" ", "-")
    return next(pid for pid in processes(state) if Path(f"/proc/{pid}/cwd").resolve().name == folder)


def left(state: Path) -> list[str]:
    """Return what a call has left below the state, apart from the file that is locked there."""
    return [str(path) for path in state.rglob("*") if path not in {state / "infer", state / "infer/lock"}]


class Watched(Silent):
    """Shows nothing, and does something once: when a phase begins, or a text has come to some part of its rounds."""

    def __init__(self, when: str | float, act: Callable[[], object]) -> None:
        self._when, self._act = when, act

    def phase(self, text: str) -> None:
        if isinstance(self._when, str) and text.startswith(self._when):
            self._once()

    def rounds(self, text: int, texts: int, begun: int, total: int) -> None:
        if isinstance(self._when, float) and begun > self._when * total:
            self._once()

    def _once(self) -> None:
        act, self._act = self._act, lambda: None
        act()


def call(
    model: Path,
    state: Path,
    *,
    show: Show | None = None,
    texts: tuple[str, ...] = TEXTS,
    protocol: str = "Replicated3PC",
) -> Inference:
    return asyncio.run(infer_local(Request(texts, model, None, state, protocol), show or Silent(), os.environ))

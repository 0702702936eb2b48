"""What the parties of a local inference take of the machine: processor seconds and the most memory, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from foedus.inference.answer import Answer
from foedus.inference.show import Silent

TICKS = os.sysconf("SC_CLK_TCK")


def children() -> Iterator[int]:
    """Yield the processes that this one has started."""
    for task in Path("/proc/self/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def processor_seconds(process: int) -> float:
    """Return user and system time of a living process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_bytes(process: int) -> int:
    """Return the most memory that a living process has held."""
    rows = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM"))


@dataclass
class Meter(Silent):
    """Shows nothing; notes at each answer what parties and client have taken since the one before."""

    processor: list[float] = field(default_factory=list)  # seconds of all processes, by text
    peaks: list[int] = field(default_factory=list)  # bytes, by party
    answers: list[Answer] = field(default_factory=list)
    _last: float = 0.0

    def phase(self, text: str) -> None:
        """Begin to count where the first text begins."""
        if text == "connecting" and not self.answers:
            self._last = self._spent()

    def answer(self, number: int, answer: Answer) -> None:
        """Note an answer and what it took."""
        now = self._spent()
        self.processor.append(now - self._last)
        self.answers.append(answer)
        self._last = now
        self.peaks = sorted(map(peak_bytes, children()))

    @staticmethod
    def _spent() -> float:
        return time.process_time() + sum(map(processor_seconds, children()))

"""What a call takes of the machine: each text's time, and each member's time and most memory, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foedus.inference.answer import Answer
from foedus.inference.show import Show, Silent
from foedus_contract.errors import Unavailable

_PROC = Path("/proc")


@dataclass(frozen=True)
class Use:
    """What one process has taken since its start."""

    processor_seconds: float  # of user and system
    peak_bytes: int


@dataclass(frozen=True)
class Took:
    """What one text took: seconds of the client's clock by phase, and processor seconds of all processes together."""

    connecting: float
    computing: float
    processor: float


@dataclass
class Meter:
    """Measures a call that `shown` shows: each text's times, and after each what the members have taken so far."""

    shown: Show = field(default_factory=Silent)
    answers: list[Answer] = field(default_factory=list)
    took: list[Took] = field(default_factory=list)
    used: dict[int, Use] = field(default_factory=dict)  # by member
    _processes: Mapping[int, int] = field(default_factory=dict)
    _begun: float = 0.0  # of the phase
    _connecting: float = 0.0
    _spent: float = 0.0

    def phase(self, text: str) -> None:
        """Note when a text's phases begin."""
        self.shown.phase(text)
        now = time.perf_counter()
        self._connecting = now - self._begun
        self._begun = now

    def processes(self, numbers: Mapping[int, int]) -> None:
        """Begin to count: what the members took until they listened is of no text."""
        self.shown.processes(numbers)
        self._processes = dict(numbers)
        self._spent = self._all_spent()

    def rounds(self, text: int, texts: int, begun: int, total: int) -> None:
        """Pass it on."""
        self.shown.rounds(text, texts, begun, total)

    def answer(self, number: int, answer: Answer) -> None:
        """Note what the text took, and what the members have; an answer itself is no figure and is not shown."""
        computing, spent = time.perf_counter() - self._begun, self._all_spent()
        self.took.append(Took(self._connecting, computing, spent - self._spent))
        self.answers.append(answer)
        self.used = {member: read_use(process) for member, process in self._processes.items()}
        self._spent = spent

    def summary(self, inference: object) -> None:
        """Show nothing: what was measured is for who asked for it."""

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.shown.close()

    @property
    def processor(self) -> list[float]:
        """Processor seconds by text."""
        return [each.processor for each in self.took]

    @property
    def peaks(self) -> list[int]:
        """The most memory of each member, in bytes."""
        return [each.peak_bytes for each in self.used.values()]

    def _all_spent(self) -> float:
        members = (read_use(process).processor_seconds for process in self._processes.values())
        return time.process_time() + sum(members)


def require_proc() -> None:
    """Raise Unavailable where the system does not say what its processes take."""
    if not (_PROC / "self/stat").exists():
        raise Unavailable("this system has no /proc, which says what processes take", cure="measure on Linux")


def read_use(process: int) -> Use:
    """Return what a living process has taken."""
    fields = (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    rows = (_PROC / str(process) / "status").read_text().splitlines()
    peak = next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM"))
    return Use((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), peak)

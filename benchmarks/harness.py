"""What a benchmark is, and the machine it ran on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foedus.machine import describe_machine

Step = Callable[[], Any]
VERSIONS = (
    "foedus",
    "foedus-ring",
    "torch",
    "transformers",
    "peft",
    "numpy",
    "opendp",
    "dp-accounting",
    "cryptography",
)


@dataclass(frozen=True)
class Outcome:
    """What one benchmark found. `met` says whether everything it is to show holds, not only the value."""

    value: float
    met: bool
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One figure: how it is measured, in which unit, against which target, and what it shows.

    `measure` gets a fresh folder to work in. `bound` says on which side of the target the value must lie.
    """

    name: str
    shows: str
    unit: str
    target: float
    bound: Literal["at least", "at most"]
    measure: Callable[[Path], Outcome]


def run(benchmark: Benchmark, folder: Path) -> dict[str, Any]:
    """Measure, and return the one JSON object that a benchmark ends with."""
    before = os.getloadavg()
    outcome = benchmark.measure(folder)
    reached = outcome.value >= benchmark.target if benchmark.bound == "at least" else outcome.value <= benchmark.target
    return {
        "name": benchmark.name,
        "value": outcome.value,
        "unit": benchmark.unit,
        "target": benchmark.target,
        "pass": reached and outcome.met,
        "details": {"bound": benchmark.bound, **outcome.details},
        "machine": {**describe_machine(VERSIONS), "loadBefore": before, "loadAfter": os.getloadavg()},
    }


def alternate(steps: Mapping[str, Step], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each step; all take turns, so that a change of the machine's load meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 2):
        order = list(steps) if turn % 2 else list(steps)[::-1]
        for name in order:
            begin = time.perf_counter()
            steps[name]()
            if turn >= 2:  # the first turns warm up
                seconds[name].append(time.perf_counter() - begin)
    return seconds

"""What happened in a world, seen from outside: acts of processes, what became durable, what went over the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from foedus_contract.wire import Unmask


class Fact(NamedTuple):
    """One thing that happened: when, to or by whom (`silo-1#3` is its third process), what, in which attempt."""

    time: float
    who: str
    incarnation: int
    what: str
    round: int = -1
    attempt: int = -1
    data: Any = None

    def __str__(self) -> str:
        where = f" {self.round}/{self.attempt}" if self.attempt >= 0 else ""
        data = "" if self.data is None else f": {_short(self.data)}"
        return f"{self.time:10.3f} {self.who}#{self.incarnation}{where} {self.what}{data}"


def _short(data: Any) -> str:
    match data:
        case bytes():
            return f"{data[:8].hex()} ({len(data)} bytes)"
        case np.ndarray():
            return str(data.tolist())
        case Unmask():
            given = ", ".join(f"{name} {kind}" for kind, name in _given(data))
            return f"shares of {given}"
        case tuple():
            return ", ".join(_short(item) for item in data)
        case _:
            return str(data)


def _given(answer: Unmask) -> list[tuple[str, str]]:
    pairs = (("self-mask", answer.self_mask_shares), ("masking-key", answer.masking_key_shares))
    return [(kind, name) for kind, shares in pairs for name in sorted(shares)]


@dataclass
class History:
    """All facts in order, and what lies on the disks and in the ledgers at the end."""

    silos: tuple[str, ...]
    threshold: int
    rounds: int
    attempts: int
    faults_until: float
    late: float  # an end without success later than this has no excuse
    facts: list[Fact] = field(default_factory=list)
    charged: dict[str, int] = field(default_factory=dict)  # by silo, as its ledger says in the end
    ended: bool = False
    steps: int = 0
    seconds: float = 0.0

    def of(self, *kinds: str) -> list[Fact]:
        """Return the facts of these kinds, in order."""
        return [fact for fact in self.facts if fact.what in kinds]

"""Virtual time: a heap of what happens next, and processes that are generators and can die at each of their pauses."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass


@dataclass(frozen=True)
class Wait:
    """Pause until something wakes the process, at the latest until this time."""

    until: float = math.inf


Life = Generator[float | Wait, None, None]  # a number pauses for so many seconds, whatever arrives


class Crashed(Exception):
    """The process dies here, at the named point."""


class Timeline:
    """What happens, in the order of time; at the same time in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do `action` at `when`."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), action))

    def run(self, *, until: float, most_steps: int, done: Callable[[], bool]) -> bool:
        """Let time pass until `done`; False when nothing is left to happen or a bound is reached first."""
        while not done():
            if not self._heap or self._heap[0][0] > until or self.steps >= most_steps:
                return False
            self.now, _, action = heapq.heappop(self._heap)
            self.steps += 1
            action()
        return True


class Process:
    """Runs a generator in virtual time; `ended` hears how it ended: None, or what it raised."""

    def __init__(self, timeline: Timeline, life: Life, ended: Callable[[Exception | None], None]) -> None:
        self.alive = True
        self._timeline = timeline
        self._life = life
        self._ended = ended
        self._turn = 0  # a pause that was cut short leaves an entry behind, which then has an old number
        self._waits = False
        self._resume_at(timeline.now)

    def wake(self) -> None:
        """End a Wait now; anything else goes on."""
        if self._waits:
            self._waits = False
            self._resume_at(self._timeline.now)

    def kill(self) -> None:
        """End the process where it pauses; nobody hears of it."""
        self.alive = False
        self._life.close()

    def _resume_at(self, when: float) -> None:
        self._turn += 1
        turn = self._turn
        self._timeline.at(when, lambda: self._resume(turn))

    def _resume(self, turn: int) -> None:
        if turn != self._turn or not self.alive:
            return
        self._waits = False
        try:
            pause = next(self._life)
        except StopIteration:
            self.alive = False
            self._ended(None)
        except Exception as error:  # noqa: BLE001 - a defect of a machine is a finding, not the simulation's end
            self.alive = False
            self._ended(error)
        else:
            if isinstance(pause, Wait):
                self._waits = True
                if pause.until < math.inf:
                    self._resume_at(pause.until)
            else:
                self._resume_at(self._timeline.now + pause)

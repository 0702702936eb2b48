"""Which objects are to be reconciled when: each key once, one pass at a time a key, longer pauses after failures."""

from __future__ import annotations

import heapq

from foedus_engine.decide.plan import ObjectKey

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0  # whoever waits for a cluster that comes back should not wait longer


class WorkQueue:
    """Keys with the time at which each is due. Time is an argument; the queue neither sleeps nor reads a clock."""

    def __init__(self) -> None:
        self._due: dict[ObjectKey, float] = {}
        self._heap: list[tuple[float, ObjectKey]] = []  # what `_due` says, and entries that are out of date
        self._busy: set[ObjectKey] = set()
        self._failures: dict[ObjectKey, int] = {}

    def add(self, key: ObjectKey, at: float) -> None:
        """Ask for a pass at time `at`; of several wishes the earliest counts."""
        if key not in self._due or at < self._due[key]:
            self._set(key, at)

    def take(self, now: float) -> ObjectKey | None:
        """Hand out the key that has been due the longest, unless it is being worked on; None when nothing is due."""
        due = self.next_due()
        if due is None or due > now:
            return None
        _, key = heapq.heappop(self._heap)
        del self._due[key]
        self._busy.add(key)
        return key

    def next_due(self) -> float | None:
        """Return when the next key that is not being worked on is due."""
        while self._heap:
            at, key = self._heap[0]
            if self._due.get(key) == at and key not in self._busy:
                return at
            heapq.heappop(self._heap)  # out of date, or put back once the key is free
        return None

    def done(self, key: ObjectKey, now: float, *, again_seconds: float | None) -> None:
        """Return a key after a pass that succeeded, with the wish for another."""
        self._busy.discard(key)
        self._failures.pop(key, None)
        wishes = [self._due[key]] if key in self._due else []
        wishes += [] if again_seconds is None else [now + again_seconds]
        if wishes:
            self._set(key, min(wishes))

    def failed(self, key: ObjectKey, now: float, *, lost_race: bool = False) -> float:
        """Return a key after a pass that failed; it comes back after a pause that doubles each time.

        A lost race does not lengthen it: another writer got on, and nothing is out of order that would need time.
        """
        self._busy.discard(key)
        failures = self._failures.get(key, 0) + (0 if lost_race else 1)
        if failures:
            self._failures[key] = failures
        # Beyond 2^7 the cap holds; the bound keeps the power small.
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(max(failures - 1, 0), 7), LONGEST_PAUSE_SECONDS)
        # News that came during the pass does not shorten the pause: it would turn a failure into a busy loop.
        self._set(key, now + pause)
        return pause

    def _set(self, key: ObjectKey, at: float) -> None:
        self._due[key] = at
        heapq.heappush(self._heap, (at, key))

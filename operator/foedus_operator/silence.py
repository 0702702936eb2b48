"""Who did not answer, and is left alone for a while: nobody waits for the same one again and again."""

from __future__ import annotations

from collections.abc import Callable


class Silence:
    """Whom not to ask, each for `seconds` of the clock after it did not answer."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until: dict[str, float] = {}

    def covers(self, who: str) -> bool:
        """Say whether it is left alone now."""
        return self._clock() < self._until.get(who, 0.0)

    def begin(self, who: str) -> None:
        """Take note that it did not answer; those whose time is over are forgotten."""
        now = self._clock()
        self._until = {each: until for each, until in self._until.items() if until > now}
        self._until[who] = now + self._seconds

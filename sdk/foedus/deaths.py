"""Which of a job's processes died, from the records of their starts and ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foedus_engine.cluster.jobs import PodView

DEAD = frozenset({"Failed", "FailJob", "Ignored"})  # not those that the engine itself stopped or lost


@dataclass(frozen=True)
class Death:
    """The end of one process before its work was done."""

    role: str
    number: int
    exit_code: int | None
    again: bool

    @property
    def line(self) -> str:
        """Return what a person is told."""
        ended = "could not be started" if self.exit_code is None else f"ended with exit code {self.exit_code}"
        return f"{self.role}: its process {ended}; {'it was started again' if self.again else 'it stays away'}"


def deaths(role: str, pods: Sequence[PodView], *, over: bool) -> list[Death]:
    """Return the deaths of which it is known how they went on: a later process runs, or the Job is `over`."""
    return [
        Death(role, pod.number, pod.exit_code, again=index + 1 < len(pods))
        for index, pod in enumerate(pods)
        if pod.state in DEAD and (over or index + 1 < len(pods))
    ]

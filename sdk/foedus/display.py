"""How a run is shown: a live table on a terminal, plain lines elsewhere, JSON lines on request."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pydantic.alias_generators import to_camel
from rich.console import Console
from rich.live import Live
from rich.table import Table

from foedus import announce
from foedus.announce import Announcement
from foedus_contract.progress import IdentityReady, Preparing, ProcessFailed, RoundFinished, TrainingStarted

Event = IdentityReady | Preparing | TrainingStarted | RoundFinished | ProcessFailed
Write = Callable[[str], None]


@dataclass(frozen=True)
class Standing:
    """Where a run stands: the sum of all events so far."""

    rounds: int = 0
    done: int = 0
    attempts: int = 0
    stage: str = "starting"
    silos_in: int = 0
    silos_out: tuple[str, ...] = ()
    epsilon_spent: float = 0.0
    accuracy: float | None = None
    seconds: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Return the time that the rounds to come take at the average pace so far; None before the first."""
        return None if self.attempts == 0 else (self.rounds - self.done) * self.seconds / self.attempts


def advance(standing: Standing, event: Event) -> Standing:
    """Return the standing after `event`."""
    if isinstance(event, Preparing):
        count = f" {event.done}/{event.total}" if event.total else ""
        return replace(standing, stage=f"{event.what}{count}")
    if isinstance(event, TrainingStarted):
        return replace(standing, stage="training", silos_in=len(event.joined))
    if isinstance(event, RoundFinished):
        return replace(
            standing,
            stage="training",
            done=event.round + event.applied,
            attempts=standing.attempts + 1,
            silos_in=len(event.survivors),
            silos_out=event.dropped,
            epsilon_spent=event.epsilon_spent,
            accuracy=standing.accuracy if event.accuracy is None else event.accuracy,
            seconds=standing.seconds + event.seconds,
        )
    return standing


class Display(Protocol):
    """Shows one run from its announcement to its end."""

    def announce(self, said: Announcement) -> None:
        """Show what is about to happen."""
        ...

    def event(self, event: Event, standing: Standing) -> None:
        """Show what has just happened, and where the run stands after it."""
        ...

    def note(self, what: str, text: str, **values: Any) -> None:
        """Show one line about `what`, e.g. Result or Next; `values` are its parts for a machine."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def event_line(event: Event, standing: Standing) -> str:
    """Return the plain line for `event`."""
    if isinstance(event, RoundFinished):
        return round_line(event, standing)
    if isinstance(event, TrainingStarted):
        return f"training starts with {len(event.joined)} silos"
    if isinstance(event, IdentityReady):
        return f"{event.silo} has its identity key"
    if isinstance(event, ProcessFailed):
        return f"process failed ({event.code}): {event.message}"
    return standing.stage


def round_line(event: RoundFinished, standing: Standing) -> str:
    """Return the plain line for one finished attempt."""
    accuracy = "-" if event.accuracy is None else f"{event.accuracy:.3f}"
    named = (f"{silo} ({event.why[silo]})" if silo in event.why else silo for silo in event.dropped)
    gone = f" without {', '.join(named)}" if event.dropped else ""
    left = standing.seconds_left
    tail = f", about {left:.0f} s left" if left else ""
    head = f"round {event.round + 1}/{standing.rounds}: {len(event.survivors)} silos{gone}"
    if not event.applied:
        return f"{head}: attempt {event.attempt} released nothing: {event.reason or 'too few silos'}"
    return f"{head}, ε spent {event.epsilon_spent:.3f}, accuracy {accuracy}, {event.seconds:.1f} s{tail}"


class PlainDisplay:
    """One line an event."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._last = ""

    def announce(self, said: Announcement) -> None:
        """Write the announcement's lines."""
        for line in announce.lines(said):
            self._write(line)

    def event(self, event: Event, standing: Standing) -> None:
        """Write the event's line, unless it repeats the one before."""
        line = event_line(event, standing)
        if line != self._last:
            self._write(line)
        self._last = line

    def note(self, what: str, text: str, **values: Any) -> None:
        """Write the text."""
        self._write(text)

    def close(self) -> None:
        """Do nothing: lines need no end."""


class JsonDisplay:
    """One JSON object an event; the field `event` names it."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def _line(self, name: str, values: dict[str, Any]) -> None:
        self._write(json.dumps({"event": name, **values}, ensure_ascii=False))

    def announce(self, said: Announcement) -> None:
        """Write the announcement's numbers and warnings."""
        values = {to_camel(name): value for name, value in dataclasses.asdict(said).items()}
        self._line("Announcement", {**values, "warnings": announce.warnings(said)})

    def event(self, event: Event, standing: Standing) -> None:
        """Write the event as the process reported it."""
        self._write(event.model_dump_json(by_alias=True))

    def note(self, what: str, text: str, **values: Any) -> None:
        """Write the note's parts and its text."""
        self._line(what, {**values, "message": text})

    def close(self) -> None:
        """Do nothing: lines need no end."""


class LiveDisplay:
    """A table that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._started = False

    def announce(self, said: Announcement) -> None:
        """Write the announcement's lines above the table."""
        for line in announce.lines(said):
            self._console.print(line, markup=False, highlight=False)

    def event(self, event: Event, standing: Standing) -> None:
        """Redraw the table; a failure or a lost attempt also stays as a line above it."""
        if not self._started:
            self._live.start()
            self._started = True
        if isinstance(event, ProcessFailed) or (isinstance(event, RoundFinished) and not event.applied):
            self._console.print(event_line(event, standing), markup=False, highlight=False)
        self._live.update(standing_table(standing), refresh=True)

    def note(self, what: str, text: str, **values: Any) -> None:
        """Write the text below the table."""
        self.close()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop redrawing."""
        if self._started:
            self._live.stop()
            self._started = False


def standing_table(standing: Standing) -> Table:
    """Return the live table."""
    left = standing.seconds_left
    table = Table("round", "silos in", "silos out", "ε spent", "accuracy", "time left", "stage")
    table.add_row(
        f"{standing.done}/{standing.rounds}",
        str(standing.silos_in),
        ", ".join(standing.silos_out) or "-",
        f"{standing.epsilon_spent:.3f}",
        "-" if standing.accuracy is None else f"{standing.accuracy:.3f}",
        "-" if left is None else f"{left:.0f} s",
        standing.stage,
    )
    return table

"""How a private inference is shown: answers on standard output, progress beside them, JSON lines on request."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from pydantic.alias_generators import to_camel
from rich.console import Console
from rich.status import Status

from foedus.inference.answer import ISOLATION, KNOWN, Answer, Inference

Write = Callable[[str], None]
Clock = Callable[[], float]
LINE_SECONDS = 2.0  # between two lines about rounds where nothing can be redrawn


class Show(Protocol):
    """Shows one call."""

    def phase(self, text: str) -> None:
        """Show what has begun."""
        ...

    def processes(self, numbers: Mapping[int, int]) -> None:
        """Take note of the members' process numbers: all of them listen now."""
        ...

    def rounds(self, text: int, texts: int, begun: int, total: int) -> None:
        """Show how far the computation of a text is; texts count from 0."""
        ...

    def answer(self, number: int, answer: Answer) -> None:
        """Show an answer."""
        ...

    def summary(self, inference: Inference) -> None:
        """Show what the call took, and under which assumption it was private."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class Silent:
    """Shows nothing."""

    def phase(self, text: str) -> None:
        """Show nothing."""

    def processes(self, numbers: Mapping[int, int]) -> None:
        """Show nothing."""

    def rounds(self, text: int, texts: int, begun: int, total: int) -> None:
        """Show nothing."""

    def answer(self, number: int, answer: Answer) -> None:
        """Show nothing."""

    def summary(self, inference: Inference) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


class Beside(Console):
    """Progress on standard error: when nobody reads it any more, the call goes on without."""

    def on_broken_pipe(self) -> None:
        """Show nothing any more; rich would end the process, and leave the answers unwritten."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())  # the interpreter flushes it once more at its end
        os.close(nowhere)


class Lines:
    """Lines for people; where the terminal can do it, the progress is one line that is redrawn."""

    def __init__(self, write: Write, console: Console, clock: Clock) -> None:
        self._write, self._console, self._clock = write, console, clock
        self._status: Status | None = None
        self._next = 0.0

    def phase(self, text: str) -> None:
        """Show what has begun."""
        self._next = self._clock() + LINE_SECONDS
        self._say(text)

    def processes(self, numbers: Mapping[int, int]) -> None:
        """Show nothing."""

    def rounds(self, text: int, texts: int, begun: int, total: int) -> None:
        """Redraw the line, or write one now and then."""
        of = f"text {text + 1} of {texts}: " if texts > 1 else ""
        if self._console.is_interactive or self._clock() >= self._next:
            self._next = self._clock() + LINE_SECONDS
            self._say(f"{of}computing round {begun} of {total}")

    def answer(self, number: int, answer: Answer) -> None:
        """Write label and scores as a line."""
        self.close()
        ranked = sorted(answer.scores.items(), key=lambda item: -item[1])
        self._write(f"{answer.label}\t{', '.join(f'{label} {score:.3f}' for label, score in ranked)}")

    def summary(self, inference: Inference) -> None:
        """Write where time and bytes went, and the assumption."""
        self.close()
        for line in summary_lines(inference):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop redrawing."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _say(self, text: str) -> None:
        if not self._console.is_interactive:  # no terminal, or one that cannot redraw a line
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)


class JsonLines:
    """One JSON object an event; the field `event` names it."""

    def __init__(self, write: Write, clock: Clock) -> None:
        self._write, self._clock = write, clock
        self._next = 0.0

    def phase(self, text: str) -> None:
        """Write what has begun."""
        self._line("Phase", {"message": text})

    def processes(self, numbers: Mapping[int, int]) -> None:
        """Show nothing."""

    def rounds(self, text: int, texts: int, begun: int, total: int) -> None:
        """Write how far a text is, now and then."""
        if self._clock() >= self._next:
            self._next = self._clock() + LINE_SECONDS
            self._line("Computing", {"text": text, "round": begun, "rounds": total})

    def answer(self, number: int, answer: Answer) -> None:
        """Write the answer."""
        self._line("Answer", {"text": number, **asdict(answer)})

    def summary(self, inference: Inference) -> None:
        """Write the summary."""
        values = {name: value for name, value in asdict(inference).items() if name != "answers"}
        more = {"rounds": inference.rounds, "bytes_sent": inference.bytes_sent, "isolation": ISOLATION, "known": KNOWN}
        self._line("Summary", {**values, **more})

    def close(self) -> None:
        """Do nothing: lines need no end."""

    def _line(self, name: str, values: dict[str, Any]) -> None:
        fields = {to_camel(field): value for field, value in values.items()}
        self._write(json.dumps({"event": name, **fields}))  # ASCII: whatever the locale, it can be written


def summary_lines(inference: Inference) -> list[str]:
    """Return what a person reads at the end."""
    count = len(inference.answers)
    times = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in inference.seconds.items())
    return [
        f"time      {times}",
        f"cost      {inference.rounds} rounds and {megabytes(inference.bytes_sent)} sent by the member that sent most, "
        f"for {count} text{'s' if count > 1 else ''}",
        f"private   {inference.protocol} by {inference.parties} parties: {inference.assumption}",
        f"known     {KNOWN}",
        f"here      {ISOLATION}",
    ]


def megabytes(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e6:.1f} MB"

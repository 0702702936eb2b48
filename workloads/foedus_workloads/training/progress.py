"""Progress for the engine: one JSON line an event, appended to a file that only this process writes.

In a pod it goes to the container's log as well, and a coordinator shows the latest lines to the operator.
"""

from __future__ import annotations

import os
from pathlib import Path

from foedus_contract.durable import unwritable
from foedus_contract.models import ContractModel
from foedus_contract.progress import Kind, kind_of


class ProgressWriter:
    """Appends events to `path`; creates its folder. A line is written whole or, after a crash, cut off at the end.

    Raises Unavailable when the volume cannot be used.
    """

    def __init__(self, path: Path, console: int | None = None) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        self._path = path
        self._console = console
        self._latest: dict[Kind, bytes] = {}  # replaced whole: an event may come from a thread while it is read

    @property
    def latest(self) -> bytes:
        """The lines of the latest event of each kind that this process has written, oldest first."""
        return b"".join(self._latest.values())

    def write(self, event: ContractModel) -> None:
        """Append one event."""
        line, kind = event.to_json() + b"\n", kind_of(event)
        # Opened for each event and unbuffered: one write call, so that a reader hardly ever sees half a line.
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(line)
            if self._console is not None:
                # Unbuffered and in one call, too: what libraries print cannot come in between.
                os.write(self._console, line)
            self._latest = {**{other: told for other, told in self._latest.items() if other != kind}, kind: line}
        except OSError as error:
            raise unwritable(self._path, error) from error

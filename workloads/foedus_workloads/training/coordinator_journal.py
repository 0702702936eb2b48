"""The coordinator's journal: JSON lines on its output volume, each durable before what it allows is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from foedus_contract.durable import append_durably, open_lines, unwritable
from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.models import first_problem
from foedus_workloads.training.coordinator_entries import ENTRY, CoordinatorEntry, Recovered, cut_off, follow


class CoordinatorJournal:
    """The open journal; `open_coordinator_journal` gives one."""

    def __init__(self, path: Path, descriptor: int, known: Recovered | None) -> None:
        self._path = path
        self._descriptor = descriptor
        self._known = known

    @property
    def recovered(self) -> Recovered | None:
        """Where a new process goes on; None when no silo was ever sent a broadcast."""
        return None if self._known is None else cut_off(self._known)

    def write(self, entry: CoordinatorEntry) -> None:
        """Append the entry; raises InvalidInput unless it may follow, Unavailable when the volume does not take it."""
        known = follow(self._known, entry)
        try:
            append_durably(self._descriptor, entry.to_json() + b"\n")
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._known = known


@contextmanager
def open_coordinator_journal(path: Path) -> Iterator[CoordinatorJournal]:
    """Give the journal at `path`, for this process alone; raises Unavailable, InvalidInput when it is damaged."""
    with open_lines(path, owner="coordinator") as (descriptor, lines):
        yield CoordinatorJournal(path, descriptor, _read(path, lines))


def _read(path: Path, lines: tuple[bytes, ...]) -> Recovered | None:
    known: Recovered | None = None
    for number, line in enumerate(lines, start=1):
        try:
            known = follow(known, ENTRY.validate_json(line))
        except ValidationError as error:
            raise _damaged(path, number, first_problem(error)) from None
        except InvalidInput as error:
            raise _damaged(path, number, error.what) from None
    return known


def _damaged(path: Path, number: int, what: str) -> InvalidInput:
    return InvalidInput(
        f"the journal is damaged ({what})",
        where=f"{path}:{number}",
        cure="start a new job; what was charged stays charged",
        code=ExitCode.INVALID_DATA,
    )

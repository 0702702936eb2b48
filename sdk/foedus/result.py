"""The folder that a job's result is put into, whether the job ran here or on a cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from foedus.display import Display
from foedus.report.record import PAGE_FILE, RECORD_FILE
from foedus_contract.errors import InvalidInput, Unavailable


@contextmanager
def result_folder(folder: Path) -> Iterator[None]:
    """Make the folder before any privacy is spent; one that stays empty is removed again.

    The report of a run that left no adapter gives way to the next run that is admitted. Raises InvalidInput when the
    folder holds anything else, Unavailable when it cannot be written to.
    """
    cure = "choose another folder with --out"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if {entry.name for entry in folder.iterdir()} - {PAGE_FILE, RECORD_FILE}:
            raise InvalidInput("holds something already", where=str(folder), cure=cure)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable(f"the result folder cannot be used ({reason})", where=str(folder), cure=cure) from None
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def drop_old_report(folder: Path, display: Display) -> None:
    """Remove the report that an earlier run left without an adapter: beside a run that goes on it would mislead."""
    old = [folder / name for name in (PAGE_FILE, RECORD_FILE) if (folder / name).exists()]
    for path in old:
        with suppress(OSError):
            path.unlink()
    if old:
        display.note("OldReport", f"the report of an earlier run is removed from {folder}", folder=str(folder))


def say_result(status: Mapping[str, Any], out: Path, page: Path | None, display: Display) -> None:
    """Say what came out, where its report is, and what to try next."""
    result = status["result"]
    accuracy = result.get("accuracy")
    shown = "not measured" if accuracy is None else f"{accuracy:.4f}"
    display.note(
        "Result",
        f"{result['outcome']}: accuracy {shown} on public data, ε spent {status['epsilonSpent']:.4f} of "
        f"{status['epsilonLimit']:g}, {result['rounds']} rounds in {result['attempts']} attempts; in {out}",
        outcome=result["outcome"],
        accuracy=accuracy,
        epsilonSpent=status["epsilonSpent"],
        epsilonLimit=status["epsilonLimit"],
        rounds=result["rounds"],
        attempts=result["attempts"],
        out=str(out),
        report=None if page is None else str(page),
    )
    if page is not None:
        say_report(page, display)
    command = f"cat {out}/README.md"
    display.note("Next", f"next: {command}    (the model card; it says how to load the adapter)", command=command)


def say_report(page: Path, display: Display) -> None:
    """Say where the report is."""
    display.note("Report", f"report: {page}    (open it in a browser)", report=str(page))

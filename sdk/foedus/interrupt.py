"""How a command that cleans up ends: the first Ctrl-C or SIGTERM stops it, later ones do not stop its clean-up.

So does output that nobody takes any more: `| tee` dies of the same Ctrl-C, and its end must not cut the clean-up off.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import click

from foedus_contract.errors import Unavailable


class Output:
    """Standard output of what `run_until_terminated` does; a line that cannot be written stops it, later ones drop."""

    def __init__(self) -> None:
        self.problem: Unavailable | None = None

    def write(self, line: str) -> None:
        """Write a line."""
        try:
            click.echo(line)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # the interpreter flushes it once more at its end
            os.close(nowhere)
            cure = "keep its reader running, or write to a file with space"
            what = f"cannot be written ({error.strerror})"
            self.problem = self.problem or Unavailable(what, where="standard output", cure=cure)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                raise self.problem from None  # the work has not begun, and there is nothing to clean up
            signal.raise_signal(signal.SIGTERM)


def run_until_terminated(
    work: Coroutine[Any, Any, None], output: Output | None = None, stopping: Callable[[], None] = lambda: None
) -> None:
    """Do the work; raises click.Abort when a signal ended it, after its clean-up, or why `output` did.

    `stopping` is called when the signal comes: cleaning up may take seconds.
    """
    try:
        asyncio.run(_cancel_once(work, stopping))
    except asyncio.CancelledError:
        raise (output and output.problem) or click.Abort from None


async def _cancel_once(work: Coroutine[Any, Any, None], stopping: Callable[[], None]) -> None:
    """Cancel the work at the first signal and ignore the rest: accounts must not stay open half way."""
    task = asyncio.ensure_future(work)
    interrupted = asyncio.Event()

    def interrupt() -> None:
        if not interrupted.is_set():
            interrupted.set()
            task.cancel()
            stopping()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    await task

"""How a command that cleans up ends: the first Ctrl-C or SIGTERM stops it, later ones do not stop its clean-up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

import click


def run_until_terminated(work: Coroutine[Any, Any, None]) -> None:
    """Do the work; raises click.Abort when a signal ended it, after its clean-up."""
    try:
        asyncio.run(_cancel_once(work))
    except asyncio.CancelledError:
        raise click.Abort from None


async def _cancel_once(work: Coroutine[Any, Any, None]) -> None:
    """Cancel the work at the first signal and ignore the rest: accounts must not stay open half way."""
    task = asyncio.ensure_future(work)
    interrupted = asyncio.Event()

    def interrupt() -> None:
        if not interrupted.is_set():
            interrupted.set()
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    await task

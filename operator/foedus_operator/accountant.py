"""The accountants in one process beside this one: what they compute takes nothing from the lease and the watches.

The process is started afresh (`spawn`), has nothing but the functions it is asked for and their arguments, both of this
project, and ends with the process that started it, however that ends.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from foedus_contract.errors import Unavailable

T = TypeVar("T")

DEADLINE_SECONDS = 120.0  # a calibration takes seconds, on a loaded machine tens of them
TRIES = 2  # a process that died is replaced once for one question
NICENESS = 10  # who leads must renew the lease first

_WHERE = "the process that does the accounting"


class Accountant:
    """Runs one function at a time in a process of its own, which is started when it is first needed."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._turn = asyncio.Lock()

    async def __call__(self, function: Callable[..., T], /, *args: object) -> T:
        """Return what the function returns; raises Unavailable when no process lives long enough to say it."""
        async with self._turn:
            for _ in range(TRIES):
                try:
                    async with asyncio.timeout(DEADLINE_SECONDS):
                        return await asyncio.get_running_loop().run_in_executor(self._started(), function, *args)
                except BrokenProcessPool:
                    self.close()
                except TimeoutError:
                    self.close()
                    raise Unavailable(f"no answer after {DEADLINE_SECONDS:.0f} s", where=_WHERE) from None
        raise Unavailable("died", where=_WHERE, cure="see whether the pod has memory and processor time enough")

    def close(self) -> None:
        """End the process, whatever it does."""
        pool, self._pool = self._pool, None
        if pool is not None:
            for child in multiprocessing.active_children():  # this process has no others
                child.kill()
            pool.shutdown(wait=True, cancel_futures=True)  # at once: nothing of it lives

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare)
        return self._pool


def _prepare() -> None:
    """Be of use to nobody else: leave signals to the parent, step back, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(0)

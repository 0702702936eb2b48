"""Lines on standard error that say what is going on, each with the seconds since the start."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HEARTBEAT = 10.0  # seconds of silence after which a long step says that it still runs


class Progress:
    """Prints steps. Threads may share one."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """Print one line."""
        with self._lock:
            print(f"{time.monotonic() - self._begin:7.1f} s  {line}", file=sys.stderr, flush=True)

    @contextmanager
    def step(self, name: str, detail: Callable[[], str] = str) -> Iterator[None]:
        """Print the step when it is done, and every ten seconds before that with its detail."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(HEARTBEAT):
                self.say(f"{name} … {detail()}".rstrip())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        self.say(f"{name} {detail()}".rstrip())

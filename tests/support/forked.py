"""Real processes, forked from a server that has imported everything once, so that a start takes no second.

A test process has one such server, started by whichever test needs it first: it serves all.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess


def forked(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Return a process, not started yet, that calls `target(*arguments)`."""
    # What the server, and what a process of the command line starts, import from.
    os.environ["PYTHONPATH"] = ":".join(filter(None, sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.preloaded"])
    return context.Process(target=target, args=arguments)

"""What is done to a process from inside before it starts, where no input from outside brings the fault about.

Everything here runs in the forked process of a case alone; nothing of it can be reached in the product.
"""

from __future__ import annotations

import resource

from foedus import follow
from foedus_ledger import sqlite


def full_volume() -> None:
    """Let this process write no byte to any file, as on a full volume."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def impatient() -> None:
    """Wait for a locked ledger for less than a minute."""
    sqlite.LOCK_SECONDS = 0.2
    follow.LEDGER_SECONDS = 1.0

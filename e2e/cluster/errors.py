"""What the harness says when it cannot go on."""

from __future__ import annotations


class HarnessError(Exception):
    """One sentence for the person who started the cluster: what failed, where, and what may mend it."""


class UnsuitableMachine(HarnessError):
    """Here it cannot work whatever is tried: who asks is not root, a program or a part of the kernel is missing."""

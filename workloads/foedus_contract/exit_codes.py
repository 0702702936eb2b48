"""Exit codes of every Foedus process, with whether a new start may help.

`podFailurePolicy` and the embedded engine read `retryable`; the numbers are part of the contract and never change
their meaning.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The closed list of exit codes."""

    OK = 0
    INTERNAL = 1  # a defect or an unforeseen fault; worth one more try
    USAGE = 2  # the command line itself (click's own code)
    INVALID_SPEC = 10
    INVALID_DATA = 11
    INVALID_MODEL = 12
    UNPLANNABLE = 13  # no noise multiplier meets the privacy limit
    BUDGET_REFUSED = 20
    IDENTITY_REFUSED = 21
    SUPERSEDED = 22  # a newer incarnation of this process exists
    BUDGET_EXISTS = 23
    LEDGER_BEHIND = 24  # the ledger holds less than what was released; `foedus budget reconcile` first
    QUORUM_LOST = 30
    DEADLINE_EXCEEDED = 31
    UNAVAILABLE = 40
    ADDRESS_IN_USE = 41
    CANCELLED = 130  # interrupted by the user (128 + SIGINT)

    @property
    def retryable(self) -> bool:
        """True when the same process may succeed if it is started again."""
        return self in {ExitCode.INTERNAL, ExitCode.UNAVAILABLE, ExitCode.ADDRESS_IN_USE}


FINAL_EXIT_CODES: tuple[int, ...] = tuple(
    int(code) for code in ExitCode if not code.retryable and code not in {ExitCode.OK, ExitCode.CANCELLED}
)

"""How a session ends when something does not fit."""

from __future__ import annotations

from foedus_contract.errors import JobFailed

WHERE = "session"


def cheated(what: str) -> JobFailed:
    """Return the error of a check that failed: nothing of the result has left."""
    return JobFailed(what, where=WHERE, cure="find the party that deviates before you ask again")

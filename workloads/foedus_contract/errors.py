"""Errors that carry an exit code and read as one line: what is wrong, where, and the cure.

FoedusError
├── InvalidInput     the user's manifest, data, model or command; never retried
├── Refused          a rule says no (budget, identity, superseded); never retried
├── JobFailed        the job cannot end as asked (quorum, deadline); never retried
└── Unavailable      something is not there yet; trying again may help
"""

from __future__ import annotations

import traceback
from pathlib import Path

from foedus_contract.exit_codes import ExitCode


class FoedusError(Exception):
    """An error a person can act on; `str()` is one line that names place and cure.

    `where` is a field path, file or silo; `cure` says what to do about it.
    """

    default_code = ExitCode.INTERNAL

    def __init__(self, what: str, *, where: str = "", cure: str = "", code: ExitCode | None = None) -> None:
        self.what = what
        self.where = where
        self.cure = cure
        self.code = code if code is not None else self.default_code
        super().__init__(what, where, cure)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f"; {self.cure}" if self.cure else ""
        return " ".join(f"{place}{self.what}{cure}".split())


class InvalidInput(FoedusError):
    """What a user wrote or supplied is wrong; the same input fails again."""

    default_code = ExitCode.INVALID_SPEC


class Refused(FoedusError):
    """A rule refuses: budget, identity, incarnation."""

    default_code = ExitCode.BUDGET_REFUSED


class JobFailed(FoedusError):
    """The job ended without what was asked for."""

    default_code = ExitCode.QUORUM_LOST


class Unavailable(FoedusError):
    """Something is not reachable at the moment; a later try may succeed."""

    default_code = ExitCode.UNAVAILABLE


def describe_defect(error: BaseException) -> str:
    """Return a defect's type and place; never its text, which may hold data."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    own = [frame for frame in frames if "foedus_" in frame.filename]
    through = f", called from {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"internal error: {type(error).__name__}{place}{through}; please report it"

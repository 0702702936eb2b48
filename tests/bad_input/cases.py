"""What a case of bad input is, and in which words the table says how it ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foedus_contract.exit_codes import ExitCode

ANYTHING = "…"  # in an expected line: what differs from one run or machine to the next
NOTHING = "nothing"


@dataclass(frozen=True)
class Seen:
    """What came out: the one line, how it ended, what the ledgers hold; `said` is all that was written anywhere."""

    lines: tuple[str, ...]
    end: str
    charged: str
    said: str = field(repr=False)


@dataclass(frozen=True)
class Case:
    """One row of the table, and what makes it happen below an empty folder."""

    wrong: str
    line: str
    end: str
    charged: str
    act: Callable[[Path], Seen] = field(repr=False)

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the line must be, from its first letter to its last."""
        return re.compile(".*".join(map(re.escape, self.line.split(ANYTHING))))


@dataclass(frozen=True)
class Section:
    """Cases that happen at one place; `intro` says which, and what each is run with."""

    title: str
    intro: str
    cases: tuple[Case, ...]


def exits(code: int) -> str:
    """Return how the table names the end of a process."""
    known = ExitCode(code)
    return f"`{code}` {known.name}" + (", a new start may help" if known.retryable else "")


def charges(counts: Mapping[str, int]) -> str:
    """Return what the table says of the ledgers: attempts charged by silo; silos without a charge are left out."""
    charged = {silo: count for silo, count in sorted(counts.items()) if count}
    if not charged:
        return NOTHING
    if len(set(charged.values())) == 1 and len(charged) > 1:
        count = next(iter(charged.values()))
        return f"{_attempts(count)} at each of {', '.join(charged)}"
    return "; ".join(f"{_attempts(count)} at {silo}" for silo, count in charged.items())


def _attempts(count: int) -> str:
    return f"{count} attempt{'s' if count > 1 else ''}"

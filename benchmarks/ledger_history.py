"""What writers of ledgers did, and whether one ledger, changed step by step, explains it.

A ledger's version counts its transitions, so a history that compare-and-swap made has four properties, and each broken
one is named:

nothing double    no two writes made the same version, no attempt was charged twice
nothing lost      what was answered is in the ledger at the end, and no later answer is older than an earlier one
nothing refunded  no count ever fell, and nothing is charged on an account after its closing was answered
within the limit  at no time does more count against the budget than it allows

An answer that never came may stand for a write or for none. The limit is worked out here from the definition of
(ε, δ) for a Gaussian, not by the product's filters.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Operation = Literal["reserve", "charge", "close", "read"]
Outcome = Literal["", "done", "refused", "unknown"]  # "": the writer was killed before it could say
TOLERANCE = 1e-9  # of sums of floats


@dataclass(frozen=True)
class Entry:
    """One operation of one writer; times are the machine's monotonic clock, which all its processes share."""

    serial: int
    op: Operation
    budget: str
    job: str
    asked: float
    attempt: int = -1
    outcome: Outcome = ""
    answered: float = math.inf
    sent: bool = True  # a write may have been sent
    wrote: bool = False  # and one was answered
    version: int = -1
    charged: int = -1  # of the job, as the answer has it
    committed: float = 0.0  # Σ count/σ² over all accounts, as the answer has it


@dataclass(frozen=True)
class Final:
    """A ledger at the end: of each job what is charged, the last attempt, and whether its account is closed."""

    version: int
    committed: float
    accounts: Mapping[str, tuple[int, int, bool]]


def note(entry: Entry) -> bytes:
    """Return the entry as one line of a history file."""
    return json.dumps(asdict(entry)).encode() + b"\n"


def read_history(path: Path) -> tuple[Entry, ...]:
    """Return a writer's operations; each has a line when it is asked and, unless the writer died, one with the end."""
    entries: dict[int, Entry] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            entry = Entry(**json.loads(line))
        except ValueError:
            continue  # half a line: the writer died while it wrote; the operation stands as asked
        entries[entry.serial] = entry
    return tuple(entries.values())


def limit_of(epsilon: float, delta: float) -> float:
    """Return the largest μ² whose Gaussian mechanism is (ε, δ)-private (Balle and Wang 2018, theorem 8)."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def excess(mu: float) -> float:
        rest = math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)
        return float(norm.cdf(mu / 2 - epsilon / mu) - rest - delta)

    return float(brentq(excess, 1e-6, 50.0, xtol=1e-14)) ** 2


def violations(entries: Sequence[Entry], finals: Mapping[str, Final], limit: float) -> tuple[str, ...]:
    """Return everything in the history that no ledger within its limit explains."""
    by_budget: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_budget[entry.budget].append(entry)
    return tuple(
        f"{budget}: {problem}"
        for budget, its in sorted(by_budget.items())
        for problem in _of_budget(its, finals[budget], limit)
    )


def _of_budget(entries: Sequence[Entry], final: Final, limit: float) -> Iterator[str]:
    done = [entry for entry in entries if entry.outcome == "done"]
    yield from _doubles(done)
    yield from _order(done)
    yield from _limits(done, final, limit)
    yield from _versions(entries, done, final)
    jobs: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        jobs[entry.job].append(entry)
    for job, its in jobs.items():
        yield from _of_job(job, its, final)


def _doubles(done: Iterable[Entry]) -> Iterator[str]:
    made = Counter(entry.version for entry in done if entry.wrote)
    yield from (f"{times} writes made version {version}" for version, times in made.items() if times > 1)
    charges = Counter((entry.job, entry.attempt) for entry in done if entry.op == "charge")
    yield from (f"attempt {which} was charged {times} times" for which, times in charges.items() if times > 1)


def _order(done: Sequence[Entry]) -> Iterator[str]:
    """Compare each answer with all that came before it was asked."""
    ends = sorted(done, key=lambda entry: entry.answered)
    seen, place = -1, 0
    for entry in sorted(done, key=lambda each: each.asked):
        while place < len(ends) and ends[place].answered < entry.asked:
            seen, place = max(seen, ends[place].version), place + 1
        if entry.version < seen + entry.wrote:
            yield f"{entry.op} of {entry.job} answers version {entry.version} after {seen} was seen"


def _limits(done: Iterable[Entry], final: Final, limit: float) -> Iterator[str]:
    most = max((final.committed, *(entry.committed for entry in done)))
    if most > limit * (1 + TOLERANCE):
        yield f"{most:g} counts against a limit of {limit:g}"


def _versions(entries: Iterable[Entry], done: Iterable[Entry], final: Final) -> Iterator[str]:
    sure = sum(entry.wrote for entry in done)
    maybe = sum(entry.sent and not entry.wrote and entry.op != "read" for entry in entries)
    if not sure <= final.version <= sure + maybe:
        yield f"version {final.version} after {sure} answered writes and {maybe} that may have happened"


def _of_job(job: str, entries: Sequence[Entry], final: Final) -> Iterator[str]:
    charges = [entry for entry in entries if entry.op == "charge"]
    done = [entry for entry in charges if entry.outcome == "done"]
    maybe = sum(entry.outcome != "done" and entry.sent for entry in charges)
    charged, last, closed = final.accounts.get(job, (0, -1, False))
    if not len(done) <= charged <= len(done) + maybe:
        yield f"{job} has {charged} charges after {len(done)} answered ones and {maybe} that may have happened"
    if done and last < max(entry.attempt for entry in done):
        yield f"{job} forgot its attempt {max(entry.attempt for entry in done)}"
    if any(entry.charged > charged for entry in entries if entry.outcome == "done"):
        yield f"{job} has {charged} charges after more were seen"
    closings = [entry.answered for entry in entries if entry.op == "close" and entry.outcome == "done"]
    if closings and not closed:
        yield f"{job} is open after its closing was answered"
    if any(entry.asked > min(closings, default=math.inf) for entry in done):
        yield f"{job} was charged after its closing was answered"

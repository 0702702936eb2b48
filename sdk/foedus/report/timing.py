"""Where a run's time went: consecutive spans that add up to the whole, and the phases of its attempts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from foedus.report.record import RunRecord
from foedus_contract.progress import PhaseSeconds, RoundFinished

# In the order in which an attempt goes through them.
PHASES = (
    ("agree", "broadcast, keys and shares"),
    ("compute", "gradients and noise at the silos"),
    ("unmask", "taking the masks off"),
    ("apply", "step and accuracy"),
)
WHOLE = "attempts"  # when the phases of an attempt are not known


@dataclass(frozen=True)
class Span:
    """A part of the run: what was done, for how many seconds, and in which phase of the attempts, if in one."""

    what: str
    seconds: float
    phase: int | None = None


def has_phases(record: RunRecord) -> bool:
    """Return whether every attempt says where its seconds went."""
    return all(attempt.phases is not None for attempt in record.attempts)


def phases_of(attempt: RoundFinished) -> tuple[float, ...]:
    """Return the attempt's seconds in each of PHASES; all of them in the second when they are not known."""
    known = attempt.phases or PhaseSeconds(agree=0, compute=max(0.0, attempt.seconds), unmask=0, apply=0)
    return known.agree, known.compute, known.unmask, known.apply


def spans(record: RunRecord) -> tuple[Span, ...]:
    """Return the run's parts in their order; what no part accounts for is named too, so that they add up."""
    last = max((attempt.at for attempt in record.attempts), default=_trained_from(record))
    between = max(0.0, last - _trained_from(record) - sum(attempt.seconds for attempt in record.attempts))
    ended = Span("between attempts", between), Span("writing the adapter, leaving", max(0.0, record.ending.at - last))
    return *_preparation(record), *_in_attempts(record), *ended


def _preparation(record: RunRecord) -> tuple[Span, ...]:
    moments = [record.began_at]
    for step in record.preparation:
        moments.append(max(moments[-1], step.until))
    lengths = [later - earlier for earlier, later in pairwise(moments)]
    return tuple(Span(step.what, seconds) for step, seconds in zip(record.preparation, lengths, strict=True))


def _in_attempts(record: RunRecord) -> tuple[Span, ...]:
    sums = [sum(column) for column in zip(*map(phases_of, record.attempts), strict=True)]
    if not has_phases(record):
        return (Span(WHOLE, sum(sums), 1),)
    return tuple(
        Span(text, seconds, index) for index, ((_, text), seconds) in enumerate(zip(PHASES, sums, strict=False))
    )


def _trained_from(record: RunRecord) -> float:
    return max((step.until for step in record.preparation), default=record.began_at)

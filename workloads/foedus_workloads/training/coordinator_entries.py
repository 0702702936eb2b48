"""What a coordinator notes about its job, and how far the job is after it: pure.

    Began    -> silos may be sent broadcasts; this process made the adapter from the plan's seed
    Restored -> the same, after the state was taken from a broadcast that silos had kept
    Opened   -> the attempt's broadcast may be sent
    Closed   -> the attempt is over; a sum that was applied is in the checkpoint that it names

An attempt that was opened and not closed was cut off. It counts as charged, and its number is never used again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from foedus_contract import limits
from foedus_contract.errors import InvalidInput
from foedus_contract.models import ContractModel, Digest

Count = Annotated[int, Field(ge=0, le=limits.MAX_ATTEMPTS)]


class Standing(ContractModel):
    """How far a job is: rounds done, attempts used, attempts that may have been charged, accuracy after the last."""

    rounds: Count = 0
    attempts: Count = 0
    charged: Count = 0
    accuracy: float | None = None


class Began(ContractModel):
    """Training begins."""

    entry: Literal["Began"] = "Began"


class Restored(ContractModel):
    """Training goes on from a silo's broadcast; the checkpoint holds its adapter."""

    entry: Literal["Restored"] = "Restored"
    standing: Standing
    checkpoint: Digest


class Opened(ContractModel):
    """An attempt is about to be broadcast."""

    entry: Literal["Opened"] = "Opened"
    round: Count
    attempt: Count
    adapter_digest: Digest


class Closed(ContractModel):
    """An attempt is over; `checkpoint` is named when its sum was applied."""

    entry: Literal["Closed"] = "Closed"
    standing: Standing
    checkpoint: Digest | None = None


CoordinatorEntry = Began | Restored | Opened | Closed
ENTRY: TypeAdapter[CoordinatorEntry] = TypeAdapter(
    Annotated[Began | Restored | Opened | Closed, Field(discriminator="entry")]
)


@dataclass(frozen=True)
class Recovered:
    """What a journal says: the standing, the checkpoint to go on from (None: the seed), the attempt under way."""

    standing: Standing
    checkpoint: str | None = None
    opened: bool = False


def follow(before: Recovered | None, entry: CoordinatorEntry) -> Recovered:
    """Return what the journal says with one entry more; raises InvalidInput unless it may follow."""
    match entry:
        case Began() if before is None:
            return Recovered(Standing())
        case Restored() if before is None:
            return Recovered(entry.standing, entry.checkpoint)
        case Opened() if before is not None and _opens(cut_off(before).standing, entry):
            return Recovered(cut_off(before).standing, before.checkpoint, opened=True)
        case Closed() if before is not None and before.opened and _closes(before.standing, entry):
            return Recovered(entry.standing, entry.checkpoint or before.checkpoint)
        case _:
            raise InvalidInput(f"{entry.entry} comes out of order", where="journal")


def cut_off(recovered: Recovered) -> Recovered:
    """Return the standing of a new process: an attempt that was under way is over and counts as charged."""
    if not recovered.opened:
        return recovered
    done = recovered.standing
    standing = done.model_copy(update={"attempts": done.attempts + 1, "charged": done.charged + 1})
    return Recovered(standing, recovered.checkpoint)


def recover(entries: Iterable[CoordinatorEntry]) -> Recovered | None:
    """Return where a new process goes on, None when there is nothing to go on from; raises InvalidInput."""
    recovered: Recovered | None = None
    for entry in entries:
        recovered = follow(recovered, entry)
    return None if recovered is None else cut_off(recovered)


def _opens(standing: Standing, entry: Opened) -> bool:
    return (entry.round, entry.attempt) == (standing.rounds, standing.attempts)


def _closes(before: Standing, entry: Closed) -> bool:
    after, applied = entry.standing, entry.checkpoint is not None
    return (
        after.rounds == before.rounds + applied
        and after.attempts == before.attempts + 1
        and after.charged - before.charged in {int(applied), 1}
    )

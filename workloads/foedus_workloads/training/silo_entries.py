"""What a silo notes about an attempt, and in which order: pure, so that journal and job machine judge alike."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foedus_contract import limits
from foedus_contract.errors import Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.models import ContractModel

Stage = Literal["Opened", "Charging", "Uploaded", "Unmasked"]
ORDER: tuple[Stage, ...] = ("Opened", "Charging", "Uploaded", "Unmasked")


class Entry(ContractModel):
    """One line: what is about to be done in an attempt; `digest` is the SHA-256 of what is about to be sent."""

    round: Annotated[int, Field(ge=0, lt=limits.MAX_ATTEMPTS)]
    attempt: Annotated[int, Field(ge=0, lt=limits.MAX_ATTEMPTS)]
    stage: Stage
    digest: str = ""


def check_follows(last: Entry | None, entry: Entry) -> None:
    """Raise Refused unless `entry` may follow `last`: a new, higher attempt, or the same attempt's next stage."""
    if entry.stage == "Opened":
        if last is not None and entry.attempt <= last.attempt:
            raise _answered_already(entry)
        return
    before = ORDER[ORDER.index(entry.stage) - 1]
    same = last is not None and (last.round, last.attempt) == (entry.round, entry.attempt)
    if last is None or not same or last.stage != before:
        raise _answered_already(entry)


def _answered_already(entry: Entry) -> Refused:
    return Refused(
        f"attempt {entry.attempt} was answered before, or its steps come in another order",
        where="journal",
        code=ExitCode.SUPERSEDED,
    )

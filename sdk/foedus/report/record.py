"""What a report is made of: one JSON file in the result folder that holds all of it, so that it can be made again.

Everything here may be passed on: the plan without digests of data, sums' counts, accuracy on public data, charges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from foedus_contract import limits
from foedus_contract.durable import write_durably
from foedus_contract.errors import InvalidInput, Unavailable
from foedus_contract.models import ContractModel, Digest, SiloName
from foedus_contract.plan import PublicPlan
from foedus_contract.progress import RoundFinished

RECORD_FILE, PAGE_FILE = "report.json", "report.html"
MAX_RECORD_BYTES = 64 * 1024 * 1024  # 10,000 attempts that name 50 silos each are below 40 MiB
CURE = "name the result folder of a run with --out, or leave it as the run wrote it"

Moment = Annotated[float, Field(ge=0, lt=1e11)]  # seconds since 1970; above it no calendar has a date
Text = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Ending(ContractModel):
    """How the run ended, and why it did not end as asked."""

    outcome: Literal["Complete", "EndedEarly", "Failed", "Interrupted"]
    message: Text = ""
    at: Moment
    adapter_digest: Annotated[str, Field(max_length=71)] = ""


class SiloAccount(ContractModel):
    """How many releases a silo's ledger holds for this job."""

    silo: SiloName
    reserved: Count
    charged: Count


class PreparationStep(ContractModel):
    """A step before the first round, and when the last process had done it."""

    what: Annotated[str, Field(max_length=64)]
    until: Moment


class RunRecord(ContractModel):
    """One run from its plan to its end; `attempts` are in their order, a failed one among them.

    `plan_digest` is the whole plan's, as ledgers and signatures name it, `code_digest` that of the processes' code.
    `epsilon_spent` is exact, by privacy loss distributions; `epsilon_spent_rdp` is None when no ledger could be read.
    """

    version: Literal["v1"] = "v1"
    foedus: Annotated[str, Field(max_length=64)]
    plan: PublicPlan
    plan_digest: Digest
    code_digest: Digest | None = None
    base_model: Text
    began_at: Moment
    preparation: Annotated[tuple[PreparationStep, ...], Field(max_length=8)]
    trainable_parameters: Count
    kappa: Annotated[float, Field(ge=0)]
    attempts: Annotated[tuple[RoundFinished, ...], Field(max_length=limits.MAX_ATTEMPTS)]
    accounts: Annotated[tuple[SiloAccount, ...], Field(max_length=limits.MAX_SILOS)]
    epsilon_spent: Annotated[float, Field(ge=0)]
    epsilon_spent_rdp: Annotated[float, Field(ge=0)] | None
    ending: Ending
    notes: Annotated[tuple[Text, ...], Field(max_length=8)]

    @property
    def released(self) -> tuple[RoundFinished, ...]:
        """The attempts whose sum was released and used: one for each finished round."""
        return tuple(attempt for attempt in self.attempts if attempt.applied)

    @property
    def accuracy(self) -> float | None:
        """The accuracy after the last finished round; None when it was never measured."""
        measured = [attempt.accuracy for attempt in self.released if attempt.accuracy is not None]
        return measured[-1] if measured else None


def read_record(folder: Path) -> RunRecord:
    """Return the record in a result folder; raises InvalidInput when there is none or it is not one."""
    path = folder / RECORD_FILE
    try:
        with path.open("rb") as file:
            text = file.read(MAX_RECORD_BYTES + 1)
    except OSError as error:
        what = f"the run's record cannot be read ({error.strerror or type(error).__name__})"
        raise InvalidInput(what, where=str(path), cure=CURE) from None
    if len(text) > MAX_RECORD_BYTES:
        raise InvalidInput(f"larger than {MAX_RECORD_BYTES:,} bytes", where=str(path), cure=CURE)
    try:
        return RunRecord.from_json(text)
    except InvalidInput as error:
        raise InvalidInput(
            f"no record of a run that this version can read ({error.what})", where=str(path), cure=CURE
        ) from None


def write_text(path: Path, text: bytes) -> None:
    """Replace the file in one rename, for this user alone; raises Unavailable when it cannot be written."""
    try:
        write_durably(path, text)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        cure = "make room or give this user the right to write there"
        raise Unavailable(f"the report cannot be written ({reason})", where=str(path), cure=cure) from None

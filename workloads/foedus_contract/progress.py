"""What a running process tells the engine: JSON lines in a progress file, and one result of at most 4 KiB.

Everything here is public: sums under differential privacy, counts, accuracy on public data.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from foedus_contract.models import ContractModel, Digest, SiloName
from foedus_contract.wire import LedgerHead

CACHING = "caching activations"  # a silo's last step before it joins; the last event of it has done = total


class IdentityReady(ContractModel):
    """A silo has its long-lived key; the public half (Ed25519, 32 bytes) is to be pinned by its peers."""

    event: Literal["IdentityReady"] = "IdentityReady"
    silo: SiloName
    public_key: bytes


class Preparing(ContractModel):
    """A stage before the first round: loading the model, caching activations, waiting for silos."""

    event: Literal["Preparing"] = "Preparing"
    at: float | None = None
    what: str
    done: int = 0
    total: int = 0


class TrainingStarted(ContractModel):
    """The silos have joined; what is trained and how much noise it bears."""

    event: Literal["TrainingStarted"] = "TrainingStarted"
    at: float
    joined: tuple[SiloName, ...]
    trainable_parameters: int
    kappa: float
    heads: dict[SiloName, LedgerHead] = Field(default_factory=dict)  # of the charge logs, as the silos sent them
    code_digest: Digest | None = None  # of what coordinator and silos run; None: it was not told yet


class PhaseSeconds(ContractModel):
    """Where an attempt's seconds went: keys and shares, the silos' gradients, taking masks off, step and evaluation."""

    agree: Annotated[float, Field(ge=0)]
    compute: Annotated[float, Field(ge=0)]
    unmask: Annotated[float, Field(ge=0)]
    apply: Annotated[float, Field(ge=0)]

    @property
    def total(self) -> float:
        """The attempt's whole."""
        return self.agree + self.compute + self.unmask + self.apply


class RoundFinished(ContractModel):
    """One attempt of a round ended; `applied` says whether its sum was released and used, `why` why silos dropped."""

    event: Literal["RoundFinished"] = "RoundFinished"
    at: float
    round: int
    attempt: int
    applied: bool
    survivors: tuple[SiloName, ...]
    dropped: tuple[SiloName, ...]
    epsilon_spent: float
    accuracy: float | None
    seconds: float
    phases: PhaseSeconds | None = None
    reason: str = ""
    why: dict[SiloName, Annotated[str, Field(max_length=512)]] = Field(default_factory=dict)


class ProcessFailed(ContractModel):
    """Why a process ended early, as the one line a user sees."""

    event: Literal["ProcessFailed"] = "ProcessFailed"
    code: int
    message: Annotated[str, Field(max_length=1024)]


ProgressEvent = Annotated[
    IdentityReady | Preparing | TrainingStarted | RoundFinished | ProcessFailed, Field(discriminator="event")
]
PROGRESS: TypeAdapter[IdentityReady | Preparing | TrainingStarted | RoundFinished | ProcessFailed] = TypeAdapter(
    ProgressEvent
)


Kind = tuple[type[ContractModel], bool]


def kind_of(event: ContractModel) -> Kind:
    """Return what newer events make an older one needless for: its type, and of rounds whether one counts.

    Rounds come in order and what is spent never falls, so decisions rest on the latest of each kind.
    """
    return type(event), isinstance(event, RoundFinished) and event.applied


def read_event(line: bytes) -> IdentityReady | Preparing | TrainingStarted | RoundFinished | ProcessFailed:
    """Return the event on a line that a process has written; raises ValidationError when it is none.

    What this version does not know is ignored: after a rollback the processes of a running job may be newer.
    """
    return PROGRESS.validate_json(line, extra="ignore")


class TrainingResult(ContractModel):
    """How a coordinator's job ended; goes to the termination log."""

    outcome: Literal["Complete", "EndedEarly", "Failed"]
    reason: str = ""
    message: Annotated[str, Field(max_length=1024)] = ""
    rounds: int = 0
    attempts: int = 0
    epsilon_spent: float = 0.0
    accuracy: float | None = None
    adapter_digest: str = ""
    code: int = 0

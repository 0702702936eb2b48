"""What passes between a whole job's state machines and their drivers: events, effects, steps.

A driver executes a step's effects in their order. An effect that has an answer (the event named with it) is the last
of its step; the driver feeds everything that arrived meanwhile back first, then the answer. A driver that cannot
execute an effect ends its process: what was durable by then is what the next process starts from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from foedus_contract.errors import FoedusError
from foedus_contract.progress import PhaseSeconds
from foedus_contract.wire import AttemptId, CoordinatorMessage, JobOver, LedgerHead, StartAttempt
from foedus_workloads.secagg.effects import Send, SendTo, SetDeadline, Vector
from foedus_workloads.training.coordinator_entries import CoordinatorEntry, Standing
from foedus_workloads.training.silo_entries import Entry
from foedus_workloads.transport.events import Joined, Lost, Received

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class RoundVectors:
    """The factors in the order in which rounds take them, and the length of each one's vector."""

    factors: tuple[str, ...]
    coordinates: Mapping[str, int]

    def factor(self, number: int) -> str:
        """Return the active factor of round `number`."""
        return self.factors[number % len(self.factors)]


# Events of a silo


@dataclass(frozen=True)
class Heard:
    """A message of the coordinator arrived."""

    message: CoordinatorMessage
    payload: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class SessionRenewed:
    """The session with the coordinator had ended and a new one is open: whatever was under way is void."""


@dataclass(frozen=True)
class SumComputed:
    """Answers ComputeSum: the integer sum of clipped gradients."""

    id: AttemptId
    total: Integers = field(repr=False)


@dataclass(frozen=True)
class LedgerAnswered:
    """Answers ChargeLedger: charged (None), refused (final), or unknown (retryable, and counted as charged)."""

    id: AttemptId
    problem: FoedusError | None = None


@dataclass(frozen=True)
class NoiseDrawn:
    """Answers DrawNoise: the sum with this silo's share of noise, mod 2^32."""

    id: AttemptId
    vector: Vector = field(repr=False)


@dataclass(frozen=True)
class NobodyNewer:
    """Answers SeekNewer when no newer coordinator is there; else there is a new session instead of an answer."""


@dataclass(frozen=True)
class Overdue:
    """The coordinator has not gone on with this attempt for longer than the plan allows."""

    id: AttemptId


SiloEvent = Heard | SessionRenewed | SumComputed | LedgerAnswered | NoiseDrawn | NobodyNewer | Overdue


# Effects of a silo; `Send` is the attempt's own


@dataclass(frozen=True)
class JournalSilo:
    """Make the entry durable, and with Uploaded the masked bytes; what follows must not happen before."""

    entry: Entry
    payload: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class KeepBroadcast:
    """Make the signed broadcast and its adapter durable in place of the one before."""

    start: StartAttempt
    payload: bytes = field(repr=False)


@dataclass(frozen=True)
class LoadAdapter:
    """Put the common adapter into the model; one that the coordinator signed and that does not fit ends the silo."""

    payload: bytes = field(repr=False)


@dataclass(frozen=True)
class ComputeSum:
    """Compute the sum of the records' clipped gradients at the adapter. Answer: SumComputed."""

    id: AttemptId
    factor: str


@dataclass(frozen=True)
class ChargeLedger:
    """Charge this silo's ledger for the attempt, durably. Answer: LedgerAnswered."""

    id: AttemptId


@dataclass(frozen=True)
class DrawNoise:
    """Add this silo's share of fresh noise to the sum. Answer: NoiseDrawn."""

    id: AttemptId
    total: Integers = field(repr=False)


@dataclass(frozen=True)
class SeekNewer:
    """Look for a newer coordinator than the one that said that the job is over. Answer: NobodyNewer, unless one is."""

    coordinator: int


@dataclass(frozen=True)
class Leave:
    """End: the coordinator has said that the job is over."""

    over: JobOver


@dataclass(frozen=True)
class Stop:
    """End with this error."""

    error: FoedusError


SiloEffect = (
    Send | JournalSilo | KeepBroadcast | LoadAdapter | ComputeSum | ChargeLedger | DrawNoise | SeekNewer | Leave | Stop
)


# Events of the coordinator; Joined, Received and Lost are the transport's


@dataclass(frozen=True)
class TimedOut:
    """The deadline that was set last may have passed."""


@dataclass(frozen=True)
class ModelMoved:
    """Answers ApplySum and RestoreAdapter: the adapter as it is now, and its accuracy on public records."""

    adapter: bytes = field(repr=False)
    accuracy: float | None


@dataclass(frozen=True)
class CheckpointSaved:
    """Answers SaveCheckpoint: the SHA-256 of the file."""

    digest: str


CoordinatorEvent = Joined | Received | Lost | TimedOut | ModelMoved | CheckpointSaved


# Effects of the coordinator; `SendTo` and `SetDeadline` are the attempt's own


@dataclass(frozen=True)
class JournalCoordinator:
    """Make the entry durable; what follows must not happen before."""

    entry: CoordinatorEntry


@dataclass(frozen=True)
class RestoreAdapter:
    """Put this adapter into the model, with an optimiser that has not moved. Answer: ModelMoved."""

    payload: bytes = field(repr=False)


@dataclass(frozen=True)
class ApplySum:
    """Take the round's step on its released sum. Answer: ModelMoved."""

    round: int
    total: Vector = field(repr=False)


@dataclass(frozen=True)
class SaveCheckpoint:
    """Make adapter and optimiser durable under a name of its own. Answer: CheckpointSaved."""

    standing: Standing


@dataclass(frozen=True)
class ReportWaiting:
    """Tell the engine how many silos of how many are here."""

    here: int
    total: int


@dataclass(frozen=True)
class ReportStarted:
    """Tell the engine that training begins, or goes on, with these silos, and pass on where their logs end."""

    joined: tuple[str, ...]
    heads: Mapping[str, LedgerHead] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportAttempt:
    """Tell the engine how an attempt ended; `standing` is the one after it, `why` says why silos dropped out."""

    id: AttemptId
    applied: bool
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    standing: Standing
    phases: PhaseSeconds
    reason: str = ""
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finish:
    """End with an adapter: leave it, tell the silos, report."""

    standing: Standing
    reason: str = ""  # empty: all rounds are done
    message: str = ""


@dataclass(frozen=True)
class Fail:
    """End without one: tell the silos, raise the error."""

    error: FoedusError


CoordinatorEffect = (
    SendTo
    | SetDeadline
    | JournalCoordinator
    | RestoreAdapter
    | ApplySum
    | SaveCheckpoint
    | ReportWaiting
    | ReportStarted
    | ReportAttempt
    | Finish
    | Fail
)

StateT = TypeVar("StateT")
EffectT = TypeVar("EffectT")


@dataclass(frozen=True)
class JobStep(Generic[StateT, EffectT]):
    """A new state and what is to be done, in order."""

    state: StateT
    effects: tuple[EffectT, ...] = ()

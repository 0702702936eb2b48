"""What goes into and comes out of the state machines: context, identity, entropy, steps and effects.

A driver executes a step's effects in their order and feeds what happens back in. Nothing here acts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from foedus_contract.wire import AttemptId, CoordinatorMessage, SiloMessage, Unmask

Vector = NDArray[np.uint32]
Entropy = Callable[[int], bytes]  # os.urandom in production; anything repeatable only in tests


@dataclass(frozen=True)
class AttemptContext:
    """What silo and coordinator know alike before an attempt starts; every key and signature is bound to it."""

    id: AttemptId
    job_uid: str
    plan_digest: str
    adapter_digest: str
    threshold: int
    coordinates: int


@dataclass(frozen=True)
class SiloIdentity:
    """A silo's name and its long-lived signing key."""

    name: str
    signing_key: Ed25519PrivateKey = field(repr=False)


@dataclass(frozen=True)
class Send:
    """To the coordinator."""

    message: SiloMessage
    payload: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Contribute:
    """Charge the ledger, then compute the noised sum and hand it to `silo_contributes`."""


@dataclass(frozen=True)
class JournalUpload:
    """Make the masked bytes durable; the Send that follows must not happen before."""

    id: AttemptId
    payload: bytes = field(repr=False)


@dataclass(frozen=True)
class JournalUnmask:
    """Make the one unmasking answer durable; the Send that follows must not happen before."""

    id: AttemptId
    message: Unmask = field(repr=False)


@dataclass(frozen=True)
class Refused:
    """This silo takes no further part in the attempt; the secrets of the attempt are gone from its state."""

    reason: str


@dataclass(frozen=True)
class SendTo:
    """To one silo."""

    silo: str
    message: CoordinatorMessage
    payload: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class SetDeadline:
    """Call `coordinator_times_out` at this time; replaces the deadline set before."""

    at: float


@dataclass(frozen=True)
class Released:
    """The sum mod 2^32 over the survivors' vectors."""

    total: Vector
    survivors: tuple[str, ...]


@dataclass(frozen=True)
class Aborted:
    """The attempt ended without a sum; `dropped` are the silos that were lost on the way."""

    reason: str
    dropped: tuple[str, ...]


Effect = Send | Contribute | JournalUpload | JournalUnmask | Refused | SendTo | SetDeadline | Released | Aborted
StateT = TypeVar("StateT")


@dataclass(frozen=True)
class Step(Generic[StateT]):
    """A new state and what is to be done, in order."""

    state: StateT
    effects: tuple[Effect, ...] = ()

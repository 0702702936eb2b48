"""What is done to a process from inside before it starts, where no input from outside brings the fault about.

Everything here runs in the forked process of a case alone; nothing of it can be reached in the product.
"""

from __future__ import annotations

import functools
import itertools
import os
import resource
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from foedus import engine, follow, run
from foedus_contract.paths import ROOT_VARIABLE
from foedus_contract.wire import AdvertiseKeys, Join, MaskedVector, Offer, ShareKeys, SiloMessage
from foedus_engine.cluster.embedded import EmbeddedCluster, utc_now
from foedus_ledger import sqlite as ledger
from foedus_workloads import entry
from foedus_workloads.training import client, local_step
from foedus_workloads.transport.client import CoordinatorLink, LinkSettings
from support.crash_processes import effect_name


def full_volume() -> None:
    """Let this process write no byte to any file, as on a full volume."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def impatient() -> None:
    """Wait for a locked ledger for less than a minute."""
    ledger.LOCK_SECONDS = 0.2
    follow.LEDGER_SECONDS = 1.0


@dataclass(frozen=True)
class Clock:
    """Lets this process's wall clock be wrong by so many seconds."""

    seconds: float

    def __call__(self) -> None:
        original = time.time
        time.time = lambda: original() + self.seconds
        read = entry.read_surroundings
        entry.read_surroundings = lambda environ: replace(read(environ), wall_clock=time.time)


_held: list[sqlite3.Connection] = []


def watched(watch: Callable[[object], None]) -> None:
    """Show this process's effects to `watch`, each right before it is executed."""
    read = entry.read_surroundings
    entry.read_surroundings = lambda environ: replace(read(environ), watch=watch)


@dataclass(frozen=True)
class Before:
    """Does something once, right before the first effect of a name; `effect_name` says how they are named."""

    effect: str
    act: Callable[[], None]

    def __call__(self) -> None:
        due = [self.act]

        def watch(effect: object) -> None:
            if due and effect_name(effect) == self.effect:
                due.pop()()

        watched(watch)


def lock_ledger() -> None:
    """Hold silo-d's ledger, as another program could, and let its own process wait for less than it would."""
    impatient()
    _held.append(sqlite3.connect(Path(os.environ[ROOT_VARIABLE]) / "silo-d/ledger.sqlite"))
    _held[0].execute("BEGIN EXCLUSIVE")


def day_back() -> None:
    """Set this process's wall clock back by a day."""
    original = time.time
    time.time = lambda: original() - 86400.0


@dataclass(frozen=True)
class Tamper:
    """Lets this silo send other messages than the product would: `change` gives what is sent instead of one."""

    change: Callable[[SiloMessage, bytes], Sequence[tuple[SiloMessage, bytes]]]

    def __call__(self) -> None:
        send = CoordinatorLink.send

        async def tampered(link: CoordinatorLink, message: SiloMessage, payload: bytes = b"") -> None:
            for instead, body in self.change(message, payload):
                await send(link, instead, body)

        CoordinatorLink.send = tampered  # type: ignore[method-assign]


def half_vector(message: SiloMessage, payload: bytes) -> Sequence[tuple[SiloMessage, bytes]]:
    """Send half of the vector, and say so."""
    if not isinstance(message, MaskedVector):
        return [(message, payload)]
    count = message.coordinates // 2
    return [(message.model_copy(update={"coordinates": count}), payload[: 4 * count])]


def lying_count(message: SiloMessage, payload: bytes) -> Sequence[tuple[SiloMessage, bytes]]:
    """Send half of the vector, and claim that it is whole."""
    return [(message, payload[: len(payload) // 8 * 4])]


def long_vector(message: SiloMessage, payload: bytes) -> Sequence[tuple[SiloMessage, bytes]]:
    """Send a hundred times the vector."""
    if not isinstance(message, MaskedVector):
        return [(message, payload)]
    return [(message.model_copy(update={"coordinates": 100 * message.coordinates}), 100 * payload)]


def invented_keys(message: SiloMessage, payload: bytes) -> Sequence[tuple[SiloMessage, bytes]]:
    """Advertise another key than the one that is signed."""
    if isinstance(message, AdvertiseKeys):
        message = message.model_copy(update={"masking_key": b"k" * 32})
    return [(message, payload)]


def missing_share(message: SiloMessage, payload: bytes) -> Sequence[tuple[SiloMessage, bytes]]:
    """Leave one peer out of the shares."""
    if isinstance(message, ShareKeys):
        message = message.model_copy(update={"ciphertexts": dict(list(message.ciphertexts.items())[1:])})
    return [(message, payload)]


def other_name(message: SiloMessage, payload: bytes) -> Sequence[tuple[SiloMessage, bytes]]:
    """Speak as silo-a in a round."""
    if isinstance(message, AdvertiseKeys):
        message = message.model_copy(update={"silo": "silo-a"})
    return [(message, payload)]


_said: list[tuple[Any, bytes]] = []


def replays(message: SiloMessage, payload: bytes) -> Sequence[tuple[SiloMessage, bytes]]:
    """Send everything twice, and with each message of a later round all of the rounds before once more."""
    if isinstance(message, Join | Offer):
        return [(message, payload)]
    stale = [(old, body) for old, body in _said if old.id != message.id and old.kind == message.kind]
    _said.append((message, payload))
    return [*stale, (message, payload), (message, payload)]


def gradients_not_finite() -> None:
    """Let this silo's gradients be NaN and infinities in turn."""
    honest = local_step.example_gradients

    def broken(*arguments: Any) -> torch.Tensor:
        gradients = honest(*arguments)
        gradients[::2] = float("nan")
        gradients[1::2] = float("inf")
        return gradients

    local_step.example_gradients = broken


def short_requests() -> None:
    """Let one request of this silo take a second at most."""
    client.LinkSettings = functools.partial(LinkSettings, request_seconds=1.0)  # type: ignore[misc, assignment]


def engines_clock_back() -> None:
    """Set the engine's wall clock back by a day when it is read for the twentieth time: the job has been admitted."""
    reads = itertools.count()

    def now() -> datetime:
        return utc_now() - timedelta(days=int(next(reads) >= 20))

    engine.utc_now = run.utc_now = now
    EmbeddedCluster.__init__.__kwdefaults__["now"] = now

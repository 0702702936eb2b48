"""n silos and a coordinator of one secure-aggregation attempt in memory, with a schedule of losses.

A World is a value: playing a stage returns a new one, so many schedules can branch off one honest prefix.

    world = make_world(silos=10)
    ended = play(world, {"silo-03": 2, "silo-07": 4})   # silo-03 is lost at stage 2, silo-07 at stage 4
    outcome(ended)                                       # Released or Aborted
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract.plan import threshold_for
from foedus_contract.wire import AttemptId, CoordinatorMessage, SiloMessage, Unmask
from foedus_workloads.secagg.coordinator import (
    CoordinatorAttempt,
    coordinator_loses,
    coordinator_receives,
    coordinator_times_out,
    start_coordinator,
)
from foedus_workloads.secagg.effects import (
    Aborted,
    AttemptContext,
    Contribute,
    Effect,
    Entropy,
    Released,
    Send,
    SendTo,
    SiloIdentity,
    Vector,
)
from foedus_workloads.secagg.silo import SiloAttempt, silo_contributes, silo_receives, start_silo

STAGES = 5  # advertise, share, upload, confirm, unmask
STAGE_SECONDS = 60.0
COMPUTE_SECONDS = 600.0
EffectT = TypeVar("EffectT")


@dataclass(frozen=True)
class World:
    """Everybody's state between two stages: `outgoing` is what each silo is about to send."""

    context: AttemptContext
    identities: Mapping[str, SiloIdentity]
    pinned: Mapping[str, bytes]
    vectors: Mapping[str, Vector]
    silos: Mapping[str, SiloAttempt]
    coordinator: CoordinatorAttempt
    outgoing: Mapping[str, Send]
    stage: int = 0
    now: float = 0.0
    silo_log: tuple[tuple[str, Effect], ...] = ()
    coordinator_log: tuple[Effect, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.identities))


def keyed_entropy(*key: object) -> Entropy:
    """A repeatable stream for tests: SHAKE-256 of key, counter."""
    counter = iter(range(1 << 30))

    def draw(count: int) -> bytes:
        return hashlib.shake_256(repr((key, next(counter))).encode()).digest(count)

    return draw


def make_identities(silos: int, seed: object = 0) -> dict[str, SiloIdentity]:
    names = [f"silo-{index:02d}" for index in range(1, silos + 1)]
    return {
        name: SiloIdentity(name, Ed25519PrivateKey.from_private_bytes(keyed_entropy("identity", seed, name)(32)))
        for name in names
    }


def public_key(identity: SiloIdentity) -> bytes:
    return identity.signing_key.public_key().public_bytes_raw()


def make_context(
    *, silos: int = 10, coordinates: int = 8, threshold: int | None = None, attempt: int = 0
) -> AttemptContext:
    return AttemptContext(
        id=AttemptId(round=attempt, attempt=attempt),
        job_uid="5a1f0a52-7b5a-4c3e-9c1c-5d4f7c0e6b11",
        plan_digest="sha256:" + "1" * 64,
        adapter_digest="sha256:" + "2" * 64,
        threshold=threshold_for(silos) if threshold is None else threshold,
        coordinates=coordinates,
    )


def make_world(
    *,
    silos: int = 10,
    coordinates: int = 8,
    threshold: int | None = None,
    seed: object = 0,
    attempt: int = 0,
    vectors: Mapping[str, Vector] | None = None,
    verify: bool = True,
) -> World:
    """Start an attempt on both sides; every silo is about to advertise its keys."""
    context = make_context(silos=silos, coordinates=coordinates, threshold=threshold, attempt=attempt)
    identities = make_identities(silos, seed)
    pinned = {name: public_key(identity) for name, identity in identities.items()}
    source = np.random.default_rng(silos)
    drawn = {name: source.integers(0, 2**32, coordinates, dtype=np.uint32) for name in identities}
    started = {
        name: start_silo(context, identity, pinned, keyed_entropy(seed, attempt, name, "start"))
        for name, identity in identities.items()
    }
    coordinator = start_coordinator(
        context,
        frozenset(identities),
        STAGE_SECONDS,
        COMPUTE_SECONDS,
        0.0,
        identities=pinned if verify else None,
    )
    return World(
        context=context,
        identities=identities,
        pinned=pinned,
        vectors=drawn if vectors is None else vectors,
        silos={name: step.state for name, step in started.items()},
        coordinator=coordinator.state,
        outgoing={name: sent(step.effects)[0] for name, step in started.items()},
        silo_log=tuple((name, effect) for name, step in started.items() for effect in step.effects),
        coordinator_log=coordinator.effects,
    )


def play_stage(world: World, lost: Iterable[str] = (), *, gone: bool = False) -> World:
    """Let every silo but `lost` send; `lost` are silent until the deadline, or reported `gone` at once."""
    lost = frozenset(lost)
    now = world.now + 1.0
    state, effects = world.coordinator, list[Effect]()
    for name in world.names:
        if name in world.outgoing and name not in lost:
            send = world.outgoing[name]
            step = coordinator_receives(state, send.message, send.payload, now)
        elif name in lost and gone:
            step = coordinator_loses(state, name, now)
        else:
            continue
        state, effects = step.state, [*effects, *step.effects]
    if lost and not gone and not of_kind(effects, SendTo, Released, Aborted):
        now = state.deadline
        step = coordinator_times_out(state, now)
        state, effects = step.state, [*effects, *step.effects]
    world = replace(
        world,
        coordinator=state,
        coordinator_log=(*world.coordinator_log, *effects),
        outgoing={},
        stage=world.stage + 1,
        now=now,
    )
    for effect in of_kind(effects, SendTo):
        world = deliver(world, effect.silo, effect.message)
    return world


def deliver(world: World, name: str, message: CoordinatorMessage) -> World:
    """Give one silo one message and let it compute when it is asked to; its answer waits in `outgoing`."""
    step = silo_receives(world.silos[name], message, keyed_entropy(world.context.id, name, world.stage))
    state, effects = step.state, step.effects
    if any(isinstance(effect, Contribute) for effect in effects):
        contributed = silo_contributes(state, world.vectors[name])
        state, effects = contributed.state, (*effects, *contributed.effects)
    answers = sent(effects)
    return replace(
        world,
        silos={**world.silos, name: state},
        outgoing={**world.outgoing, name: answers[-1]} if answers else world.outgoing,
        silo_log=(*world.silo_log, *((name, effect) for effect in effects)),
    )


def play(world: World, losses: Mapping[str, int] | None = None, *, gone: bool = False) -> World:
    """Play the remaining stages; `losses` names the stage at which a silo is lost."""
    losses = losses or {}
    while world.stage < STAGES and not world.coordinator.ended:
        lost = [name for name, stage in losses.items() if stage == world.stage]
        world = play_stage(world, lost, gone=gone)
    return world


def outcome(world: World) -> Released | Aborted | None:
    ends: list[Released | Aborted] = of_kind(world.coordinator_log, Released, Aborted)
    assert len(ends) <= 1
    return ends[0] if ends else None


def plain_sum(world: World, names: Iterable[str]) -> list[int]:
    """The sum mod 2^32 by Python's integers, which knows nothing of masks or numpy."""
    chosen = [world.vectors[name].tolist() for name in names]
    return [sum(column) % 2**32 for column in zip(*chosen, strict=True)]


def sent(effects: Iterable[Effect]) -> list[Send]:
    return of_kind(effects, Send)


def sent_messages(world: World, name: str | None = None) -> list[SiloMessage]:
    return [e.message for who, e in world.silo_log if isinstance(e, Send) and name in (None, who)]


def unmask_answers(world: World) -> list[Unmask]:
    """The unmasking answers that reached the coordinator or would have: every one a silo was ready to send."""
    return of_kind(sent_messages(world), Unmask)


def of_kind(things: Iterable[object], *kinds: type[EffectT]) -> list[EffectT]:
    return [thing for thing in things if isinstance(thing, kinds)]

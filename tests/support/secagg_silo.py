"""One silo of ten before each message of a coordinator, for tests of what it answers."""

from __future__ import annotations

from dataclasses import replace

from foedus_contract.wire import (
    AdvertiseKeys,
    AttemptId,
    CoordinatorMessage,
    DeliverShares,
    Refuse,
    Roster,
    SurvivorProof,
    Survivors,
)
from foedus_workloads.secagg.effects import (
    Refused,
    Send,
    SendTo,
    SiloIdentity,
    Step,
)
from foedus_workloads.secagg.membership import survivors_statement
from foedus_workloads.secagg.silo import SiloAttempt, silo_receives, start_silo
from support.secagg_world import (
    World,
    keyed_entropy,
    make_identities,
    make_world,
    of_kind,
    play_stage,
)

ME = "silo-01"
OTHER = "silo-05"
ALL = tuple(f"silo-{index:02d}" for index in range(1, 11))
ENTROPY = keyed_entropy("attack")
IDENTITIES = make_identities(10)
SHOWN_OTHERS = {"adapter_digest": "sha256:" + "e" * 64}
SECOND_TRY = AttemptId(round=0, attempt=1)


def honest_run() -> list[World]:
    """Honest runs up to the point before each message of the coordinator."""
    played = [make_world()]
    while len(played) < 6:
        played.append(play_stage(played[-1]))
    return played


def honest(worlds: list[World], kind: type[CoordinatorMessage], silo: str = ME) -> CoordinatorMessage:
    """What the honest coordinator sent this silo."""
    return next(
        effect.message
        for effect in of_kind(worlds[-1].coordinator_log, SendTo)
        if effect.silo == silo and isinstance(effect.message, kind)
    )


def state_before(worlds: list[World], kind: type[CoordinatorMessage], silo: str = ME) -> SiloAttempt:
    return worlds[[Roster, DeliverShares, Survivors, SurvivorProof].index(kind)].silos[silo]


def receive(state: SiloAttempt, message: CoordinatorMessage) -> Step[SiloAttempt]:
    return silo_receives(state, message, ENTROPY)


def check_refused(step: Step[SiloAttempt], because: str) -> None:
    """One Refuse leaves the silo, nothing else; its secrets are gone and it answers nothing from here on."""
    told, refused = step.effects
    assert isinstance(told, Send)
    assert isinstance(told.message, Refuse)
    assert isinstance(refused, Refused)
    assert because in refused.reason
    check_empty(step.state)


def check_empty(state: SiloAttempt) -> None:
    assert state.ended
    assert state.encryption_private + state.masking_private + state.self_mask_seed == b""
    assert dict(state.held) == dict(state.mask_keys) == {}


def advertise(identity: SiloIdentity, **changes: object) -> AdvertiseKeys:
    """What a silo would advertise when it was shown another context."""
    context = replace(make_world(silos=4, threshold=3).context, threshold=7, **changes)
    step = start_silo(context, identity, {}, keyed_entropy("again", identity.name))
    (send,) = of_kind(step.effects, Send)
    assert isinstance(send.message, AdvertiseKeys)
    return send.message


def signatures(world: World, names: tuple[str, ...], survivors: tuple[str, ...], **changes: object) -> dict[str, bytes]:
    """Valid signatures over `survivors` in the world's context with `changes`."""
    membership = world.silos[ME].membership
    statement = survivors_statement(replace(world.context, **changes), membership, survivors)
    return {name: world.identities[name].signing_key.sign(statement) for name in names}

"""The coordinator against silos that send anything: one silo's fault costs that silo, never the others' sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from foedus_contract.wire import AdvertiseKeys, AttemptId, Join, MaskedVector, Refuse, ShareKeys, SiloMessage, Unmask
from foedus_workloads.secagg.coordinator import (
    CoordinatorAttempt,
    CoordinatorStage,
    coordinator_loses,
    coordinator_receives,
    coordinator_times_out,
    start_coordinator,
)
from foedus_workloads.secagg.effects import Aborted, Effect, Released, Send, SendTo, SetDeadline, Step
from foedus_workloads.secagg.shamir import PRIME, parse_share
from support.heads import ANY_HEAD
from support.secagg_world import (
    COMPUTE_SECONDS,
    STAGE_SECONDS,
    World,
    make_context,
    make_world,
    of_kind,
    outcome,
    plain_sum,
    play,
    play_stage,
    sent_messages,
)
from support.training_plans import ANY_DIGEST

BAD = "silo-05"
ALL = tuple(f"silo-{index:02d}" for index in range(1, 11))
OTHERS = tuple(name for name in ALL if name != BAD)
SECOND_TRY = AttemptId(round=0, attempt=1)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    """Honest runs up to the point before each of the silos' five answers."""
    played = [make_world()]
    while len(played) < 5:
        played.append(play_stage(played[-1]))
    return played


def with_answer(world: World, send: Send) -> World:
    return replace(world, outgoing={**world.outgoing, BAD: send})


def changed(**changes: object) -> Callable[[Send], Send]:
    return lambda send: replace(send, message=send.message.model_copy(update=changes))


def unmask(change: Callable[[Unmask], dict[str, object]]) -> Callable[[Send], Send]:
    return lambda send: replace(send, message=send.message.model_copy(update=change(send.message)))


def left_out(shares: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: share for key, share in shares.items() if key != name}


# stage, what the bad silo sends instead of its answer, whether its vector stays in the sum, why it is lost
MALFORMED = {
    "keys under a false signature": (0, changed(signature=b"s" * 64), False, "not signed"),
    "other keys under the signature": (0, changed(masking_key=b"m" * 32), False, "not signed"),
    "keys with a payload": (0, lambda s: replace(s, payload=b"x"), False, "must have no payload"),
    "one key for both purposes": (
        0,
        lambda s: changed(masking_key=s.message.encryption_key)(s),
        False,
        "listed twice",
    ),
    "no shares": (1, changed(ciphertexts={}), False, "exactly the other silos"),
    "shares for a stranger": (
        1,
        lambda s: changed(ciphertexts={**s.message.ciphertexts, "silo-99": b"x"})(s),
        False,
        "exactly the other silos",
    ),
    "a short vector": (2, lambda s: replace(s, payload=s.payload[:-4]), False, "28 bytes, 32 are needed"),
    "a long vector": (2, lambda s: replace(s, payload=s.payload + b"\0"), False, "33 bytes, 32 are needed"),
    "a huge vector": (2, lambda s: replace(s, payload=bytes(4 * 2**20)), False, "4194304 bytes, 32 are needed"),
    "no vector": (2, lambda s: replace(s, payload=b""), False, "0 bytes, 32 are needed"),
    "a vector of another length": (
        2,
        lambda s: replace(changed(coordinates=9)(s), payload=bytes(36)),
        False,
        "must have 8 coordinates",
    ),
    "a length that is not the payload's": (2, changed(coordinates=7), False, "must have 8 coordinates"),
    "a false confirmation": (3, changed(signature=b"s" * 64), True, "the survivors are not signed"),
    "no unmasking shares": (4, changed(self_mask_shares={}), True, "shares that were asked for"),
    "one unmasking share missing": (
        4,
        unmask(lambda m: {"self_mask_shares": left_out(m.self_mask_shares, "silo-03")}),
        True,
        "shares that were asked for",
    ),
    "both kinds of share": (
        4,
        unmask(lambda m: {"masking_key_shares": {"silo-03": m.self_mask_shares["silo-03"]}}),
        True,
        "shares that were asked for",
    ),
    "a share outside the field": (
        4,
        unmask(lambda m: {"self_mask_shares": {**m.self_mask_shares, "silo-03": b"\xff" * 66}}),
        True,
        "66 bytes below",
    ),
    "a short share": (
        4,
        unmask(lambda m: {"self_mask_shares": {**m.self_mask_shares, "silo-03": b"\0" * 65}}),
        True,
        "66 bytes below",
    ),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_answer_costs_only_its_sender(worlds: list[World], fault: str) -> None:
    stage, change, stays, because = MALFORMED[fault]
    world = play_stage(with_answer(worlds[stage], change(worlds[stage].outgoing[BAD])))
    assert because in world.coordinator.dropped[BAD]
    end = outcome(play(world))
    survivors = ALL if stays else OTHERS
    assert isinstance(end, Released)
    assert end.survivors == survivors
    assert end.total.tolist() == plain_sum(world, survivors)


def receive(state: CoordinatorAttempt, send: Send, now: float = 1.0) -> Step[CoordinatorAttempt]:
    return coordinator_receives(state, send.message, send.payload, now)


@pytest.mark.parametrize("stage", range(5))
def test_the_first_answer_counts(worlds: list[World], stage: int) -> None:
    """A second answer, the same or another, changes nothing."""
    first = worlds[stage].outgoing[BAD]
    state = receive(worlds[stage].coordinator, first).state
    assert receive(state, first) == Step(state)
    assert receive(state, replace(first, payload=bytes(32))) == Step(state)


def test_a_second_vector_is_not_added(worlds: list[World]) -> None:
    world = worlds[2]
    state = receive(world.coordinator, world.outgoing[BAD]).state
    state = receive(state, replace(world.outgoing[BAD], payload=b"\x01" * 32)).state
    end = outcome(play(replace(world, coordinator=state)))
    assert isinstance(end, Released)
    assert end.total.tolist() == plain_sum(world, ALL)


@pytest.mark.parametrize("stage", range(5))
def test_an_answer_of_another_attempt_is_passed_over(worlds: list[World], stage: int) -> None:
    world = worlds[stage]
    old = changed(id=SECOND_TRY)(world.outgoing[BAD])
    assert receive(world.coordinator, old) == Step(world.coordinator)


@pytest.mark.parametrize(
    "message",
    [
        Join(
            silo=BAD, incarnation=0, identity=b"i" * 32, plan_digest=ANY_DIGEST, code_digest=ANY_DIGEST, head=ANY_HEAD
        ),
        Refuse(id=SECOND_TRY, silo=BAD, reason="another attempt's"),
        Refuse(id=AttemptId(round=0, attempt=0), silo="silo-99", reason="a stranger's"),
        MaskedVector(id=AttemptId(round=0, attempt=0), silo=BAD, coordinates=8),
        MaskedVector(id=AttemptId(round=0, attempt=0), silo="silo-99", coordinates=8),
    ],
    ids=lambda message: f"{message.kind} of {message.silo}",
)
def test_what_no_stage_asked_for_is_passed_over(worlds: list[World], message: SiloMessage) -> None:
    state = worlds[1].coordinator
    assert coordinator_receives(state, message, bytes(32), 1.0) == Step(state)


def test_a_strangers_keys_do_not_enter_the_roster(worlds: list[World]) -> None:
    keys = worlds[0].outgoing[BAD].message
    assert isinstance(keys, AdvertiseKeys)
    state = worlds[0].coordinator
    assert receive(state, Send(keys.model_copy(update={"silo": "silo-99"}))) == Step(state)


def test_a_refusal_counts_as_a_loss(worlds: list[World]) -> None:
    refuse = Refuse(id=worlds[2].context.id, silo=BAD, reason="the budget is spent")
    world = with_answer(worlds[2], Send(refuse))
    ended = play(world)
    end = outcome(ended)
    assert isinstance(end, Released)
    assert end.survivors == OTHERS
    assert ended.coordinator.dropped == {BAD: "refused: the budget is spent"}


def test_a_silo_lost_after_its_vector_arrived_stays_in_the_sum(worlds: list[World]) -> None:
    world = worlds[2]
    state = receive(world.coordinator, world.outgoing[BAD]).state
    state = coordinator_loses(state, BAD, 1.0).state
    left = {name: send for name, send in world.outgoing.items() if name != BAD}
    ended = play(replace(world, coordinator=state, outgoing=left))
    end = outcome(ended)
    assert isinstance(end, Released)
    assert end.total.tolist() == plain_sum(world, ALL)
    later = ended.coordinator_log[len(world.coordinator_log) :]
    assert BAD not in {effect.silo for effect in of_kind(later, SendTo)}


@pytest.mark.parametrize("stage", [0, 1])
def test_a_silo_lost_after_its_keys_or_shares_is_left_out(worlds: list[World], stage: int) -> None:
    world = worlds[stage]
    state = receive(world.coordinator, world.outgoing[BAD]).state
    state = coordinator_loses(state, BAD, 1.0).state
    left = {name: send for name, send in world.outgoing.items() if name != BAD}
    ended = play(replace(world, coordinator=state, outgoing=left))
    end = outcome(ended)
    assert isinstance(end, Released)
    assert end.survivors == OTHERS
    assert end.total.tolist() == plain_sum(world, OTHERS)
    assert BAD not in ended.coordinator.sharers
    later = ended.coordinator_log[len(world.coordinator_log) :]
    assert BAD not in {effect.silo for effect in of_kind(later, SendTo)}


def test_four_lost_after_their_vectors_abort_before_anything_is_unmasked(worlds: list[World]) -> None:
    state, effects = worlds[2].coordinator, list[Effect]()
    for name in ALL[:4]:
        state = receive(state, worlds[2].outgoing[name]).state
    for name in ALL[:4]:
        step = coordinator_loses(state, name, 1.0)
        state, effects = step.state, [*effects, *step.effects]
    assert effects == [Aborted("6 silos left, 7 are needed", ALL[:4])]
    assert state.ended
    assert state.total is None


def test_four_lost_after_they_unmasked_do_not_take_the_sum_away(worlds: list[World]) -> None:
    world = worlds[4]
    state = world.coordinator
    for name in ALL[:4]:
        state = receive(state, world.outgoing[name]).state
        state = coordinator_loses(state, name, 1.0).state
    left = {name: send for name, send in world.outgoing.items() if name not in ALL[:4]}
    end = outcome(play(replace(world, coordinator=state, outgoing=left)))
    assert isinstance(end, Released)
    assert end.total.tolist() == plain_sum(world, ALL)


def false_share(message: Unmask, kind: str, name: str) -> dict[str, object]:
    shares = dict(getattr(message, kind))
    shares[name] = ((parse_share(shares[name]) + 1) % PRIME).to_bytes(66, "big")
    return {kind: shares}


@pytest.mark.parametrize(("kind", "name"), [("self_mask_shares", "silo-03"), ("masking_key_shares", "silo-10")])
def test_a_false_share_aborts_rather_than_releasing_a_wrong_sum(worlds: list[World], kind: str, name: str) -> None:
    world = play_stage(play_stage(worlds[2], ["silo-10"]))
    bad = unmask(lambda message: false_share(message, kind, name))(world.outgoing[BAD])
    end = outcome(play(with_answer(world, bad)))
    assert isinstance(end, Aborted)
    assert "do not belong to one secret" in end.reason


def test_shares_of_another_key_than_advertised_abort() -> None:
    """A silo shares a key that is not the private half of what it advertised, then is lost."""
    world = make_world()
    liar = replace(world.silos[BAD], masking_private=b"k" * 32)
    world = replace(world, silos={**world.silos, BAD: liar})
    end = outcome(play(world, {BAD: 2}))
    assert isinstance(end, Aborted)
    assert "silo-05 shared another key than it advertised" in end.reason


def test_without_identities_a_false_signature_aborts(worlds: list[World]) -> None:
    """The silos check for themselves: not one of them shares anything."""
    world = make_world(verify=False)
    bad = changed(signature=b"s" * 64)(world.outgoing[BAD])
    ended = play(with_answer(world, bad))
    assert isinstance(outcome(ended), Aborted)
    assert not any(isinstance(message, ShareKeys) for message in sent_messages(ended))


def test_deadlines_follow_the_stages() -> None:
    world = play(make_world())
    # stages 0, 1, 3 and 4 have the stage's seconds, stage 2 the computation's; each starts one second later
    assert [effect.at for effect in of_kind(world.coordinator_log, SetDeadline)] == [
        STAGE_SECONDS,
        1 + STAGE_SECONDS,
        2 + COMPUTE_SECONDS,
        3 + STAGE_SECONDS,
        4 + STAGE_SECONDS,
    ]


@pytest.mark.parametrize("early", [0.0, 59.0, 59.999])
def test_nothing_times_out_before_the_deadline(worlds: list[World], early: float) -> None:
    state = worlds[0].coordinator
    assert coordinator_times_out(state, early) == Step(state)


@pytest.mark.parametrize(("answered", "stage"), [(6, CoordinatorStage.ENDED), (7, CoordinatorStage.SHARES)])
def test_a_stage_ends_at_the_deadline_with_t_answers(
    worlds: list[World], answered: int, stage: CoordinatorStage
) -> None:
    state = worlds[0].coordinator
    for name in ALL[:answered]:
        state = receive(state, worlds[0].outgoing[name]).state
    assert state.stage is CoordinatorStage.KEYS
    step = coordinator_times_out(state, 60.0)
    assert step.state.stage is stage
    assert [effect.silo for effect in of_kind(step.effects, SendTo)] == list(ALL[:7] if answered == 7 else ())
    assert step.state.dropped == dict.fromkeys(ALL[answered:], "sent no AdvertiseKeys in time")


def test_an_answer_after_the_deadline_is_passed_over(worlds: list[World]) -> None:
    late = worlds[2].outgoing[BAD]
    world = play_stage(worlds[2], [BAD])
    assert receive(world.coordinator, late, world.now) == Step(world.coordinator)


def test_too_few_silos_do_not_start() -> None:
    step = start_coordinator(make_context(), frozenset(ALL[:6]), 60.0, 600.0, 0.0)
    assert step.effects == (Aborted("6 silos left, 7 are needed", ()),)
    assert step.state.ended


def test_an_ended_attempt_takes_nothing(worlds: list[World]) -> None:
    ended = play(worlds[0])
    state = ended.coordinator
    for send in worlds[4].outgoing.values():
        assert receive(state, send) == Step(state)
    assert coordinator_times_out(state, 1e9) == coordinator_loses(state, BAD, 1.0) == Step(state)
    assert len(of_kind(ended.coordinator_log, Released)) == 1

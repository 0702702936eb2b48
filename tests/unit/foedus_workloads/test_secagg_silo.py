"""A silo through an attempt: each message in its turn and answered once, secrets erased, journals first."""

from __future__ import annotations

import numpy as np
import pytest

from foedus_contract.wire import (
    AttemptOver,
    CoordinatorMessage,
    DeliverShares,
    Roster,
    StartAttempt,
    SurvivorProof,
    Survivors,
)
from foedus_workloads.secagg.effects import (
    Contribute,
    JournalUnmask,
    JournalUpload,
    Send,
    Step,
)
from foedus_workloads.secagg.silo import SiloStage, silo_contributes
from support.secagg_silo import (
    ALL,
    ME,
    SECOND_TRY,
    SHOWN_OTHERS,
    check_empty,
    check_refused,
    honest,
    honest_run,
    receive,
    state_before,
)
from support.secagg_world import (
    World,
    of_kind,
)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return honest_run()


def stale(message: CoordinatorMessage) -> CoordinatorMessage:
    return message.model_copy(update={"id": SECOND_TRY})


@pytest.mark.parametrize("kind", [Roster, DeliverShares, Survivors, SurvivorProof])
def test_a_message_of_another_attempt_gets_no_answer(worlds: list[World], kind: type[CoordinatorMessage]) -> None:
    state = state_before(worlds, kind)
    assert receive(state, stale(honest(worlds, kind))) == Step(state)


@pytest.mark.parametrize("kind", [Roster, DeliverShares, Survivors, SurvivorProof])
def test_the_message_just_answered_gets_no_second_answer(worlds: list[World], kind: type[CoordinatorMessage]) -> None:
    index = [Roster, DeliverShares, Survivors, SurvivorProof].index(kind)
    state = worlds[index + 1].silos[ME]
    assert receive(state, honest(worlds, kind)) == Step(state)


@pytest.mark.parametrize(
    ("waiting_for", "came"),
    [
        (Roster, DeliverShares),
        (Roster, Survivors),
        (Roster, SurvivorProof),
        (DeliverShares, SurvivorProof),
        (DeliverShares, Survivors),
        (Survivors, Roster),
        (Survivors, SurvivorProof),
        (SurvivorProof, Roster),
        (SurvivorProof, DeliverShares),
    ],
)
def test_a_message_out_of_turn_ends_the_attempt(
    worlds: list[World], waiting_for: type[CoordinatorMessage], came: type[CoordinatorMessage]
) -> None:
    check_refused(receive(state_before(worlds, waiting_for), honest(worlds, came)), "came while waiting for")


@pytest.mark.parametrize("other", [{}, SHOWN_OTHERS], ids=["the same adapter", "another adapter"])
def test_a_second_start_is_refused(worlds: list[World], other: dict[str, str]) -> None:
    context = worlds[0].context
    again = {"adapter_digest": context.adapter_digest, **other}
    check_refused(receive(worlds[1].silos[ME], StartAttempt(id=context.id, factor="B", **again)), "StartAttempt")


@pytest.mark.parametrize("stage", range(4))
def test_the_end_of_an_attempt_leaves_no_secret(worlds: list[World], stage: int) -> None:
    over = AttemptOver(id=worlds[0].context.id, applied=False)
    step = receive(worlds[stage].silos[ME], over)
    assert step.effects == ()
    check_empty(step.state)


def test_an_ended_attempt_takes_no_vector(worlds: list[World]) -> None:
    asked = receive(state_before(worlds, DeliverShares), honest(worlds, DeliverShares))
    assert asked.effects == (Contribute(),)
    over = receive(asked.state, AttemptOver(id=worlds[0].context.id, applied=False))
    assert silo_contributes(over.state, worlds[0].vectors[ME]).effects == ()


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(7, np.uint32),
        np.zeros(9, np.uint32),
        np.zeros((8, 1), np.uint32),
        np.zeros(8, np.int64),
        np.zeros(8, np.int32),
    ],
    ids=lambda vector: f"{vector.dtype}{vector.shape}",
)
def test_a_vector_of_another_shape_or_type_is_a_defect(worlds: list[World], vector: np.ndarray) -> None:
    asked = receive(state_before(worlds, DeliverShares), honest(worlds, DeliverShares))
    with pytest.raises(ValueError, match="uint32 of length 8"):
        silo_contributes(asked.state, vector)


def test_a_vector_that_was_not_asked_for_is_a_defect(worlds: list[World]) -> None:
    for state in (worlds[0].silos[ME], worlds[2].silos[ME]):
        with pytest.raises(ValueError, match="not for a vector"):
            silo_contributes(state, worlds[0].vectors[ME])


def test_journals_come_before_what_they_record(worlds: list[World]) -> None:
    effects = [effect for who, effect in worlds[5].silo_log if who == ME]
    kinds = [effect.message.kind if isinstance(effect, Send) else type(effect).__name__ for effect in effects]
    assert kinds == [
        "AdvertiseKeys",
        "ShareKeys",
        "Contribute",
        "JournalUpload",
        "MaskedVector",
        "ConfirmSurvivors",
        "JournalUnmask",
        "Unmask",
    ]
    (upload,), (unmask,) = of_kind(effects, JournalUpload), of_kind(effects, JournalUnmask)
    sent = {send.message.kind: send for send in of_kind(effects, Send)}
    assert sent["MaskedVector"].payload == upload.payload
    assert sent["Unmask"].message == unmask.message
    assert upload.id == unmask.id == worlds[0].context.id


def test_the_upload_is_not_the_vector(worlds: list[World]) -> None:
    uploads = {name: worlds[2].outgoing[name].payload for name in ALL}
    assert len(set(uploads.values())) == 10
    for name, payload in uploads.items():
        assert payload != worlds[0].vectors[name].astype("<u4").tobytes()


def test_private_keys_are_gone_once_the_vector_can_be_masked(worlds: list[World]) -> None:
    uploaded = worlds[2].silos[ME]
    assert uploaded.stage is SiloStage.SURVIVORS
    assert uploaded.encryption_private + uploaded.masking_private + uploaded.self_mask_seed == b""
    assert dict(uploaded.mask_keys) == {}
    assert set(uploaded.held) == set(ALL)


def test_no_secret_stands_in_a_states_text(worlds: list[World]) -> None:
    for world in worlds:
        state = world.silos[ME]
        secrets = [state.encryption_private, state.masking_private, state.self_mask_seed]
        secrets += [*state.mask_keys.values(), *(held.self_mask for held in state.held.values())]
        text = repr(state)
        assert not any(repr(secret)[2:-1] in text for secret in secrets if secret)
        assert "held" not in text

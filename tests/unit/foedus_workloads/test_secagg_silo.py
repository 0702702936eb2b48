"""A silo against a coordinator that does as it likes: each attack ends the attempt for it and reveals nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from foedus_contract.errors import InvalidInput
from foedus_contract.wire import (
    AdvertiseKeys,
    AttemptId,
    AttemptOver,
    ConfirmSurvivors,
    CoordinatorMessage,
    DeliverShares,
    MaskedVector,
    Refuse,
    Roster,
    ShareKeys,
    StartAttempt,
    SurvivorProof,
    Survivors,
    Unmask,
)
from foedus_workloads.secagg.effects import (
    Contribute,
    JournalUnmask,
    JournalUpload,
    Refused,
    Send,
    SendTo,
    SiloIdentity,
    Step,
)
from foedus_workloads.secagg.membership import keys_statement, survivors_statement
from foedus_workloads.secagg.silo import SiloAttempt, SiloStage, silo_contributes, silo_receives, start_silo
from support.secagg_world import (
    World,
    deliver,
    keyed_entropy,
    make_identities,
    make_world,
    of_kind,
    play,
    play_stage,
    public_key,
    sent_messages,
)

ME = "silo-01"
OTHER = "silo-05"
ALL = tuple(f"silo-{index:02d}" for index in range(1, 11))
ENTROPY = keyed_entropy("attack")
Entries = Mapping[str, AdvertiseKeys]


@pytest.fixture(scope="module")
def worlds() -> list[World]:
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


def roster_attack(change: Callable[[dict[str, AdvertiseKeys]], object]) -> Callable[[Entries], list[AdvertiseKeys]]:
    def apply(entries: Entries) -> list[AdvertiseKeys]:
        changed = dict(entries)
        result = change(changed)
        return result if isinstance(result, list) else list(changed.values())

    return apply


IDENTITIES = make_identities(10)
INVENTED = SiloIdentity("silo-99", make_identities(1, seed="invented")["silo-01"].signing_key)
IMPOSTOR = SiloIdentity(OTHER, INVENTED.signing_key)
SHOWN_OTHERS = {"adapter_digest": "sha256:" + "e" * 64}
SECOND_TRY = AttemptId(round=0, attempt=1)


def rewritten(entry: AdvertiseKeys) -> AdvertiseKeys:
    return entry.model_copy(update={"id": AttemptId(round=0, attempt=0)})


ROSTERS = {
    "an invented silo": (lambda e: e.update({"silo-99": advertise(INVENTED)}), "not pinned"),
    "an invented silo in place of one": (
        lambda e: [entry for name, entry in e.items() if name != OTHER] + [advertise(INVENTED)],
        "not pinned",
    ),
    "own keys replaced": (lambda e: e.update({ME: advertise(IDENTITIES[ME])}), "own entry"),
    "own entry left out": (lambda e: e.pop(ME), "own entry"),
    "a peer's keys replaced": (lambda e: e.update({OTHER: advertise(IMPOSTOR)}), "not signed"),
    "a peer's mask key replaced": (
        lambda e: e.update({OTHER: e[OTHER].model_copy(update={"masking_key": b"m" * 32})}),
        "not signed",
    ),
    "a peer's share key replaced": (
        lambda e: e.update({OTHER: e[OTHER].model_copy(update={"encryption_key": b"m" * 32})}),
        "not signed",
    ),
    "a peer was shown another adapter": (
        lambda e: e.update({OTHER: advertise(IDENTITIES[OTHER], **SHOWN_OTHERS)}),
        "not signed",
    ),
    "a peer has another plan": (
        lambda e: e.update({OTHER: advertise(IDENTITIES[OTHER], plan_digest="sha256:" + "e" * 64)}),
        "not signed",
    ),
    "a peer is in another job": (
        lambda e: e.update({OTHER: advertise(IDENTITIES[OTHER], job_uid="another")}),
        "not signed",
    ),
    "keys signed for another attempt": (
        lambda e: e.update({OTHER: rewritten(advertise(IDENTITIES[OTHER], id=SECOND_TRY))}),
        "not signed",
    ),
    "an entry of another attempt": (
        lambda e: e.update({OTHER: advertise(IDENTITIES[OTHER], id=SECOND_TRY)}),
        "another attempt",
    ),
    "two silos' entries swapped by name": (
        lambda e: e.update({OTHER: e["silo-06"].model_copy(update={"silo": OTHER})}),
        "twice",
    ),
    "an entry twice": (lambda e: [*e.values(), e[OTHER]], "twice"),
    "fewer than t": (lambda e: list(e.values())[:6], "6 silos, 7 are needed"),
    "nobody": (lambda e: [], "0 silos, 7 are needed"),
}


@pytest.mark.parametrize("attack", ROSTERS)
def test_a_false_roster_is_refused(worlds: list[World], attack: str) -> None:
    change, because = ROSTERS[attack]
    entries = {name: state.advertised for name, state in worlds[0].silos.items()}
    roster = Roster(id=worlds[0].context.id, entries=tuple(roster_attack(change)(entries)))
    check_refused(receive(worlds[0].silos[ME], roster), because)


@pytest.mark.parametrize("which", ["encryption_key", "masking_key"])
def test_a_key_of_small_order_is_refused_before_anything_is_charged(which: str) -> None:
    """A colluding silo signs the point zero, with which every agreement is zero."""
    world = make_world(verify=False)
    own = world.silos[OTHER].advertised
    keys = {"encryption_key": own.encryption_key, "masking_key": own.masking_key, which: bytes(32)}
    signature = IDENTITIES[OTHER].signing_key.sign(keys_statement(world.context, silo=OTHER, **keys))
    forged = AdvertiseKeys(id=world.context.id, silo=OTHER, signature=signature, **keys)
    colluder = replace(world.silos[OTHER], advertised=forged)
    world = replace(world, silos={**world.silos, OTHER: colluder}, outgoing={**world.outgoing, OTHER: Send(forged)})
    honest_effects = [effect for who, effect in play(world).silo_log if who != OTHER]
    assert len(of_kind(honest_effects, Refused)) == 9
    assert of_kind(honest_effects, Contribute) == []


def test_silos_that_were_shown_different_adapters_never_share() -> None:
    """The coordinator shows one silo another model and sends everybody the one roster."""
    world = make_world(verify=False)
    context = replace(world.context, **SHOWN_OTHERS)
    fooled = start_silo(context, IDENTITIES[ME], world.pinned, keyed_entropy("fooled"))
    world = replace(
        world,
        silos={**world.silos, ME: fooled.state},
        outgoing={**world.outgoing, ME: of_kind(fooled.effects, Send)[0]},
    )
    ended = play(world)
    assert not any(isinstance(message, ShareKeys | MaskedVector) for message in sent_messages(ended))
    assert [name for name in ALL if of_kind([e for who, e in ended.silo_log if who == name], Refused)] == list(ALL)


def without(message: DeliverShares, *names: str) -> DeliverShares:
    left = {name: text for name, text in message.ciphertexts.items() if name not in names}
    return message.model_copy(update={"ciphertexts": left})


def with_text(message: DeliverShares, name: str, text: bytes) -> DeliverShares:
    return message.model_copy(update={"ciphertexts": {**message.ciphertexts, name: text}})


DELIVERIES = {
    "fewer than t": (lambda m, _: without(m, *ALL[1:5]), "6 silos, 7 are needed"),
    "a sender outside the roster": (lambda m, _: with_text(m, "silo-99", b"x" * 148), "cannot be one"),
    "the silo itself": (lambda m, _: with_text(m, ME, b"x" * 148), "cannot be one"),
    "a changed ciphertext": (lambda m, _: with_text(m, OTHER, b"\0" * 148), "silo-05 do not open"),
    "a short ciphertext": (lambda m, _: with_text(m, OTHER, b""), "silo-05 do not open"),
    "another sender's": (lambda m, _: with_text(m, OTHER, m.ciphertexts["silo-06"]), "silo-05 do not open"),
    "another receiver's": (lambda m, other: with_text(m, OTHER, other.ciphertexts[OTHER]), "silo-05 do not open"),
}


@pytest.mark.parametrize("attack", DELIVERIES)
def test_a_false_delivery_is_refused(worlds: list[World], attack: str) -> None:
    change, because = DELIVERIES[attack]
    message = change(honest(worlds, DeliverShares), honest(worlds, DeliverShares, "silo-02"))
    check_refused(receive(state_before(worlds, DeliverShares), message), because)


def test_shares_of_another_attempt_do_not_open(worlds: list[World]) -> None:
    """The same silos with the same keys in another attempt: the sealed shares are bound to their own."""
    old = play_stage(make_world(attempt=1))
    text = old.outgoing[OTHER].message.ciphertexts[ME]
    message = with_text(honest(worlds, DeliverShares), OTHER, text)
    check_refused(receive(state_before(worlds, DeliverShares), message), "do not open")


SURVIVORS = {
    "fewer than t": (ALL[:6], "6 silos, 7 are needed"),
    "without the silo itself": (ALL[1:], "not among them"),
    "one that did not share": ((*ALL, "silo-99"), "did not share"),
    "one twice": ((*ALL[:6], ALL[0]), "twice"),
    "nobody": ((), "not among them"),
}


@pytest.mark.parametrize("attack", SURVIVORS)
def test_a_false_survivor_set_is_refused(worlds: list[World], attack: str) -> None:
    names, because = SURVIVORS[attack]
    message = Survivors(id=worlds[0].context.id, survivors=names)
    check_refused(receive(state_before(worlds, Survivors), message), because)


def test_a_silo_that_did_not_share_cannot_survive() -> None:
    """silo-10 is in the roster but was lost before it shared; nobody holds its shares."""
    before = play_stage(play_stage(make_world()), ["silo-10"])
    message = Survivors(id=before.context.id, survivors=ALL)
    check_refused(receive(before.silos[ME], message), "did not share")


def test_a_second_survivor_set_is_refused(worlds: list[World]) -> None:
    """Split views: first all ten, then nine, to ask both share kinds of the tenth."""
    confirmed = worlds[3].silos[ME]
    assert confirmed.survivors == ALL
    check_refused(receive(confirmed, Survivors(id=worlds[0].context.id, survivors=ALL[:9])), "SurvivorProof")


def signatures(world: World, names: tuple[str, ...], survivors: tuple[str, ...], **changes: object) -> dict[str, bytes]:
    """Valid signatures over `survivors` in the world's context with `changes`."""
    membership = world.silos[ME].membership
    statement = survivors_statement(replace(world.context, **changes), membership, survivors)
    return {name: world.identities[name].signing_key.sign(statement) for name in names}


PROOFS = {
    "fewer than t": (lambda w: signatures(w, ALL[:6], ALL), "6 silos, 7 are needed"),
    "nobody": (lambda w: {}, "0 silos, 7 are needed"),
    "over another set": (lambda w: signatures(w, ALL[:9], ALL[:9]), "not signed"),
    "one over another set": (
        lambda w: {**signatures(w, ALL, ALL), **signatures(w, (OTHER,), ALL[:9])},
        "survivors that silo silo-05 saw",
    ),
    "of another attempt": (lambda w: signatures(w, ALL, ALL, id=SECOND_TRY), "not signed"),
    "of another job": (lambda w: signatures(w, ALL, ALL, job_uid="another"), "not signed"),
    "of a stranger": (lambda w: {**signatures(w, ALL, ALL), "silo-99": b"s" * 64}, "not a survivor"),
    "under another name": (
        lambda w: {**signatures(w, ALL, ALL), OTHER: signatures(w, (ME,), ALL)[ME]},
        "not signed",
    ),
}


@pytest.mark.parametrize("attack", PROOFS)
def test_a_false_proof_is_refused(worlds: list[World], attack: str) -> None:
    change, because = PROOFS[attack]
    message = SurvivorProof(id=worlds[0].context.id, signatures=change(worlds[3]))
    check_refused(receive(state_before(worlds, SurvivorProof), message), because)


def test_a_proof_over_another_roster_is_refused(worlds: list[World]) -> None:
    world = worlds[3]
    other = replace(world.silos[ME].membership, digest="sha256:" + "0" * 64)
    statement = survivors_statement(world.context, other, ALL)
    signed = {name: world.identities[name].signing_key.sign(statement) for name in ALL}
    message = SurvivorProof(id=world.context.id, signatures=signed)
    check_refused(receive(world.silos[ME], message), "not signed")


def test_both_share_kinds_of_one_silo_are_never_given(worlds: list[World]) -> None:
    """After answering for all ten survivors, a proof (even t valid signatures) for nine gets no answer."""
    answered = worlds[4].silos[ME]
    (first,) = [message for message in sent_messages(worlds[4], ME) if isinstance(message, Unmask)]
    assert set(first.self_mask_shares) == set(ALL)
    assert first.masking_key_shares == {}
    check_empty(answered)
    again = SurvivorProof(id=worlds[0].context.id, signatures=signatures(worlds[3], ALL[:9], ALL[:9]))
    for message in (Survivors(id=worlds[0].context.id, survivors=ALL[:9]), again):
        assert receive(answered, message) == Step(answered)


def test_split_views_cannot_both_be_proven(worlds: list[World]) -> None:
    """Half the silos see all ten, half see nine; with one colluder signing both, each proof stays below t."""
    world = worlds[2]
    views = {name: ALL if index % 2 else ALL[:9] for index, name in enumerate(ALL[:9])}
    for name, view in views.items():
        world = deliver(world, name, Survivors(id=world.context.id, survivors=view))
    confirmed = {name: world.outgoing[name].message for name in views}
    for view in (ALL, ALL[:9]):
        own = {name: confirmed[name].signature for name in views if views[name] == view}
        proof = SurvivorProof(id=world.context.id, signatures={**own, **signatures(worlds[3], (ALL[8],), view)})
        for name in own:
            check_refused(receive(world.silos[name], proof), "7 are needed")


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
    check_refused(receive(state_before(worlds, waiting_for), honest(worlds, came)), "it came while waiting for")


def test_a_second_start_with_another_adapter_is_refused(worlds: list[World]) -> None:
    context = worlds[0].context
    same = StartAttempt(id=context.id, factor="B", adapter_digest=context.adapter_digest)
    other = StartAttempt(id=context.id, factor="B", **SHOWN_OTHERS)
    assert receive(worlds[1].silos[ME], same) == Step(worlds[1].silos[ME])
    check_refused(receive(worlds[1].silos[ME], other), "StartAttempt")


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


@pytest.mark.parametrize(("threshold", "fits"), [(5, False), (6, False), (7, True), (10, True)])
def test_a_threshold_that_allows_two_views_is_refused(worlds: list[World], threshold: int, fits: bool) -> None:
    context = replace(worlds[0].context, threshold=threshold)
    if fits:
        assert start_silo(context, IDENTITIES[ME], worlds[0].pinned, ENTROPY).effects
    else:
        with pytest.raises(InvalidInput, match=f"threshold {threshold} is below 7"):
            start_silo(context, IDENTITIES[ME], worlds[0].pinned, ENTROPY)


def test_only_pinned_peers_count() -> None:
    """A silo that pins nine of ten refuses the roster of ten rather than sharing with the tenth."""
    world = make_world()
    pinned = {name: key for name, key in world.pinned.items() if name != OTHER}
    narrow = start_silo(world.context, IDENTITIES[ME], pinned, ENTROPY)
    entries = {name: state.advertised for name, state in world.silos.items()} | {ME: narrow.state.advertised}
    roster = Roster(id=world.context.id, entries=tuple(entries.values()))
    check_refused(receive(narrow.state, roster), "silo-05 is not pinned")


def test_a_signature_covers_who_confirmed(worlds: list[World]) -> None:
    (confirmation,) = [m for m in sent_messages(worlds[3], ME) if isinstance(m, ConfirmSurvivors)]
    assert confirmation.signature == signatures(worlds[3], (ME,), ALL)[ME]
    assert public_key(IDENTITIES[ME]) == worlds[0].pinned[ME]

"""For whom a silo unmasks: a false survivor set or proof ends the attempt for it and reveals nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foedus_contract.wire import (
    ConfirmSurvivors,
    SurvivorProof,
    Survivors,
    Unmask,
)
from foedus_workloads.secagg.effects import (
    Step,
)
from foedus_workloads.secagg.membership import survivors_statement
from support.secagg_silo import (
    ALL,
    IDENTITIES,
    ME,
    OTHER,
    SECOND_TRY,
    check_empty,
    check_refused,
    honest_run,
    receive,
    signatures,
    state_before,
)
from support.secagg_world import (
    World,
    deliver,
    make_world,
    play_stage,
    public_key,
    sent_messages,
)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return honest_run()


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


def test_a_signature_covers_who_confirmed(worlds: list[World]) -> None:
    (confirmation,) = [m for m in sent_messages(worlds[3], ME) if isinstance(m, ConfirmSurvivors)]
    assert confirmation.signature == signatures(worlds[3], (ME,), ALL)[ME]
    assert public_key(IDENTITIES[ME]) == worlds[0].pinned[ME]

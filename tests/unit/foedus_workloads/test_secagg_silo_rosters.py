"""With whom a silo shares its secrets: a false roster or delivery ends the attempt for it and reveals nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from foedus_contract.errors import InvalidInput
from foedus_contract.wire import (
    AdvertiseKeys,
    AttemptId,
    DeliverShares,
    MaskedVector,
    Roster,
    ShareKeys,
)
from foedus_workloads.secagg.effects import (
    Contribute,
    Refused,
    Send,
    SiloIdentity,
)
from foedus_workloads.secagg.membership import keys_statement
from foedus_workloads.secagg.silo import start_silo
from support.secagg_silo import (
    ALL,
    ENTROPY,
    IDENTITIES,
    ME,
    OTHER,
    SECOND_TRY,
    SHOWN_OTHERS,
    advertise,
    check_refused,
    honest,
    honest_run,
    receive,
    state_before,
)
from support.secagg_world import (
    World,
    keyed_entropy,
    make_identities,
    make_world,
    of_kind,
    play,
    play_stage,
    sent_messages,
)

Entries = Mapping[str, AdvertiseKeys]
INVENTED = SiloIdentity("silo-99", make_identities(1, seed="invented")["silo-01"].signing_key)
IMPOSTOR = SiloIdentity(OTHER, INVENTED.signing_key)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return honest_run()


def roster_attack(change: Callable[[dict[str, AdvertiseKeys]], object]) -> Callable[[Entries], list[AdvertiseKeys]]:
    def apply(entries: Entries) -> list[AdvertiseKeys]:
        changed = dict(entries)
        result = change(changed)
        return result if isinstance(result, list) else list(changed.values())

    return apply


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

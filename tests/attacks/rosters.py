"""Attacks on who takes part: keys that are not the silos', and silos' own words under other names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attacks.coordinator import MODEL, Puppet, Room, make_party, sign_keys, total_of
from attacks.silos import Integers, Totals
from attacks.views import ALL, HONEST, A, B, C, D, E, F, Result, V, both_kinds, result
from foedus_workloads.secagg.effects import SiloIdentity

SUPPRESSING = "sha256:" + "e" * 64  # the digest of an adapter at which no example has a gradient


def alone_with_puppets(folder: Path, names: tuple[str, ...], *, signed_by: str = "") -> Result:
    """Shows V a roster in which puppets stand under `names`, and reads what V seals for them.

    Their keys are signed by the colluder `signed_by`, or with identities of the coordinator's own.
    """
    party = make_party(folder)
    room = Room(party, party.attempt(0))
    signer = party.colluders.get(signed_by)
    room.puppets |= {
        name: Puppet.of(SiloIdentity(name, signer.signing_key)) if signer else Puppet.invented(name) for name in names
    }
    entries = {name: puppet.advertise(room.context) for name, puppet in room.puppets.items()}
    room.show_roster(V, {V: room.keys[V], **entries})
    room.deliver(V)
    return result(party, room, room.unmask(V))


def invented_keys(folder: Path) -> Result:
    """Keys of the coordinator's own under the honest silos' names."""
    return alone_with_puppets(folder, (A, B, C, D))


def unpinned_silos(folder: Path) -> Result:
    """Silos of the coordinator's invention, in place of the honest ones."""
    return alone_with_puppets(folder, tuple(f"silo-{index}" for index in range(91, 95)))


def small_roster(folder: Path) -> Result:
    """V alone with the two colluders. (V's seed would still need five shares: this check is not the last one.)"""
    return alone_with_puppets(folder, ())


def model_inconsistency(folder: Path) -> Result:
    """Shows the others an adapter at which their gradients vanish: the sum over all is then V's vector.

    Pasquini, Francati and Ateniese, CCS 2022. Without noise, so that this check is seen alone.
    """

    def dull(name: str) -> Totals:
        def total(digest: str) -> Integers:
            return total_of(name) * np.int64(digest == MODEL)

        return total

    party = make_party(folder, totals={name: dull(name) for name in HONEST})
    shown = dict.fromkeys((A, B, C, D), party.attempt(0, adapter_digest=SUPPRESSING))
    room = Room(party, party.attempt(0), contexts=shown)
    room.upload_all()
    room.finish()
    return result(party, room, room.unmask(*HONEST))


def reflection(folder: Path) -> Result:
    """The colluder E signs V's public keys as its own, and V's ciphertexts are delivered as E's, to V too.

    E then counts as lost: everybody gives "E's" masking-key share, which is V's, beside V's self-mask share.
    """
    party = make_party(folder)
    room = Room(party, party.attempt(0))
    own = room.keys[V]
    room.keys[E] = sign_keys(room.context, party.colluders[E], own.encryption_key, own.masking_key)
    for name in HONEST:
        room.show_roster(name)
    if V in room.shared:
        for name in HONEST:
            instead = {E: room.shared[V].ciphertexts[E if name == V else name]}
            room.deliver(name, ALL, instead=instead)
    room.finish(lost=(E,))
    private = room.recover("masking_key_shares", E, told_of=V, unheard=V)
    return result(party, room, room.unmask(V, private=private) if private else None)


def replayed_roster(folder: Path) -> Result:
    """An earlier attempt's roster, whose signatures were all valid, with V's new keys in it.

    (A replayed peer can open nothing, so V's seed stays hidden even where this passes.)
    """
    party = make_party(folder)
    old = Room(party, party.attempt(0))
    room = Room(party, party.attempt(1))
    entries = {name: entry.model_copy(update={"id": room.context.id}) for name, entry in old.keys.items()}
    room.show_roster(V, {**entries, V: room.keys[V]})
    return both_kinds(party, room)


def stolen_names(folder: Path) -> Result:
    """A colluder signs keys for the honest silos' names with its own pinned key."""
    return alone_with_puppets(folder, (A, B, C, D), signed_by=F)

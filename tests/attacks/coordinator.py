"""A coordinator that does as it likes, with the silos that tell it everything: what it can say, keep and compute.

It has the production arithmetic, all that honest silos send, and its puppets' private keys: colluding silos, whose
pinned identities it may sign with, and silos of its own invention.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from attacks.silos import HonestSilo, Integers, Totals, no_noise
from foedus_contract.errors import InvalidInput
from foedus_contract.plan import threshold_for
from foedus_contract.wire import (
    AdvertiseKeys,
    AttemptId,
    ConfirmSurvivors,
    CoordinatorMessage,
    DeliverShares,
    MaskedVector,
    Roster,
    ShareKeys,
    SurvivorProof,
    Survivors,
    Unmask,
)
from foedus_workloads.privacy.noise import Sampler
from foedus_workloads.secagg import keys, masks, shamir
from foedus_workloads.secagg.effects import AttemptContext, SiloIdentity, Vector
from foedus_workloads.secagg.membership import Membership, keys_statement, read_membership, survivors_statement
from support.secagg_world import keyed_entropy, make_identities, public_key

COORDINATES = 4
MODEL = "sha256:" + "2" * 64
JUNK = keys.HeldShares(bytes(shamir.SHARE_BYTES), bytes(shamir.SHARE_BYTES))


def total_of(name: str) -> Integers:
    """What the silo's records sum up to: small integers, as gradients are."""
    seed = int.from_bytes(keyed_entropy("total", name)(4), "big")
    return np.random.default_rng(seed).integers(-500, 500, COORDINATES)


@dataclass(frozen=True)
class Party:
    """The silos of a job: the honest ones run, the colluders' identities are the attacker's."""

    honest: Mapping[str, HonestSilo]
    colluders: Mapping[str, SiloIdentity]
    context: AttemptContext

    def attempt(self, number: int, **changes: object) -> AttemptContext:
        """Attempt `number` of round 0; honest silos are shown this context unless an attack shows another."""
        values = {**vars(self.context), **changes, "id": AttemptId(round=0, attempt=number)}
        return AttemptContext(**values)

    def refusals(self) -> tuple[str, ...]:
        return tuple(reason for silo in self.honest.values() for reason in silo.refusals)


def make_party(
    folder: Path,
    *,
    silos: int = 7,
    colluders: int = 2,
    threshold: int | None = None,
    totals: Mapping[str, Totals] | None = None,
    sampler: Sampler = no_noise,
    noise_scale: float = 1.0,
    reserved: int = 8,
) -> Party:
    """n = 7, c = 2, t = 5 is the tightest case: one colluder more, or t one lower, and two views could be proven."""
    identities = make_identities(silos)
    pinned = {name: public_key(identity) for name, identity in identities.items()}
    context = AttemptContext(
        id=AttemptId(round=0, attempt=0),
        job_uid="5a1f0a52-7b5a-4c3e-9c1c-5d4f7c0e6b11",
        plan_digest="sha256:" + "1" * 64,
        adapter_digest=MODEL,
        threshold=threshold_for(silos) if threshold is None else threshold,
        coordinates=COORDINATES,
    )
    names = sorted(identities)
    honest = {
        name: HonestSilo(
            identities[name],
            pinned,
            folder / name,
            (totals or {}).get(name, lambda _digest, name=name: total_of(name)),
            job_uid=context.job_uid,
            sampler=sampler,
            noise_scale=noise_scale,
            reserved=reserved,
        )
        for name in names[: silos - colluders]
    }
    return Party(honest, {name: identities[name] for name in names[silos - colluders :]}, context)


@dataclass(frozen=True)
class Puppet:
    """A silo whose secrets the attacker holds."""

    identity: SiloIdentity
    encryption_private: X25519PrivateKey
    masking_private: X25519PrivateKey

    @classmethod
    def of(cls, identity: SiloIdentity) -> Puppet:
        return cls(identity, X25519PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def invented(cls, name: str) -> Puppet:
        return cls.of(SiloIdentity(name, Ed25519PrivateKey.generate()))

    def advertise(self, context: AttemptContext) -> AdvertiseKeys:
        encryption = self.encryption_private.public_key().public_bytes_raw()
        masking = self.masking_private.public_key().public_bytes_raw()
        return sign_keys(context, self.identity, encryption, masking)


def sign_keys(context: AttemptContext, identity: SiloIdentity, encryption: bytes, masking: bytes) -> AdvertiseKeys:
    """Any two public keys under a puppet's signature: nobody proves that it holds the private half."""
    statement = keys_statement(context, silo=identity.name, encryption_key=encryption, masking_key=masking)
    signature = identity.signing_key.sign(statement)
    return AdvertiseKeys(
        id=context.id, silo=identity.name, encryption_key=encryption, masking_key=masking, signature=signature
    )


class Room:
    """One attempt under the attacker's hand, and its transcript.

    `contexts` are what single silos are shown in place of `context`.
    """

    def __init__(
        self, party: Party, context: AttemptContext, *, contexts: Mapping[str, AttemptContext] | None = None
    ) -> None:
        self.party, self.context = party, context
        self.puppets = {name: Puppet.of(identity) for name, identity in party.colluders.items()}
        self.keys: dict[str, AdvertiseKeys] = {}
        self.memberships: dict[str, Membership] = {}  # what each honest silo was shown
        self.shared: dict[str, ShareKeys] = {}
        self.opened: dict[str, dict[str, keys.HeldShares]] = {}  # puppet -> honest silo -> its shares
        self.sharers: dict[str, frozenset[str]] = {}
        self.uploads: dict[str, Vector] = {}
        self.signed: dict[tuple[str, tuple[str, ...]], bytes] = {}
        self.answers: list[Unmask] = []
        for name, silo in party.honest.items():
            entry = silo.start((contexts or {}).get(name, context))
            if entry is not None:
                self.keys[name] = entry
        self.keys |= {name: puppet.advertise(context) for name, puppet in self.puppets.items()}

    def say(self, name: str, message: CoordinatorMessage) -> None:
        """Send one message and keep the answer."""
        answer = self.party.honest[name].hear(message)
        match answer:
            case None:
                return
            case ShareKeys() as shared, _:
                self.shared[name] = shared
            case MaskedVector(), payload:
                self.uploads[name] = masks.vector_from_bytes(payload, COORDINATES)
            case ConfirmSurvivors() as confirmed, _:
                assert isinstance(message, Survivors)
                self.signed[name, message.survivors] = confirmed.signature
            case Unmask() as unmask, _:
                self.answers.append(unmask)

    def show_roster(self, name: str, entries: Mapping[str, AdvertiseKeys] | None = None) -> None:
        """Show the roster (everybody's keys unless told otherwise); puppets open what is sealed for them."""
        listed = tuple((self.keys if entries is None else entries).values())
        self.say(name, Roster(id=self.context.id, entries=listed))
        if name in self.shared:
            self.memberships[name] = read_membership(self.context, listed)
            for puppet in self.puppets:
                self._open(puppet, name)

    def _open(self, puppet: str, sender: str) -> None:
        text = self.shared[sender].ciphertexts.get(puppet)
        own = self.memberships[sender].entries.get(puppet)
        private = self.puppets[puppet].encryption_private
        if text is None or own is None or own.encryption_key != private.public_key().public_bytes_raw():
            return
        shares = keys.open_shares(text, private, self.context, self.memberships[sender], sender=sender, receiver=puppet)
        self.opened.setdefault(puppet, {})[sender] = shares

    def deliver(
        self, name: str, senders: Iterable[str] | None = None, *, instead: Mapping[str, bytes] | None = None
    ) -> None:
        """Deliver what `senders` (everybody) sealed for `name`; puppets' shares are junk that opens."""
        if name not in self.shared:
            return
        chosen = {*self.shared, *self.puppets} if senders is None else set(senders)
        texts = {sender: self._text(sender, name) for sender in sorted(chosen - {name} - set(instead or {}))}
        self.sharers[name] = frozenset({name, *chosen})
        self.say(name, DeliverShares(id=self.context.id, ciphertexts={**texts, **(instead or {})}))

    def _text(self, sender: str, receiver: str) -> bytes:
        if sender in self.shared:
            return self.shared[sender].ciphertexts[receiver]
        private = self.puppets[sender].encryption_private
        membership = self.memberships[receiver]
        return keys.seal_shares(JUNK, private, self.context, membership, sender=sender, receiver=receiver)

    def upload_all(self) -> None:
        """Play honestly until every honest silo's vector has arrived."""
        for name in self.party.honest:
            self.show_roster(name)
        for name in self.party.honest:
            self.deliver(name)

    def show_survivors(self, name: str, view: Iterable[str]) -> None:
        self.say(name, Survivors(id=self.context.id, survivors=tuple(sorted(view))))

    def prove(self, name: str, view: Iterable[str], *, others: Mapping[str, bytes] | None = None) -> None:
        """Show what proof there is of `view`: whoever signed it, the colluders, and `others`."""
        if name not in self.memberships:
            return
        survivors = tuple(sorted(view))
        own = {signer: text for (signer, signed), text in self.signed.items() if signed == survivors}
        statement = survivors_statement(self.context, self.memberships[name], survivors)
        colluders = {
            puppet: identity.signing_key.sign(statement)
            for puppet, identity in self.party.colluders.items()
            if puppet in survivors
        }
        self.say(name, SurvivorProof(id=self.context.id, signatures={**(others or {}), **colluders, **own}))

    def finish(self, lost: Iterable[str] = ()) -> None:
        """Play honestly to the end; the vectors of `lost` are taken for lost."""
        view = sorted({*self.uploads, *self.puppets} - set(lost))
        for name in set(view) & set(self.uploads):
            self.show_survivors(name, view)
        for name in set(view) & set(self.uploads):
            self.prove(name, view)

    def recover(self, kind: str, of: str, *, told_of: str = "", unheard: str = "") -> bytes | None:
        """Return the secret behind the shares of `kind` that were given or told, None when they are too few.

        Colluders look for it under `told_of`; the answer of `unheard` is left out.
        """
        points = next(iter(self.memberships.values())).points() if self.memberships else {}
        given = [(answer.silo, getattr(answer, kind)) for answer in self.answers if answer.silo != unheard]
        shares = {points[giver]: by_name[of] for giver, by_name in given if of in by_name}
        told = {points[puppet]: held.get(told_of or of) for puppet, held in self.opened.items()}
        field = {"self_mask_shares": "self_mask", "masking_key_shares": "masking_key"}[kind]
        shares |= {point: getattr(held, field) for point, held in told.items() if held is not None}
        try:
            return shamir.recover(shares, threshold=self.context.threshold)
        except InvalidInput:
            return None

    def unmask(self, *names: str, private: bytes | None = None) -> list[int] | None:
        """Take every mask off the sum of these uploads; None when one cannot be taken off.

        Masks between two of `names` cancel. The others come from the peers' keys, or, for a single upload, from
        its silo's own masking key `private`.
        """
        total = np.zeros(COORDINATES, dtype=np.uint32)
        for name in names:
            seed = self.recover("self_mask_shares", name)
            if name not in self.uploads or seed is None:
                return None
            key = keys.self_mask_key(seed, self.context, self.memberships[name], silo=name)
            total += self.uploads[name] - masks.expand(key, COORDINATES)
            for peer in self.sharers[name] - set(names):
                mask = self._pair_mask(name, peer, private)
                if mask is None:
                    return None
                masks.remove_pair_mask(total, mask, own=name, peer=peer)
        return [int(value) for value in total]

    def _pair_mask(self, name: str, peer: str, private: bytes | None) -> Vector | None:
        own, other, secret = (name, peer, private) if private else (peer, name, self._masking_private(peer))
        if secret is None:
            return None
        holder = X25519PrivateKey.from_private_bytes(secret)
        key = keys.pair_mask_key(holder, self.context, self.memberships[name], own=own, peer=other)
        return masks.expand(key, COORDINATES)

    def _masking_private(self, name: str) -> bytes | None:
        if name in self.puppets:
            return self.puppets[name].masking_private.private_bytes_raw()
        return self.recover("masking_key_shares", name)

"""One silo's side of one attempt of secure aggregation.

Steps (Bonawitz et al. 2017, section 5 and figure 4; section 3 for the primitives, section 4 for double masking).
u is this silo, U1 the roster, U2 the silos that shared, U3 those whose vectors arrived; U1 >= U2 >= U3.

0. Advertise. Draw two X25519 key pairs (c for shares, s for masks); sign both public keys together with job, plan,
   attempt and the adapter's digest.
1. Share. Take a roster only if it holds at least t silos, all pinned here, each signature valid in this silo's own
   context, u's entry as u sent it. Draw a self-mask seed b. Split s's private key and b with threshold t over U1;
   seal silo v's two shares for v alone.
2. Contribute. Take a delivery only if it makes |U2| >= t within U1 and every ciphertext opens. Agree on s_uv.
   Let the driver charge the ledger and compute x; send, mod 2^32,
   y = x + PRG(b) + sum_(v in U2, v > u) PRG(s_uv) - sum_(v in U2, v < u) PRG(s_uv).
3. Confirm. Take a survivor set only if u is in it, it lies in U2 and holds at least t; sign it with the roster.
4. Unmask. Take a proof only if it holds at least t valid signatures of silos in U3 over the very set that u signed.
   Send the share of b for every silo in U3 and the share of s's private key for every silo in U2 without U3.

Adversary: the coordinator, with up to c other silos; it sends anything in any order. The silo therefore checks
everything itself, answers each step once, and ends on the first message that an honest coordinator would not send.

What holds: the two answers of step 4 are of disjoint sets, and there is one answer, so u never gives both kinds of
share of one silo; two sets U3 cannot both be signed t times since 2t > n + c. Secrets leave the state when they are
no longer needed: private keys and masking secrets with step 2, held shares with step 4, all of them on every end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import threshold_for
from foedus_contract.wire import (
    AdvertiseKeys,
    AttemptOver,
    ConfirmSurvivors,
    CoordinatorMessage,
    DeliverShares,
    JobOver,
    MaskedVector,
    Refuse,
    Roster,
    ShareKeys,
    SurvivorProof,
    Survivors,
    Unmask,
    Welcome,
)
from foedus_workloads.secagg import keys, masks, shamir
from foedus_workloads.secagg.effects import (
    AttemptContext,
    Contribute,
    Entropy,
    JournalUnmask,
    JournalUpload,
    Refused,
    Send,
    SiloIdentity,
    Step,
    Vector,
)
from foedus_workloads.secagg.membership import (
    Membership,
    check_pinned,
    check_signature,
    keys_statement,
    read_membership,
    survivors_statement,
)


class SiloStage(Enum):
    """What the silo waits for."""

    ROSTER = "Roster"
    SHARES = "DeliverShares"
    VECTOR = "its own vector"
    SURVIVORS = "Survivors"
    PROOF = "SurvivorProof"
    ENDED = "nothing"


@dataclass(frozen=True)
class SiloAttempt:
    """One silo's state in one attempt; secret fields stay out of its text."""

    context: AttemptContext
    identity: SiloIdentity
    pinned: Mapping[str, bytes]
    stage: SiloStage
    advertised: AdvertiseKeys
    encryption_private: bytes = field(default=b"", repr=False)
    masking_private: bytes = field(default=b"", repr=False)
    self_mask_seed: bytes = field(default=b"", repr=False)
    mask_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    held: Mapping[str, keys.HeldShares] = field(default_factory=dict, repr=False)
    membership: Membership | None = None
    survivors: tuple[str, ...] = ()
    answered: CoordinatorMessage | None = field(default=None, repr=False)

    @property
    def ended(self) -> bool:
        """True when the silo will send nothing more in this attempt."""
        return self.stage is SiloStage.ENDED


def start_silo(
    context: AttemptContext, identity: SiloIdentity, pinned: Mapping[str, bytes], entropy: Entropy
) -> Step[SiloAttempt]:
    """Begin an attempt: fresh keys, advertised under the silo's signature.

    Raises InvalidInput when the threshold is too low for the silos pinned: two survivor sets could then both be
    signed by enough silos.
    """
    least = threshold_for(len({*pinned, identity.name}))
    if context.threshold < least:
        raise InvalidInput(
            f"threshold {context.threshold} is below {least} for the silos that are pinned",
            where="secure aggregation",
            cure="raise spec.aggregation.threshold or leave it out",
            code=ExitCode.INVALID_SPEC,
        )
    encryption_private, masking_private = entropy(keys.KEY_BYTES), entropy(keys.KEY_BYTES)
    public = {
        "encryption_key": keys.public_key(encryption_private),
        "masking_key": keys.public_key(masking_private),
    }
    statement = keys_statement(context, silo=identity.name, **public)
    signature = identity.signing_key.sign(statement)
    message = AdvertiseKeys(id=context.id, silo=identity.name, signature=signature, **public)
    state = SiloAttempt(
        context=context,
        identity=identity,
        pinned=dict(pinned),
        stage=SiloStage.ROSTER,
        advertised=message,
        encryption_private=encryption_private,
        masking_private=masking_private,
    )
    return Step(state, (Send(message),))


def silo_receives(state: SiloAttempt, message: CoordinatorMessage, entropy: Entropy) -> Step[SiloAttempt]:
    """Take one message of the coordinator: the next step's answer, nothing, or a refusal that ends the attempt.

    A message of another attempt and an exact repeat of the one just answered are passed over without an answer.
    """
    if isinstance(message, Welcome | JobOver) or state.ended or message.id != state.context.id:
        return Step(state)
    if message == state.answered:
        return Step(state)
    if isinstance(message, AttemptOver):
        return Step(_without_secrets(state))
    try:
        return _answer(state, message, entropy)
    except InvalidInput as problem:
        return _refuse(state, problem.what)


def silo_contributes(state: SiloAttempt, vector: Vector) -> Step[SiloAttempt]:
    """Mask the vector that `Contribute` asked for; journal it, then send it.

    Nothing is sent when the attempt ended meanwhile. Raises ValueError on a vector of another type or length, and
    when no vector was asked for: both are the driver's defects.
    """
    context, membership = state.context, state.membership
    if state.ended:
        return Step(state)
    if state.stage is not SiloStage.VECTOR or membership is None:
        raise ValueError(f"the silo waits for {state.stage.value}, not for a vector")
    if vector.dtype != np.uint32 or vector.shape != (context.coordinates,):
        raise ValueError(f"the vector must be uint32 of length {context.coordinates}")
    own = state.identity.name
    total = vector.copy()
    key = keys.self_mask_key(state.self_mask_seed, context, membership, silo=own)
    total += masks.expand(key, context.coordinates)
    for peer, key in state.mask_keys.items():
        masks.add_pair_mask(total, masks.expand(key, context.coordinates), own=own, peer=peer)
    payload = masks.vector_to_bytes(total)
    message = MaskedVector(id=context.id, silo=own, coordinates=context.coordinates)
    state = replace(state, stage=SiloStage.SURVIVORS, self_mask_seed=b"", mask_keys={})
    return Step(state, (JournalUpload(context.id, payload), Send(message, payload)))


def _answer(state: SiloAttempt, message: CoordinatorMessage, entropy: Entropy) -> Step[SiloAttempt]:
    match state.stage, message:
        case SiloStage.ROSTER, Roster():
            step = _share(state, message, entropy)
        case SiloStage.SHARES, DeliverShares():
            step = _open(state, message)
        case SiloStage.SURVIVORS, Survivors():
            step = _confirm(state, message)
        case SiloStage.PROOF, SurvivorProof():
            step = _unmask(state, message)
        case _:
            raise InvalidInput(f"{message.kind} came while waiting for {state.stage.value}")
    return replace(step, state=replace(step.state, answered=message))


def _share(state: SiloAttempt, message: Roster, entropy: Entropy) -> Step[SiloAttempt]:
    """Step 1."""
    context, own = state.context, state.identity.name
    membership = read_membership(context, message.entries)
    check_pinned(context, membership, state.advertised, state.pinned)
    seed = entropy(keys.KEY_BYTES)
    names = membership.names
    of_masking_key = shamir.split(state.masking_private, threshold=context.threshold, count=len(names), entropy=entropy)
    of_seed = shamir.split(seed, threshold=context.threshold, count=len(names), entropy=entropy)
    shares = {name: keys.HeldShares(*both) for name, *both in zip(names, of_masking_key, of_seed, strict=True)}
    private = X25519PrivateKey.from_private_bytes(state.encryption_private)
    ciphertexts = {
        peer: keys.seal_shares(both, private, context, membership, sender=own, receiver=peer)
        for peer, both in shares.items()
        if peer != own
    }
    state = replace(
        state,
        stage=SiloStage.SHARES,
        membership=membership,
        self_mask_seed=seed,
        held={own: shares[own]},
    )
    return Step(state, (Send(ShareKeys(id=context.id, silo=own, ciphertexts=ciphertexts)),))


def _open(state: SiloAttempt, message: DeliverShares) -> Step[SiloAttempt]:
    """Step 2, up to the point where the vector is needed."""
    context, own, membership = state.context, state.identity.name, state.membership
    assert membership is not None
    senders = set(message.ciphertexts)
    if own in senders or not senders <= set(membership.entries):
        raise InvalidInput("it names a sender that cannot be one", where="DeliverShares")
    _check_enough(state, len(senders) + 1, where="DeliverShares")
    private = X25519PrivateKey.from_private_bytes(state.encryption_private)
    opened = {
        peer: keys.open_shares(ciphertext, private, context, membership, sender=peer, receiver=own)
        for peer, ciphertext in message.ciphertexts.items()
    }
    # Derived here, so that an unusable key ends the attempt before the ledger is charged.
    masking = X25519PrivateKey.from_private_bytes(state.masking_private)
    agreed = {peer: keys.pair_mask_key(masking, context, membership, own=own, peer=peer) for peer in opened}
    state = replace(state, stage=SiloStage.VECTOR, held={**state.held, **opened}, mask_keys=agreed)
    return Step(replace(state, encryption_private=b"", masking_private=b""), (Contribute(),))


def _confirm(state: SiloAttempt, message: Survivors) -> Step[SiloAttempt]:
    """Step 3."""
    context, membership = state.context, state.membership
    own = state.identity.name
    assert membership is not None
    survivors = tuple(sorted(set(message.survivors)))
    if len(survivors) != len(message.survivors) or not set(survivors) <= set(state.held):
        raise InvalidInput("it names a silo twice or one that did not share", where="Survivors")
    if own not in survivors:
        raise InvalidInput("this silo is not among them", where="Survivors")
    _check_enough(state, len(survivors), where="Survivors")
    signature = state.identity.signing_key.sign(survivors_statement(context, membership, survivors))
    state = replace(state, stage=SiloStage.PROOF, survivors=survivors)
    return Step(state, (Send(ConfirmSurvivors(id=context.id, silo=own, signature=signature)),))


def _unmask(state: SiloAttempt, message: SurvivorProof) -> Step[SiloAttempt]:
    """Step 4."""
    context, membership = state.context, state.membership
    assert membership is not None
    _check_enough(state, len(message.signatures), where="SurvivorProof")
    if not set(message.signatures) <= set(state.survivors):
        raise InvalidInput("it names a signer that is not a survivor", where="SurvivorProof")
    statement = survivors_statement(context, membership, state.survivors)
    pinned = {**state.pinned, state.identity.name: state.identity.signing_key.public_key().public_bytes_raw()}
    for signer, signature in message.signatures.items():
        check_signature(pinned[signer], signature, statement, what=f"the survivors that silo {signer} saw")
    answer = Unmask(
        id=context.id,
        silo=state.identity.name,
        self_mask_shares={name: state.held[name].self_mask for name in state.survivors},
        masking_key_shares={name: both.masking_key for name, both in state.held.items() if name not in state.survivors},
    )
    return Step(_without_secrets(state), (JournalUnmask(context.id, answer), Send(answer)))


def _check_enough(state: SiloAttempt, count: int, *, where: str) -> None:
    if count < state.context.threshold:
        raise InvalidInput(f"{count} silos, {state.context.threshold} are needed", where=where)


def _refuse(state: SiloAttempt, reason: str) -> Step[SiloAttempt]:
    told = Refuse(id=state.context.id, silo=state.identity.name, reason=reason[:512])
    return Step(_without_secrets(state), (Send(told), Refused(reason)))


def _without_secrets(state: SiloAttempt) -> SiloAttempt:
    ended = replace(state, stage=SiloStage.ENDED, mask_keys={}, held={})
    return replace(ended, encryption_private=b"", masking_private=b"", self_mask_seed=b"")

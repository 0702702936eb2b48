"""Who takes part in an attempt: the advertised keys, their one digest, and the checks a reader makes on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from foedus_contract.canonical import digest
from foedus_contract.errors import InvalidInput
from foedus_contract.wire import AdvertiseKeys, keys_to_sign, survivors_to_sign
from foedus_workloads.secagg.effects import AttemptContext


@dataclass(frozen=True)
class Membership:
    """The silos of a roster by name, and the digest that binds keys, shares and signatures to exactly it."""

    entries: Mapping[str, AdvertiseKeys]
    digest: str

    @property
    def names(self) -> tuple[str, ...]:
        """The silos in name order; position + 1 is a silo's point in secret sharing."""
        return tuple(sorted(self.entries))

    def points(self) -> Mapping[str, int]:
        """Return each silo's point in secret sharing."""
        return {name: index + 1 for index, name in enumerate(self.names)}


def read_membership(context: AttemptContext, entries: Iterable[AdvertiseKeys]) -> Membership:
    """Return the membership that `entries` describe; raises InvalidInput on another attempt or a repetition."""
    listed = tuple(entries)
    by_name = {entry.silo: entry for entry in listed}
    keys = {key for entry in listed for key in (entry.encryption_key, entry.masking_key)}
    if any(entry.id != context.id for entry in listed):
        raise InvalidInput("an entry belongs to another attempt", where="roster")
    # A key named twice would let one holder answer under two names (the paper's round 1 makes the same check).
    if len(by_name) != len(listed) or len(keys) != 2 * len(listed):
        raise InvalidInput("a silo or a key is listed twice", where="roster")
    return Membership(by_name, _digest(context, by_name))


def _digest(context: AttemptContext, entries: Mapping[str, AdvertiseKeys]) -> str:
    return digest(
        "foedus/secagg/roster",
        {
            "round": context.id.round,
            "attempt": context.id.attempt,
            "job": context.job_uid,
            "plan": context.plan_digest,
            "adapter": context.adapter_digest,
            "threshold": context.threshold,
            "coordinates": context.coordinates,
            "silos": {
                name: {"encryptionKey": entry.encryption_key, "maskingKey": entry.masking_key}
                for name, entry in entries.items()
            },
        },
    )


def check_pinned(
    context: AttemptContext, membership: Membership, own: AdvertiseKeys, pinned: Mapping[str, bytes]
) -> None:
    """Raise InvalidInput unless the roster is one that the silo which advertised `own` may share secrets with.

    1. At least t silos. 2. Its own entry is there, as it sent it. 3. Every other silo is pinned. 4. Every other
    silo signed its keys for this job, plan and attempt, and was shown the same adapter.
    """
    if len(membership.entries) < context.threshold:
        raise InvalidInput(f"{len(membership.entries)} silos, {context.threshold} are needed", where="roster")
    if membership.entries.get(own.silo) != own:
        raise InvalidInput("this silo's own entry is missing or changed", where="roster")
    for name, entry in membership.entries.items():
        if name == own.silo:
            continue
        if name not in pinned:
            raise InvalidInput(f"silo {name} is not pinned in this silo's policy", where="roster")
        check_keys_signature(context, entry, pinned[name])


def keys_statement(context: AttemptContext, *, silo: str, encryption_key: bytes, masking_key: bytes) -> bytes:
    """Return what a silo signs about its keys of this attempt."""
    return keys_to_sign(
        context.id,
        job_uid=context.job_uid,
        plan_digest=context.plan_digest,
        adapter_digest=context.adapter_digest,
        silo=silo,
        encryption_key=encryption_key,
        masking_key=masking_key,
    )


def survivors_statement(context: AttemptContext, membership: Membership, survivors: tuple[str, ...]) -> bytes:
    """Return what a silo signs about the survivors it was shown."""
    return survivors_to_sign(context.id, job_uid=context.job_uid, roster_digest=membership.digest, survivors=survivors)


def check_keys_signature(context: AttemptContext, entry: AdvertiseKeys, identity: bytes) -> None:
    """Raise InvalidInput unless `identity` signed the entry's keys in this context."""
    statement = keys_statement(
        context, silo=entry.silo, encryption_key=entry.encryption_key, masking_key=entry.masking_key
    )
    check_signature(identity, entry.signature, statement, what=f"the keys of silo {entry.silo}")


def check_signature(identity: bytes, signature: bytes, statement: bytes, *, what: str) -> None:
    """Raise InvalidInput unless `signature` over `statement` is the identity's."""
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, statement)
    except (InvalidSignature, ValueError):
        raise InvalidInput(
            f"{what} are not signed for this attempt by the pinned identity", where="signature"
        ) from None

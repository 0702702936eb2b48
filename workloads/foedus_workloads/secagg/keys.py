"""Keys of one attempt: X25519 agreement, HKDF with everything named, and the sealed pair of shares.

Every derived key names its purpose, the attempt, the job, the roster (and by its digest plan, adapter and all public
keys) and the silos it belongs to. No key is used for two messages, so a constant nonce never repeats under a key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from foedus_contract.canonical import domain_bytes
from foedus_contract.errors import InvalidInput
from foedus_workloads.secagg.effects import AttemptContext
from foedus_workloads.secagg.membership import Membership
from foedus_workloads.secagg.shamir import SHARE_BYTES, parse_share

KEY_BYTES = 32
_NONCE = bytes(12)


class Purpose(Enum):
    """What a derived key is for."""

    SHARES = "shares"  # names: sender, receiver
    PAIR_MASK = "pair-mask"  # names: both, in name order
    SELF_MASK = "self-mask"  # names: the silo


@dataclass(frozen=True)
class HeldShares:
    """The two shares that a silo holds of one silo's secrets; at most one of them ever leaves it."""

    masking_key: bytes = field(repr=False)
    self_mask: bytes = field(repr=False)


def public_key(private: bytes) -> bytes:
    """Return the X25519 public key of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: X25519PrivateKey, public: bytes, *, peer: str) -> bytes:
    """Return the X25519 shared secret; raises InvalidInput on a public key of small order."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise InvalidInput(f"the public key of silo {peer} is not usable", where="roster") from None


def derive_key(
    secret: bytes, context: AttemptContext, membership: Membership, purpose: Purpose, names: tuple[str, ...]
) -> bytes:
    """Return 32 bytes of HKDF-SHA256 (RFC 5869) of `secret` for exactly this use."""
    info = domain_bytes(
        "foedus/secagg/key",
        {
            "purpose": purpose.value,
            "job": context.job_uid,
            "round": context.id.round,
            "attempt": context.id.attempt,
            "roster": membership.digest,
            "silos": names,
        },
    )
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def pair_mask_key(
    private: X25519PrivateKey, context: AttemptContext, membership: Membership, *, own: str, peer: str
) -> bytes:
    """Return the mask key that `own`, holding `private`, has in common with `peer`; the same from either side."""
    secret = agree(private, membership.entries[peer].masking_key, peer=peer)
    return derive_key(secret, context, membership, Purpose.PAIR_MASK, tuple(sorted((own, peer))))


def self_mask_key(seed: bytes, context: AttemptContext, membership: Membership, *, silo: str) -> bytes:
    """Return the key of a silo's self-mask."""
    return derive_key(seed, context, membership, Purpose.SELF_MASK, (silo,))


def seal_shares(
    shares: HeldShares,
    private: X25519PrivateKey,
    context: AttemptContext,
    membership: Membership,
    *,
    sender: str,
    receiver: str,
) -> bytes:
    """Return both shares in one ciphertext that only `receiver` can open, and only within this roster."""
    secret = agree(private, membership.entries[receiver].encryption_key, peer=receiver)
    key = derive_key(secret, context, membership, Purpose.SHARES, (sender, receiver))
    return ChaCha20Poly1305(key).encrypt(_NONCE, shares.masking_key + shares.self_mask, membership.digest.encode())


def open_shares(
    ciphertext: bytes,
    private: X25519PrivateKey,
    context: AttemptContext,
    membership: Membership,
    *,
    sender: str,
    receiver: str,
) -> HeldShares:
    """Return what `sender` sealed for `receiver`; raises InvalidInput on any other ciphertext."""
    secret = agree(private, membership.entries[sender].encryption_key, peer=sender)
    key = derive_key(secret, context, membership, Purpose.SHARES, (sender, receiver))
    try:
        plain = ChaCha20Poly1305(key).decrypt(_NONCE, ciphertext, membership.digest.encode())
    except InvalidTag:
        raise InvalidInput(f"the shares of silo {sender} do not open", where="shares") from None
    shares = HeldShares(plain[:SHARE_BYTES], plain[SHARE_BYTES:])
    parse_share(shares.masking_key)
    parse_share(shares.self_mask)
    return shares

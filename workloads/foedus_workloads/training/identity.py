"""A silo's long-lived Ed25519 key: made on first start, kept beside its ledger, never sent anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract import limits
from foedus_contract.durable import create_durably, read_at_most, unwritable
from foedus_contract.errors import InvalidInput, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.run_spec import KEY_FILE, SiloPolicy

KEY_BYTES = 32


def load_identity(folder: Path, entropy: Callable[[int], bytes]) -> Ed25519PrivateKey:
    """Return the silo's key, made now when there is none.

    Raises InvalidInput when the file is damaged, Unavailable when the volume cannot be used.
    """
    path = folder / KEY_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            create_durably(path, entropy(KEY_BYTES))
        seed = read_at_most(path, KEY_BYTES)
    except OSError as error:
        raise unwritable(path, error) from error
    if len(seed) != KEY_BYTES:
        raise InvalidInput(
            "the identity key is damaged",
            where=str(path),
            cure="restore it; with a new key the peers must pin this silo again",
            code=ExitCode.IDENTITY_REFUSED,
        )
    return Ed25519PrivateKey.from_private_bytes(seed)


def read_policy(path: Path, *, silo: str, own_key: bytes) -> dict[str, bytes] | None:
    """Return the pinned keys by silo, or None while the file is not there.

    Raises Refused unless it pins this silo's own key: it was then made for another key, or another silo.
    """
    try:
        text = read_at_most(path, limits.MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    if len(text) > limits.MAX_MANIFEST_BYTES:
        raise InvalidInput("the policy is too large", where=str(path), cure="pin the job's silos and nothing else")
    pinned = SiloPolicy.from_json(text).pinned
    # A key under two names would let one holder count twice towards the threshold.
    if any(len(key) != KEY_BYTES for key in pinned.values()) or len(set(pinned.values())) < len(pinned):
        raise Refused(
            "the policy pins a key twice, or one that is no Ed25519 key",
            where=str(path),
            cure="pin each silo's own key",
            code=ExitCode.IDENTITY_REFUSED,
        )
    if pinned.get(silo) != own_key:
        raise Refused(
            "the policy does not pin this silo's own key",
            where=str(path),
            cure="pin the key that this silo reports",
            code=ExitCode.IDENTITY_REFUSED,
        )
    return pinned

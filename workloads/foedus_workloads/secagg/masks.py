"""Masks over Z_2^32: a key becomes a vector, pairs of silos add it with opposite signs."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from foedus_contract.errors import InvalidInput
from foedus_workloads.secagg.effects import Vector

_WIRE_TYPE = np.dtype("<u4")


def expand(key: bytes, coordinates: int) -> Vector:
    """Return the ChaCha20 key stream of `key` as `coordinates` little-endian uint32.

    Counter and nonce start at zero: every key is derived for one purpose and one attempt and expanded once on each
    side. The longest vector is 2^20 blocks, far below the counter's 2^32.
    """
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * coordinates))
    return np.frombuffer(stream, dtype=_WIRE_TYPE).astype(np.uint32, copy=False)


def add_pair_mask(total: Vector, mask: Vector, *, own: str, peer: str) -> None:
    """Add to `total`, in place, what silo `own` adds for `peer`: the mask, negated on the later name's side."""
    if own < peer:
        total += mask
    else:
        total -= mask


def remove_pair_mask(total: Vector, mask: Vector, *, own: str, peer: str) -> None:
    """Undo `add_pair_mask(total, mask, own=own, peer=peer)` in place."""
    add_pair_mask(total, mask, own=peer, peer=own)


def vector_to_bytes(vector: Vector) -> bytes:
    """Return the payload of a vector: little-endian uint32."""
    return vector.astype(_WIRE_TYPE, copy=False).tobytes()


def vector_from_bytes(payload: bytes, coordinates: int) -> Vector:
    """Parse a payload; raises InvalidInput unless it is exactly `coordinates` values."""
    if len(payload) != 4 * coordinates:
        raise InvalidInput(f"the vector has {len(payload)} bytes, {4 * coordinates} are needed", where="payload")
    return np.frombuffer(payload, dtype=_WIRE_TYPE).astype(np.uint32, copy=False)

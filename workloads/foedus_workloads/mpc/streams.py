"""Randomness that two parties have in common without talking: one key, one stream for every step.

A component j of a sharing is known to parties j - 1 and j, and so is key j. Both draw the same values from it for a
step and slot; the third party knows nothing of them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from foedus_workloads.mpc.ring import container

KEY_BYTES = 32
_STEP_BYTES, _SLOT_BYTES, _COUNTER_BYTES = 6, 2, 8


class Streams(Protocol):
    """The two keys' streams of one party."""

    def draw(self, component: int, step: int, slot: int, bits: int, shape: tuple[int, ...]) -> Tensor:
        """Return uniform values mod 2^bits of `shape`, from the key of `component`, for exactly this use.

        They are of the smallest type that holds them, whose higher bits mean nothing.
        """
        ...


def expand(key: bytes, step: int, slot: int, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Return `shape` uniform values mod 2^bits from AES-256-CTR under `key`, in the smallest type that holds them.

    Its higher bits mean nothing. The initial counter block is step || slot || 0 with eight bytes of counter: no two
    uses of a key share a block while none draws 2^64 blocks.
    """
    kind = container(bits)
    count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    block = step.to_bytes(_STEP_BYTES, "big") + slot.to_bytes(_SLOT_BYTES, "big") + bytes(_COUNTER_BYTES)
    stream = np.empty(count + 15, dtype=np.uint8)  # update_into wants room for one block more
    Cipher(algorithms.AES256(key), modes.CTR(block)).encryptor().update_into(
        np.zeros(count, np.uint8).data, stream.data
    )
    return torch.from_numpy(stream[:count].view(f"<i{kind.itemsize}")).reshape(shape)


class KeyedStreams:
    """The streams of a party's two keys, each good for one session."""

    def __init__(self, keys: dict[int, bytes]) -> None:
        self._keys = keys

    def draw(self, component: int, step: int, slot: int, bits: int, shape: tuple[int, ...]) -> Tensor:
        """Return uniform values of `shape` as `Streams` says."""
        return expand(self._keys[component], step, slot, bits, shape)

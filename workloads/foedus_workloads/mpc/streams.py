"""Randomness that two parties have in common without talking: one key, one stream for every step.

A component j of a sharing is known to parties j - 1 and j, and so is key j. Both draw the same values from it for a
step and slot; the third party knows nothing of them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from torch import Tensor

from foedus_workloads.mpc.ring import container

KEY_BYTES = 32
_STEP_BYTES, _SLOT_BYTES, _COUNTER_BYTES = 6, 2, 8
_BLOCK_BYTES = 16
_ZEROS = memoryview(bytes(1 << 18))  # what is encrypted, over and over: it stays in the second-level cache
_LONG = 1 << 16  # bytes from which on a context of GCM's own, 6 microseconds, is worth it
_GCM_FIRST = 2  # the counter that GCM encrypts its first block with, under a nonce of 12 bytes
_GCM_MOST = 1 << 35  # bytes: half of what its counter, of 32 bits, is good for


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
    block = _first_block(step, slot)
    return _drawn(key, _encryptor(key, block), block, bits, shape)


def _first_block(step: int, slot: int) -> bytes:
    block = step.to_bytes(_STEP_BYTES, "big") + slot.to_bytes(_SLOT_BYTES, "big")
    return block + bytes(_COUNTER_BYTES)


def _encryptor(key: bytes, block: bytes) -> CipherContext:
    return Cipher(algorithms.AES256(key), modes.CTR(block)).encryptor()


@cache
def _gcm_is_faster() -> bool:
    """Tell whether this CPU encrypts several blocks by one instruction, which OpenSSL uses for GCM and not for CTR."""
    with suppress(OSError):
        return " vaes " in Path("/proc/cpuinfo").read_text()
    return False


def _drawn(key: bytes, context: CipherContext, block: bytes, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Return the stream from `block` on, where the context's counter stands.

    Long ones go on in GCM (NIST SP 800-38D, 6.5), which encrypts in counter mode from its block 2 on: the same stream,
    twice as fast where vectors of blocks are encrypted, although it computes a tag that nobody asks for.
    """
    kind = container(bits)
    count = prod(shape) * kind.itemsize
    stream = np.empty(count + _BLOCK_BYTES - 1, dtype=np.uint8)  # update_into wants room for one block more
    start = 0
    if _LONG <= count <= _GCM_MOST and _gcm_is_faster():
        start = context.update_into(_ZEROS[: _GCM_FIRST * _BLOCK_BYTES], stream.data)
        context = Cipher(algorithms.AES256(key), modes.GCM(block[:-4])).encryptor()
    for at in range(start, count, len(_ZEROS)):
        context.update_into(_ZEROS[: count - at], stream[at:].data)
    return torch.from_numpy(stream[:count].view(f"<i{kind.itemsize}")).reshape(shape)


class KeyedStreams:
    """The streams of a party's two keys, each good for one session."""

    def __init__(self, keys: dict[int, bytes]) -> None:
        self._keys = dict(keys)
        # Set anew for each draw: that costs a twentieth of a new context.
        self._contexts = {component: _encryptor(key, _first_block(0, 0)) for component, key in keys.items()}

    def draw(self, component: int, step: int, slot: int, bits: int, shape: tuple[int, ...]) -> Tensor:
        """Return uniform values of `shape` as `Streams` says."""
        context, block = self._contexts[component], _first_block(step, slot)
        context.reset_nonce(block)
        return _drawn(self._keys[component], context, block, bits, shape)

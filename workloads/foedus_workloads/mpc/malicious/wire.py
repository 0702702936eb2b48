"""Short strings and bits between parties, and tensors of which a plan knows the shape alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foedus_workloads.mpc.ring import WORD_BITS
from foedus_workloads.mpc.rounds import Expected

_LANE_BITS = 16


def as_tensor(content: bytes) -> Tensor:
    """Return bytes as they travel."""
    return torch.frombuffer(bytearray(content), dtype=torch.int8)


def as_bytes(tensor: Tensor) -> bytes:
    """Return the bytes that came; zeros where there is no content."""
    return tensor.numpy().tobytes() if has_content(tensor) else bytes(tensor.numel())


def short(count: int) -> Expected:
    """Return what is expected of `count` bytes."""
    return Expected(torch.int8, (count,))


def has_content(values: Tensor) -> bool:
    """Tell real tensors from a plan's."""
    return values.device.type != "meta"


def pack_bits(bits: Tensor) -> Tensor:
    """Return 0 and 1 as words of 64, the last one filled with zeros."""
    count = bits.numel()
    words = -(-count // WORD_BITS)
    if not has_content(bits):
        return torch.empty(words, dtype=torch.int64, device=bits.device)
    packed = np.zeros(words * 8, np.uint8)
    dense = np.packbits(bits.reshape(-1).to(torch.uint8).numpy(), bitorder="little")
    packed[: dense.size] = dense
    return torch.from_numpy(packed.view(np.int64))


def unpack_bits(words: Tensor, count: int) -> Tensor:
    """Return the first `count` bits of words, as int8."""
    if not has_content(words):
        return torch.empty(count, dtype=torch.int8, device=words.device)
    dense = np.unpackbits(words.contiguous().numpy().view(np.uint8), count=count, bitorder="little")
    return torch.from_numpy(dense.view(np.int8))


def pack_lanes(values: Tensor, width: int) -> Tensor:
    """Return the low `width` bits of words in as few words as lanes of 16 bits allow, filled up with zeros."""
    lanes = -(-width // _LANE_BITS)
    if lanes * _LANE_BITS == WORD_BITS:
        return values
    narrow = values.reshape(-1, 1).view(torch.int16)[:, :lanes].reshape(-1)
    fill = -narrow.numel() % (WORD_BITS // _LANE_BITS)
    return torch.nn.functional.pad(narrow, (0, fill)).view(torch.int64)


def unpack_lanes(words: Tensor, width: int, count: int) -> Tensor:
    """Return the `count` values of `width` bits that `pack_lanes` packed."""
    lanes = -(-width // _LANE_BITS)
    if lanes * _LANE_BITS == WORD_BITS:
        return words
    narrow = words.view(torch.int16)[: count * lanes].reshape(count, lanes)
    full = torch.nn.functional.pad(narrow, (0, WORD_BITS // _LANE_BITS - lanes))
    return full.contiguous().view(torch.int64).reshape(count)

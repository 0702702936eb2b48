"""Z_2^k in int64 tensors, and the one function through which all ring products go.

Arithmetic wraps at 2^64, which maps onto Z_2^k for every k <= 64, so a value may be any representative; `low_bits`
makes it the signed one. It is needed where bits are looked at: before a shift to the right and before the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce

import torch
from torch import Tensor

import foedus_ring
from foedus_ring.passes import Passes, fastest

WORD_BITS = 64
_CONTAINERS = ((8, torch.int8), (16, torch.int16), (32, torch.int32), (64, torch.int64))


@dataclass(frozen=True)
class Ring:
    """Integers mod 2^bits; `bits` is a power of two, 64 in production and small where tests enumerate."""

    bits: int = WORD_BITS


def low_bits(values: Tensor, bits: int) -> Tensor:
    """Return the representatives of `values` mod 2^bits in [-2^(bits-1), 2^(bits-1)), in the type of `values`."""
    spare = 8 * values.element_size() - bits
    return values if spare <= 0 else (values << spare) >> spare


def shift_right(values: Tensor, count: int, bits: int) -> Tensor:
    """Return floor(v / 2^count) for v in [0, 2^bits), the unsigned representative of each value."""
    if count == 0:
        return values
    return (low_bits(values, bits) >> count) & ((1 << (bits - count)) - 1)


def top_bit(values: Tensor, bits: int) -> Tensor:
    """Return bit `bits` - 1 of each value as 0 or 1."""
    return (values >> (bits - 1)) & 1


def carries(left: Tensor, right: Tensor, bits: int) -> Tensor:
    """Return 1 where the unsigned representatives add up to 2^bits or more, else 0."""
    both, either = left & right, left | right
    return top_bit(both | (either & ~(left + right)), bits)


@cache
def container(bits: int) -> torch.dtype:
    """Return the smallest integer type that holds `bits` bits: what a value mod 2^bits is on the wire."""
    return next(kind for size, kind in _CONTAINERS if bits <= size)


def missing_kernels() -> str | None:
    """Return what people are told where neither products nor passes have kernels; None where they have."""
    if foedus_ring.available() != ("torch",):
        return None
    return (
        "foedus-ring was built without a C compiler: shares are computed by torch alone, to the same bits and slower; "
        "install a compiler, then foedus-ring again"
    )


def passes_for(bits: int, words: Sequence[Tensor], narrow: Sequence[Tensor] = ()) -> Passes | None:
    """Return the native passes when they take these operands of the ring: the same bits in one walk through memory.

    What is written in torch beside each use of them is the reference, and runs for all others: small rings, operands
    of different shapes, tensors without content, machines without kernels.
    """
    passes = fastest() if bits == WORD_BITS and _has_content(words[0]) else None
    return passes if passes is not None and passes.takes(words, narrow) else None


def total(terms: Sequence[Tensor], constant: int = 0, bits: int = WORD_BITS) -> Tensor:
    """Return the sum of up to four terms and a constant; of one alone with nothing to add, that one itself."""
    if len(terms) > 1 and (passes := passes_for(bits, terms)):
        return passes.total(terms, constant)
    whole = reduce(torch.add, terms)
    return whole + constant if constant else whole


def combination(terms: Sequence[tuple[Tensor, int]], constant: int = 0) -> Tensor:
    """Return the sum of one or two terms, each times its public factor, and a constant."""
    if passes := passes_for(WORD_BITS, [term for term, _ in terms]):
        return passes.combine(terms, constant)
    return total([term * factor for term, factor in terms], constant)


Factor = Tensor | foedus_ring.Packed
"""A right-hand factor as `matmul` takes it."""


def prepare(right: Tensor) -> Factor:
    """Return the right-hand factor [k, n] in the layout of the fastest kernel here; a batch of them as it is."""
    return foedus_ring.pack(right) if right.dim() == 2 and _has_content(right) else right


def matmul(left: Tensor, right: Factor) -> Tensor:
    """Return the product [..., m, k] x [..., k, n] over Z_2^64."""
    if not _has_content(left):
        assert isinstance(right, Tensor)
        return left @ right
    return foedus_ring.matmul(left, right)


def _has_content(values: Tensor) -> bool:
    """Tell real tensors from those of which a plan knows the shape alone."""
    return not values.is_meta

"""What a party computes by itself for the checks: one native pass each where there are kernels, else torch.

What is written in torch is the reference: a pass gives the same bits. Rows of claims lie one after the other, and zeros
behind them; the random words that they meet are read from place `turn` on, and after their end from their beginning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from foedus_ring import checks
from foedus_ring.checks import fastest
from foedus_workloads.mpc.arithmetic import BOOLEAN, Domain
from foedus_workloads.mpc.malicious.wire import has_content, pack_bits, unpack_bits
from foedus_workloads.mpc.ring import matmul

_WORDS = torch.int64


@dataclass(frozen=True)
class Row:
    """A component of what is claimed: flat, one claim after the other, and zeros behind them."""

    claims: tuple[Tensor, ...] = field(repr=False)

    @cached_property
    def native(self) -> checks.Row | None:
        """Return it as passes take it; None where they do not."""
        return checks.Row(self.claims) if (passes := fastest()) and passes.takes(_WORDS, self.claims) else None

    def at(self, places: range) -> Tensor:
        """Return what lies at these places."""
        return pad(self._whole, (0, max(0, places.stop - self._whole.numel())))[places.start : places.stop]

    @cached_property
    def _whole(self) -> Tensor:
        return torch.cat(self.claims)


def met(random: Tensor, turn: int, places: range) -> Tensor:
    """Return the random words that these places meet."""
    start, count = (places.start + turn) % random.numel(), len(places)
    return torch.cat([random[start : start + count], random[: max(0, start + count - random.numel())]])


def conceal(row: Row, random: Tensor, turn: int, places: range, domain: Domain) -> Tensor:
    """Return a component of claimed factors less that of the random ones that they meet."""
    if not has_content(random):
        return random.new_empty(len(places))
    if (passes := fastest()) and row.native is not None and passes.takes(_WORDS, (random,)):
        return passes.conceal(row.native, random, turn, places, bits=domain is BOOLEAN)
    return domain.subtract(row.at(places), met(random, turn, places))


def remain(
    row: Row,
    random: tuple[Tensor, Tensor, Tensor | None],
    turn: int,
    places: range,
    opened: tuple[Tensor, Tensor | None],
    domain: Domain,
    *,
    first: bool,
) -> Tensor:
    """Return a component of z - c - sigma a - rho b - rho sigma; `random` are c, a and b, `opened` rho and sigma.

    Of squares there is no b and no sigma; `first` says that it is component 0, which has rho sigma.
    """
    operands = [each for each in (*random, *opened) if each is not None]
    if (passes := fastest()) and row.native is not None and passes.takes(_WORDS, operands):
        return passes.remain(row.native, random, turn, places, opened, bits=domain is BOOLEAN, first=first)
    (rho, sigma), a = opened, met(random[1], turn, places)
    gap = domain.subtract(row.at(places), met(random[0], turn, places))
    if random[2] is None or sigma is None:
        return gap - 2 * rho * a - (rho * rho if first else 0)
    terms = domain.add(domain.multiply(sigma, a), domain.multiply(rho, met(random[2], turn, places)))
    return domain.subtract(gap, domain.add(terms, domain.multiply(rho, sigma)) if first else terms)


def project(values: Tensor, coins: Tensor, repetitions: int) -> Tensor:
    """Return [..., rows, inner] -> [rows of all, repetitions]: products with the binary matrix [inner, repetitions].

    Row j of that are the low bits of word j of `coins`.
    """
    rows = values if values.dim() == 2 else values.reshape(-1, values.shape[-1])
    if (passes := fastest()) and has_content(rows) and coins.is_contiguous():
        return passes.project(rows, coins, repetitions)
    if not has_content(rows):
        return rows.new_empty(rows.shape[0], repetitions)
    return matmul(rows, coins[:, None] >> torch.arange(repetitions) & 1)


def flip(words: Tensor, number: Tensor, *, first: bool, base: Tensor | None = None) -> Tensor:
    """Return a component of d + (1 - 2d) q, where d are the words' bits and q numbers, or of the base less that.

    `first` says that it is component 0, which has d.
    """
    numbers = (number,) if base is None else (number, base)
    if (
        (passes := fastest())
        and has_content(number)
        and passes.takes(_WORDS, (words,))
        and passes.takes(number.dtype, numbers)
    ):
        return passes.flip(words, number, first=first, base=base)
    d = unpack_bits(words, number.numel()).to(number.dtype)
    flipped = number * (1 - 2 * d) + (d if first else 0)
    return flipped if base is None else base - flipped


def pack(bits: Tensor, others: Tensor | None = None) -> Tensor:
    """Return bits, or the sum of two bit by bit, as words of 64, the last one filled with zeros."""
    operands = (bits,) if others is None else (bits, others)
    if (passes := fastest()) and has_content(bits) and passes.takes(torch.int8, operands):
        return passes.pack(*operands)
    return pack_bits(bits if others is None else bits ^ others)

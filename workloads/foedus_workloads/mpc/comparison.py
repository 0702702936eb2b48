"""The sign of a secret: the top bit of a window of its bits, by adding two summands in a tree of packed words.

A window is `width` bits from bit `low` on, width = k where it is everything. With |x| < 2^(low + width - 1) its top bit
is the sign of floor(x / 2^low). Adding two summands from which the lowest bits were cut errs by their carry alone: the
sum may be lower by one, which makes some x in [0, 2^low) negative and asks for a unit of 2^low to spare at the range's
lower end.

Steps, for x = m + n mod 2^k, m = x_first + x_second, which first knows, and n = x_dealer, which second and dealer know
(roles as in `party.Roles`); w is the window's width:
1. Each cuts the window out of m or n; several windows lie side by side in a word. In 2 rounds (`known_factor`, on
   Boolean words): share m, and share g = m AND n (a carry arises). p = m XOR n (a carry passes) is local.
2. The carry into the top bit combines the w - 1 bits below it; (g, p) of two neighbouring ranges combine as
   g = g_high XOR (p_high AND g_low), p = p_high AND p_low. log2(w) levels, 1 round each: both ANDs of a range lie next
   to each other in one window, so the first level needs one window an element. From the second level on half of a
   window is used, so the words of two halves of the elements are put into one.
3. The top bit is p_{w-1} XOR that carry.

Cost: 2 + log2(w) rounds; per element w/8 bytes from each party in two rounds, then w/8, w/16, w/32 and so on.
Elements are filled up to a multiple of half a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from foedus_workloads.mpc.arithmetic import BOOLEAN
from foedus_workloads.mpc.conversion import Pair
from foedus_workloads.mpc.known_factor import share_and_multiply
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.primitives import bit_to_arithmetic, carry_words, inject, multiply
from foedus_workloads.mpc.ring import WORD_BITS, container, passes_for, total
from foedus_workloads.mpc.rounds import Operation


@dataclass(frozen=True)
class Window:
    """The bits of a secret that its sign is read from; `width` is a power of two, from 8 to 64 where k is 64.

    For |x| < 2^(low + width - 1), less 2^low where low > 0; an x in [0, 2^low) may then count as negative.
    """

    low: int
    width: int


def whole(party: Party) -> Window:
    """Return the window of all bits."""
    return Window(0, party.ring.bits)


def narrow(party: Party, *, range_bits: int, unit_bits: int) -> Window:
    """Return the smallest window for |x| < 2^range_bits, less a unit, with a unit of at most 2^-unit_bits; 2^0 is 1.

    Signs of x in [0, unit) are not told from those below. Bits are saved where a range is known and a unit can be.
    """
    return window_for(party.fraction, range_bits=range_bits, unit_bits=unit_bits)


def window_for(fraction: int, *, range_bits: int, unit_bits: int) -> Window:
    """Return the same for so many bits after the point."""
    top = fraction + range_bits + 1
    width = next(size for size in (8, 16, 32, 64) if size >= min(top, range_bits + 1 + unit_bits))
    return Window(max(0, top - width), width)


def negative(party: Party, x: Shared, window: Window | None = None) -> Operation[Shared]:
    """Return an arithmetic sharing of 1 where x < 0 and 0 elsewhere: 2 rounds more than `sign`."""
    bit = yield from sign(party, x, window)
    return (yield from bit_to_arithmetic(party, bit))


def sign(party: Party, x: Shared, window: Window | None = None) -> Operation[Shared]:
    """Return a Boolean sharing of 1 where x < 0 and 0 elsewhere: 2 + log2(w) rounds."""
    words = Words(window or whole(party), party.ring.bits)
    passes, arises = yield from carry_words(party, x, words)
    top = passes.map(words.top_bits)
    combined = yield from _first_level(party, passes, arises, words)
    half = 2
    while half < words.window.width:
        combined = yield from _level(party, combined, half, words)
        half *= 2
    signs = top ^ combined.map(words.carries)
    count = prod(x.shape)
    return signs.map(lambda t: t[:count].reshape(x.shape))


@dataclass(frozen=True)
class Words:
    """How windows lie in words: side by side in words of 64 bits; alone where a test's ring is smaller."""

    window: Window
    ring_bits: int

    @property
    def bits(self) -> int:
        """The bits of a word."""
        return WORD_BITS if self.ring_bits == WORD_BITS else self.window.width

    @property
    def lanes(self) -> int:
        """Windows in a word."""
        return self.bits // self.window.width

    def pack(self, terms: Sequence[Tensor]) -> Tensor:
        """Return the windows of all sums of the terms, filled up so that the last level's words are full."""
        low, kind = self.window.low, container(self.window.width)
        count = terms[0].numel()
        fill = -count % (self.bits // 2)
        if native := passes_for(self.bits, terms):
            windows = torch.empty(count + fill, dtype=kind)
            windows[count:] = 0
            native.window(terms, low, windows)
            return windows.view(torch.int64)
        windows = total(terms).reshape(-1) >> low
        return pad(windows, (0, fill)) if self.lanes == 1 else pad(windows.to(kind), (0, fill)).view(torch.int64)

    def raise_bits(self, words: Tensor) -> Tensor:
        """Return the words with each window shifted up: a 0 comes in, which is the carry into the lowest bit.

        The top bit, which decides nothing of the carry into itself, goes out.
        """
        return (words << 1) & self.raised

    @property
    def raised(self) -> int:
        """Return a word with ones where a raised word has a bit of the window."""
        return ~self.pattern(self.window.width, 0, 1)

    def top_bits(self, words: Tensor) -> Tensor:
        """Return the top bit of each window, in the elements' order."""
        lanes = words if self.lanes == 1 else words.view(container(self.window.width))
        return ((lanes >> (self.window.width - 1)) & 1).to(torch.int8)

    def carries(self, words: Tensor) -> Tensor:
        """Return the g bit of each element, in the elements' order.

        Each level has put the second half of the words above the first, the finest halves last, so the place of an
        element's pair in its window, with its bits reversed, says which slice of the words it is in.
        """
        places = self.window.width // 2
        digits = places.bit_length() - 1
        order = [int(f"{place:0{digits}b}"[::-1], 2) if digits else 0 for place in range(places)]
        if words.device.type == "meta":  # a plan wants the shape alone
            return words.new_empty(words.numel() * self.lanes * places, dtype=torch.int8)
        if native := passes_for(self.bits, (words,)):
            return native.carries(words, self.window.width, torch.tensor(order, dtype=torch.int8))
        bits = [
            torch.stack([(words >> (lane * self.window.width + 2 * place + 1)) & 1 for lane in range(self.lanes)], -1)
            for place in order
        ]
        return torch.cat(bits).reshape(-1).to(torch.int8)

    def groups(self, words: Tensor, half: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return both factors, and what is added to their product, where groups of `half` bits are combined in pairs.

        A group holds (g, p) of half/2 elements. What comes of the second half of the words lies above the first's.
        """
        lower, p_places = self.pattern(2 * half, 0, half), 0
        for place in range(0, half, 2):
            p_places |= self.pattern(2 * half, place, 1)
        if native := passes_for(self.bits, (words,)):
            return native.groups(words, half, lower, p_places)
        p_high = (words >> half) & p_places
        parts = p_high | (p_high << 1), words & lower, (words >> half) & lower & ~p_places
        high, low, g = (beside(part, half) for part in parts)
        return high, low, g

    def pattern(self, period: int, offset: int, width: int) -> int:
        """Return a word with `width` ones at `offset` in each period, as a signed 64-bit integer."""
        return _pattern(self.bits, period, offset, width)


def beside(words: Tensor, half: int) -> Tensor:
    """Put the second half of the words above the first: of each 2 `half` bits only the lower `half` are in use."""
    middle = words.shape[0] // 2
    return words[:middle] | (words[middle:] << half)


@cache
def _pattern(bits: int, period: int, offset: int, width: int) -> int:
    word = sum(((1 << width) - 1) << (start + offset) for start in range(0, bits, period))
    return word - (1 << WORD_BITS) if word >> (WORD_BITS - 1) else word


def first_words(party: Party, x: Shared, words: Words) -> Operation[tuple[Shared, Shared]]:
    """Return Boolean sharings of p = m XOR n and g = m AND n (step 1)."""
    step = party.begin()
    roles = step.roles()
    first, second = party.index == roles.first, party.index == roles.second
    known = words.pack((x.own, x.next) if first else (x.next,) if second else (x.own,))
    m, arises = yield from share_and_multiply(party, step, known, BOOLEAN, bits=words.bits)
    # n is 0 but in the component that second and dealer have in common, where m is.
    return (m if first else Shared(m.own, known) if second else Shared(known, m.next)), arises


def _first_level(party: Party, passes: Shared, arises: Shared, words: Words) -> Operation[Shared]:
    """Combine bits 2j + 1 and 2j of the raised words; in those returned g stands at bit 2j + 1 and p at bit 2j."""
    odd, even = words.pattern(2, 1, 1), words.pattern(2, 0, 1)

    def factors(p: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if native := passes_for(words.bits, (p, g)):
            return native.pairs(p, g, words.raised)
        p, g = words.raise_bits(p), words.raise_bits(g)
        return (p & odd) | ((p >> 1) & even), ((g & even) << 1) | (p & even), g & odd

    high_own, low_own, g_own = factors(passes.own, arises.own)
    high_next, low_next, g_next = factors(passes.next, arises.next)
    high, low = Shared(high_own, high_next), Shared(low_own, low_next)
    combined = yield from multiply(party, high, low, BOOLEAN, bits=words.bits)
    return combined ^ Shared(g_own, g_next)


def _level(party: Party, combined: Shared, half: int, words: Words) -> Operation[Shared]:
    """Combine neighbouring groups of `half` bits; the groups left of two words are put into one word."""
    (high_own, low_own, g_own), (high_next, low_next, g_next) = (
        words.groups(part, half) for part in (combined.own, combined.next)
    )
    high, low = Shared(high_own, high_next), Shared(low_own, low_next)
    product = yield from multiply(party, high, low, BOOLEAN, bits=words.bits)
    return product ^ Shared(g_own, g_next)


def larger(party: Party, x: Shared, y: Shared, window: Window | None = None) -> Operation[Shared]:
    """Return max(x, y) element by element, for x - y in the window: 4 + log2(w) rounds."""
    difference = x - y
    smaller = yield from sign(party, difference, window)
    lost = yield from inject(party, [Pair(smaller, difference)])
    return x - lost


def maximum(party: Party, x: Shared, window: Window | None = None) -> Operation[Shared]:
    """Return the maximum over the last dimension, kept as a dimension of one: ceil(log2 n) times `larger`."""
    while (count := x.shape[-1]) > 1:
        half = count // 2
        winners = yield from larger(party, x.columns(0, half), x.columns(half, 2 * half), window)
        if count % 2:
            odd = x.columns(2 * half, count)
            winners = Shared(torch.cat([winners.own, odd.own], -1), torch.cat([winners.next, odd.next], -1))
        x = winners
    return x

"""The sign of a secret: its top bit, by adding two summands bit by bit in a tree of packed words.

Steps, for the top bit of x = m + n mod 2^k, m = x_first + x_second, which first knows, and n = x_dealer, which second
and dealer know (roles as in `party.Roles`):
1. In 2 rounds (`known_factor`, on Boolean words): share m, and share g = m AND n (a carry arises). p = m XOR n (a carry
   passes) is local.
2. The carry into the top bit combines the k - 1 bits below it; (g, p) of two neighbouring ranges combine as
   g = g_high XOR (p_high AND g_low), p = p_high AND p_low. log2(k) levels, 1 round each: both ANDs of a range lie next
   to each other in one word, so the first level needs one word an element. From the second level on half of a word is
   used, so the words of two halves of the elements are put into one.
3. The top bit is p_{k-1} XOR that carry.

Cost for k = 64: 8 rounds; per element 8 bytes from each party in two rounds, then 8, 4, 2, 1, 1/2, 1/4.
Elements are filled up to a multiple of k/2.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from foedus_workloads.mpc.arithmetic import BOOLEAN, multiply
from foedus_workloads.mpc.conversion import bit_to_arithmetic
from foedus_workloads.mpc.known_factor import share_and_multiply
from foedus_workloads.mpc.party import Party, Shared, Step
from foedus_workloads.mpc.ring import WORD_BITS, top_bit
from foedus_workloads.mpc.rounds import Operation


def negative(party: Party, x: Shared) -> Operation[Shared]:
    """Return an arithmetic sharing of 1 where x < 0 and 0 elsewhere: 10 rounds."""
    bit = yield from most_significant_bit(party, x)
    return (yield from bit_to_arithmetic(party, bit))


def most_significant_bit(party: Party, x: Shared) -> Operation[Shared]:
    """Return a Boolean sharing of the top bit of x as words of 0 or 1: 2 + log2(k) rounds."""
    bits, shape = party.ring.bits, x.shape
    count = prod(shape)
    padded = x.map(lambda t: pad(t.reshape(-1), (0, -count % (bits // 2))))
    step = party.begin()
    passes, arises = yield from _first_words(party, step, padded)
    top = passes.map(lambda t: top_bit(t, bits))
    # The carry that comes into the lowest bit is 0: it takes the place of the top bit, which decides nothing here.
    words = yield from _first_level(party, passes.map(lambda t: t << 1), arises.map(lambda t: t << 1))
    half = 2
    while half < bits:
        words = yield from _level(party, words, half)
        half *= 2
    carry = words.map(lambda t: _unpacked(t, bits))
    return (top ^ carry).map(lambda t: t[:count].reshape(shape))


def _first_words(party: Party, step: Step, x: Shared) -> Operation[tuple[Shared, Shared]]:
    """Return Boolean sharings of p = m XOR n and g = m AND n."""
    roles = step.roles()
    if party.index == roles.first:
        known, n = x.own + x.next, Shared(torch.zeros_like(x.own), torch.zeros_like(x.own))
    elif party.index == roles.second:
        known, n = x.next, Shared(torch.zeros_like(x.next), x.next)
    else:
        known, n = x.own, Shared(x.own, torch.zeros_like(x.own))
    m, arises = yield from share_and_multiply(party, step, known, BOOLEAN)
    return m ^ n, arises


def _first_level(party: Party, passes: Shared, arises: Shared) -> Operation[Shared]:
    """Combine bits 2j + 1 and 2j; in the words returned g stands at bit 2j + 1 and p at bit 2j."""
    odd, even = (_pattern(2, offset, 1, party.ring.bits) for offset in (1, 0))
    high = passes.map(lambda t: (t & odd) | ((t >> 1) & even))
    low = Shared(((arises.own & even) << 1) | (passes.own & even), ((arises.next & even) << 1) | (passes.next & even))
    combined = yield from multiply(party, high, low, BOOLEAN)
    return combined ^ arises.map(lambda t: t & odd)


def _level(party: Party, words: Shared, half: int) -> Operation[Shared]:
    """Combine neighbouring groups of `half` bits; the groups left of two words are put into one word.

    A group holds (g, p) of half/2 elements, so the words of both halves of the elements fit beside each other.
    """
    bits = party.ring.bits
    lower, p_places = _pattern(2 * half, 0, half, bits), 0
    for place in range(0, half, 2):
        p_places |= _pattern(2 * half, place, 1, bits)
    g_places = lower & ~p_places

    def beside(t: Tensor) -> Tensor:
        middle = t.shape[0] // 2
        return t[:middle] | (t[middle:] << half)

    def passing(t: Tensor) -> Tensor:
        p_high = (t >> half) & p_places
        return beside(p_high | (p_high << 1))

    high = words.map(passing)
    low = words.map(lambda t: beside(t & lower))
    combined = yield from multiply(party, high, low, BOOLEAN)
    return combined ^ words.map(lambda t: beside((t >> half) & g_places))


def _unpacked(words: Tensor, bits: int) -> Tensor:
    """Return the g bit of each element, in the elements' order.

    Each level has put the second half of the elements above the first, the finest halves last, so the place of an
    element's pair in its word, with its bits reversed, says which slice of the elements it is in.
    """
    places = bits // 2
    width = places.bit_length() - 1
    order = [int(f"{place:0{width}b}"[::-1], 2) if width else 0 for place in range(places)]
    return torch.cat([(words >> (2 * place + 1)) & 1 for place in order])


def _pattern(period: int, offset: int, width: int, bits: int) -> int:
    """Return a word of `bits` bits with `width` ones at `offset` in each period, as a signed 64-bit integer."""
    word = sum(((1 << width) - 1) << (start + offset) for start in range(0, bits, period))
    return word - (1 << WORD_BITS) if word >> (WORD_BITS - 1) else word


def larger(party: Party, x: Shared, y: Shared) -> Operation[Shared]:
    """Return max(x, y) element by element, for |x - y| < 2^(k-1): 11 rounds."""
    difference = x - y
    smaller = yield from negative(party, difference)
    lost = yield from multiply(party, difference, smaller)
    return x - lost


def maximum(party: Party, x: Shared) -> Operation[Shared]:
    """Return the maximum over the last dimension, kept as a dimension of one: 11 ceil(log2 n) rounds."""
    while (count := x.shape[-1]) > 1:
        half = count // 2
        winners = yield from larger(party, x.columns(0, half), x.columns(half, 2 * half))
        odd = x.columns(2 * half, count)
        x = Shared(torch.cat([winners.own, odd.own], -1), torch.cat([winners.next, odd.next], -1))
    return x

"""The sign of a secret, in place of CrypTen's: one masked opening, then a tree of packed words.

Steps, for the top bit of x:
1. The dealer deals r and the words of its bits. Open c = x + r: uniform, and not seen by the dealer. x = c - r, so its
   top bit is c's XOR r's XOR the borrow, which is whether the 63 bits of c below are less than those of r.
2. A borrow arises at a place (g) where r has a bit and c has none, and passes (p) where they are equal. Of two
   neighbouring places g = g_high XOR (p_high AND g_low), p = p_high AND p_low. In the bits of r both are linear, but
   for the AND of two neighbouring bits of r, which the dealer deals: the first level is local.
3. Five more levels, 1 round each. A range of places holds (g, p) in two bits; at each level half of a word gets free,
   and the words of the two halves of the elements are put into one.
4. To a number (`bits_to_numbers`): the dealer deals random bits as words and as numbers, the masked bits are opened.

Cost: 7 rounds and about 24 bytes an element to each other party. CrypTen's takes 8 rounds for each doubling of the
parties' number and 216 bytes. Elements are filled up to a multiple of 32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from foedus_workloads.mpc.crypten.beaver import conjunction, multiply
from foedus_workloads.mpc.crypten.deals import EVEN, bits, logical_shift, packed_bits
from foedus_workloads.mpc.crypten.openings import Opening, Operation
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.ring import WORD_BITS

_ODD = (EVEN << 1) - (1 << WORD_BITS)  # as the signed integer that it is in a tensor
_PER_WORD = WORD_BITS // 2  # elements whose (g, p) are in one word at the end


def negative(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return the share of 1 where x < 0 and 0 elsewhere: 7 rounds."""
    shape, count = tuple(x.shape), x.numel()
    packed = yield from _signs(party, pad(x.reshape(-1), (0, -count % _PER_WORD)))
    numbers = yield from bits_to_numbers(party, packed)
    return numbers[:count].reshape(shape)


def _signs(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return Boolean shares of the top bits, 32 a word at its odd places."""
    mask, r, both = party.deals.take(bits(tuple(x.shape)))
    opened = yield Opening(sums=(x + mask,))
    (c,) = opened.sums
    top = logical_shift(party.xor_public(r, c), WORD_BITS - 1) << 1  # at the place of g
    words = _first_level(party, r << 1, both, ~(c << 1))
    half = 2
    while half < WORD_BITS:
        words, top = (yield from _level(party, words, half)), _beside(top, half)
        half *= 2
    return words ^ top


def _first_level(party: Party, s: Tensor, both: Tensor, n: Tensor) -> Tensor:
    """Combine places 2j + 1 and 2j, of r's bits s and c's complement n: g at bit 2j + 1, p at bit 2j; local.

    g_high XOR (p_high AND g_low) = s1 n1 + n0 (s1 s0) + n1 n0 s0, p_high AND p_low = (s1 + n1)(s0 + n0), + being XOR.
    The lowest place, into which no borrow comes, has s0 = 0 and so no g; its p decides nothing.
    """
    s1, n1, s0, n0 = (s >> 1) & EVEN, (n >> 1) & EVEN, s & EVEN, n & EVEN
    both = both & EVEN  # a share has bits everywhere
    arises = (s1 & n1) ^ (n0 & both) ^ (n1 & n0 & s0)
    passes = party.xor_public(both ^ (n0 & s1) ^ (n1 & s0), n1 & n0)
    return (arises << 1) | passes


def _level(party: Party, words: Tensor, half: int) -> Operation[Tensor]:
    """Combine neighbouring ranges, of `half` bits each with all elements' in them; half as many words come out."""
    lower = _pattern(2 * half, range(half))
    passes = _pattern(2 * half, range(0, half, 2))
    arises = lower & ~passes
    p_high = (words >> half) & passes
    combined = yield from conjunction(party, _beside(p_high | (p_high << 1), half), _beside(words & lower, half))
    return combined ^ _beside((words >> half) & arises, half)


def _beside(words: Tensor, half: int) -> Tensor:
    """Put the second half of the elements above the first: of each 2 `half` bits only the lower `half` are in use."""
    middle = words.shape[0] // 2
    return words[:middle] | (words[middle:] << half)


def _unpacked(words: Tensor) -> Tensor:
    """Return the odd places' bits in the order of the elements, as numbers of 0 or 1.

    The finest halves were put together last, so an element's place in its word, with its bits reversed, is the slice of
    the elements in which it stands.
    """
    width = _PER_WORD.bit_length() - 1
    places = [int(f"{slice_:0{width}b}"[::-1], 2) for slice_ in range(_PER_WORD)]
    return torch.cat([(words >> (2 * place + 1)) & 1 for place in places])


def bits_to_numbers(party: Party, words: Tensor) -> Operation[Tensor]:
    """Return shares, as numbers, of the bits that `_unpacked` finds in Boolean words: 1 round.

    With b = z XOR r, z opened: b = r + z - 2 r z.
    """
    masks, numbers = party.deals.take(packed_bits(words.numel(), _unpacked))
    opened = yield Opening(words=((words ^ masks) & _ODD,))
    z = _unpacked(opened.words[0])
    return party.add_public(numbers * (1 - 2 * z), z)


def larger(party: Party, x: Tensor, y: Tensor) -> Operation[Tensor]:
    """Return the share of max(x, y) element by element, for |x - y| < 2^63: 8 rounds."""
    difference = x - y
    smaller = yield from negative(party, difference)
    return x - (yield from multiply(party, difference, smaller))


def maximum(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return the maximum over the last dimension, kept as a dimension of one: 8 ceil(log2 n) rounds."""
    while (count := x.shape[-1]) > 1:
        half = count // 2
        winners = yield from larger(party, x[..., :half], x[..., half : 2 * half])
        x = torch.cat([winners, x[..., 2 * half :]], -1)
    return x


def _pattern(period: int, places: range) -> int:
    """Return a word with ones at `places` of each period, as a signed integer."""
    return _signed(sum(1 << (start + place) for start in range(0, WORD_BITS, period) for place in places))


def _signed(word: int) -> int:
    return word - (1 << WORD_BITS) if word >> (WORD_BITS - 1) else word

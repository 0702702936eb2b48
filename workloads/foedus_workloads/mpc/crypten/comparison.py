"""The sign of a secret, in place of CrypTen's: one masked opening, then a tree of packed words.

It is read from a window of w bits, as in `mpc/comparison.py`. Of n shares from which the lowest bits are cut, the sum
may be lower by up to n - 1 units, so `window` takes a smaller unit for more parties. Cut at bit 0, a window is exact.

Steps, for the top bit of a window x, all values mod 2^w:
1. The dealer deals r and the words of its bits. Open c = x + r: uniform, and not seen by the dealer. x = c - r, so its
   top bit is c's XOR r's XOR the borrow, which is whether the w - 1 bits of c below are less than those of r.
2. A borrow arises at a place (g) where r has a bit and c has none, and passes (p) where they are equal. Of two
   neighbouring places g = g_high XOR (p_high AND g_low), p = p_high AND p_low. In the bits of r both are linear, but
   for the AND of two neighbouring bits of r, which the dealer deals: the first level is local.
3. log2(w) - 1 more levels, 1 round each. A range of places holds (g, p) in two bits; at each level half of a window
   gets free, and the words of the two halves of the elements are put into one.
4. To a number (`bits_to_numbers`): the dealer deals random bits as words and as numbers, the masked bits are opened.

Cost: 1 + log2(w) rounds; to each other party w/8 bytes an element and the same again for the levels: 24, 12 and 6 bytes
for 64, 32 and 16 bits. CrypTen's takes 8 rounds for each doubling of the parties' number and 216 bytes. Elements are
filled up to a multiple of 32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foedus_workloads.mpc.comparison import Window, Words, beside, window_for
from foedus_workloads.mpc.crypten.beaver import conjunction, multiply
from foedus_workloads.mpc.crypten.deals import EVEN, bits, packed_bits
from foedus_workloads.mpc.crypten.openings import Opening, Operation
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.ring import WORD_BITS, container

_ODD = (EVEN << 1) - (1 << WORD_BITS)  # as the signed integer that it is in a tensor
WHOLE = Window(0, WORD_BITS)


def window(party: Party, *, range_bits: int, unit_bits: int) -> Window:
    """Return the smallest window for |x| < 2^range_bits, less a unit, with a unit of at most 2^-unit_bits; 2^0 is 1."""
    return window_for(party.fraction, range_bits=range_bits, unit_bits=unit_bits + (party.parties - 2).bit_length())


def negative(party: Party, x: Tensor, at: Window = WHOLE) -> Operation[Tensor]:
    """Return the share of 1 where x < 0 and 0 elsewhere: 1 + log2(w) rounds."""
    words = Words(at, WORD_BITS)
    packed = yield from _signs(party, words.pack([x]), words)
    numbers = yield from bits_to_numbers(party, packed, words)
    return numbers[: x.numel()].reshape(x.shape)


def _signs(party: Party, x: Tensor, words: Words) -> Operation[Tensor]:
    """Return Boolean shares of the top bits of windows, 32 a word at its odd places."""
    mask, r, both = party.deals.take(bits(x.shape[0], words))
    kind = container(words.window.width)
    opened = yield Opening(sums=(x.view(kind) + mask.view(kind),))
    c = opened.sums[0].view(torch.int64)
    # At the place of g, the second one of a window.
    top = ((party.xor_public(r, c) >> (words.window.width - 1)) & words.pattern(words.window.width, 0, 1)) << 1
    combined = _first_level(party, words.raise_bits(r), both, ~words.raise_bits(c))
    half = 2
    while half < words.window.width:
        combined, top = (yield from _level(party, combined, half, words)), beside(top, half)
        half *= 2
    return combined ^ top


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


def _level(party: Party, combined: Tensor, half: int, words: Words) -> Operation[Tensor]:
    """Combine neighbouring ranges, of `half` bits each with all elements' in them; half as many words come out."""
    high, low, arises = words.groups(combined, half)
    return (yield from conjunction(party, high, low)) ^ arises


def bits_to_numbers(party: Party, packed: Tensor, words: Words) -> Operation[Tensor]:
    """Return shares, as numbers, of the bits at the odd places of Boolean words: 1 round.

    With b = z XOR r, z opened: b = r + z - 2 r z.
    """
    masks, numbers = party.deals.take(packed_bits(packed.numel(), words))
    opened = yield Opening(words=((packed ^ masks) & _ODD,))
    z = words.carries(opened.words[0]).to(torch.int64)
    return party.add_public(numbers * (1 - 2 * z), z)


def larger(party: Party, x: Tensor, y: Tensor, at: Window = WHOLE) -> Operation[Tensor]:
    """Return the share of max(x, y) element by element, for x - y in the window: 2 + log2(w) rounds."""
    difference = x - y
    smaller = yield from negative(party, difference, at)
    return x - (yield from multiply(party, difference, smaller))


def maximum(party: Party, x: Tensor, at: Window = WHOLE) -> Operation[Tensor]:
    """Return the maximum over the last dimension, kept as a dimension of one: ceil(log2 n) times `larger`."""
    while (count := x.shape[-1]) > 1:
        half = count // 2
        winners = yield from larger(party, x[..., :half], x[..., half : 2 * half], at)
        x = torch.cat([winners, x[..., 2 * half :]], -1)
    return x

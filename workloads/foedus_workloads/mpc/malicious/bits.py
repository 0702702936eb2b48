"""Check C: random bits that are numbers too, made ahead, and conversions by opening one masked bit.

Ahead, for c comparisons of n units (`buckets`):
1. The parties draw c + 1 rows of n units of random bits r, each component from the stream of its two holders; the last
   unit of row 0 is zero, and no message makes it. They convert them to numbers q mod 2^w as in `Replicated3PC`
   (`conversion`): b = e XOR n, e known to one party, n to two. The party that knows e may share another number, and the
   two others may send wrong summands; so a number may be wrong by one that is zero exactly when all follow the steps,
   whatever the bit is.
2. They toss coins, when all q have arrived, and turn each row but row 0 by them.
3. For each bit r of row 0 and the r' that it meets in each other row they open d = r XOR r', which is uniform.
4. q - d - (1 - 2d) q' is zero mod 2^w if both are right: into the transcripts. If q is wrong by x and q' by y, it is
   x - (1 - 2d) y: zero only for y = x or y = -x.
What is left of row 0 without filling converts bits. To convert b:
5. They open d = b XOR r, which is uniform, for r is used once more and no party knows more than two of its components.
   The number is d + (1 - 2d) q. Nothing is left to check but the opening.

In step 3 r hides behind r', in step 5 b behind r. Whether a wrong q is found out has nothing to do with what it is used
for, so it may be used before the transcripts are compared. A party that is sent a false d goes on with other shares
than the others; that its two holders differ in d is noted already, and what it sends is masked afresh until the session
ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from foedus_workloads.mpc.arithmetic import BOOLEAN
from foedus_workloads.mpc.conversion import bit_to_arithmetic
from foedus_workloads.mpc.malicious.buckets import fit
from foedus_workloads.mpc.malicious.coins import Coins
from foedus_workloads.mpc.malicious.local import flip, pack
from foedus_workloads.mpc.malicious.opening import open_to_all
from foedus_workloads.mpc.malicious.transcripts import Transcripts
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.ring import WORD_BITS
from foedus_workloads.mpc.rounds import Operation

_BITS = 0  # slot


@dataclass(frozen=True)
class Numbers:
    """Random bits, and the same as numbers; in one dimension."""

    bit: Shared
    number: Shared

    @property
    def count(self) -> int:
        """How many."""
        return self.bit.own.numel()

    def part(self, start: int, stop: int) -> Numbers:
        """Return those from start to stop."""
        return Numbers(*(each.map(lambda t: t[start:stop]) for each in (self.bit, self.number)))

    def turned(self, places: int) -> Numbers:
        """Return all from one place on, and then those before it."""
        return self.part(places, self.count) + self.part(0, places)

    def filled(self, count: int) -> Numbers:
        """Return all, and `count` zeros."""
        return Numbers(*(each.map(lambda t: pad(t, (0, count))) for each in (self.bit, self.number)))

    def __add__(self, other: Numbers) -> Numbers:
        return Numbers(_joined(self.bit, other.bit), _joined(self.number, other.number))


def convert(party: Party, bit: Shared, random: Numbers, transcripts: Transcripts) -> Operation[Shared]:
    """Return bits as numbers, in the random numbers' type: 1 round (step 5)."""
    flat = bit.map(lambda t: t.reshape(-1).to(torch.int8))
    (d,) = yield from _opened(party, flat, [random.bit], transcripts)
    number = Shared(
        flip(d, random.number.own, first=party.index == 0), flip(d, random.number.next, first=party.following == 0)
    )
    return number.map(lambda t: t.reshape(bit.shape))


def make_bits(
    party: Party, width: int, count: int, tossed: Operation[Coins], transcripts: Transcripts
) -> Operation[Numbers]:
    """Return at least `count` random bits as numbers mod 2^width: 5 rounds, and a comparison (steps 1 to 4)."""
    buckets = fit(count)
    shape = ((buckets.depth + 1) * buckets.size - buckets.width,)
    step = party.begin()
    drawn = (step.draw_narrow(component, _BITS, shape, 8) & 1 for component in (party.index, party.following))
    random = Shared(*drawn)
    numbers = Numbers(random, (yield from bit_to_arithmetic(party, random, bits=width)))
    coins = yield from tossed
    first = numbers.part(0, buckets.most)
    row = first.filled(buckets.width)
    turns = [coins.turn(number, buckets.units) * buckets.width for number in range(buckets.depth)]
    places = range(buckets.most, shape[0], buckets.size)
    others = [numbers.part(place, place + buckets.size).turned(t) for place, t in zip(places, turns, strict=True)]
    yield from compare_rows(party, width, row, others, transcripts)
    return first


def compare_rows(
    party: Party, width: int, row: Numbers, others: Sequence[Numbers], transcripts: Transcripts
) -> Operation[None]:
    """Compare random bits, which are claimed to be numbers, with others: 1 round (steps 3 and 4)."""
    opened = yield from _opened(party, row.bit, [each.bit for each in others], transcripts)
    for other, d in zip(others, opened, strict=True):
        own = flip(d, other.number.own, first=party.index == 0, base=row.number.own)
        following = flip(d, other.number.next, first=party.following == 0, base=row.number.next)
        transcripts.zero(own, following, width)


def _opened(party: Party, secret: Shared, masks: Sequence[Shared], transcripts: Transcripts) -> Operation[list[Tensor]]:
    """Return bits, under each of the masks, at every party: 1 round, 64 to a word."""
    words = [Shared(pack(secret.own, mask.own), pack(secret.next, mask.next)) for mask in masks]
    return (yield from open_to_all(party, words, BOOLEAN, transcripts, bits=WORD_BITS))


def _joined(x: Shared, y: Shared) -> Shared:
    return Shared(torch.cat([x.own, y.own]), torch.cat([x.next, y.next]))

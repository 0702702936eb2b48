"""Bits to numbers, and check C: conversions against random ones in shuffled buckets.

A conversion is computed as in `Replicated3PC` (`conversion`): b = e XOR n, e known to one party, n to two, 2 rounds.
The
party that knows e may share another number, and the two others may send wrong summands; so the value may be wrong by a
number that is zero exactly when all follow the steps, whatever the bit is.

Check, for claims (b, v) that v mod 2^w is the bit b, n units of them (`buckets`):
1. The parties draw n B units of random bits r, each component from the stream of its two holders, and convert them
   in the same way to numbers q.
2. They toss coins, when all v and q have arrived, and order the random units by them.
3. For each claim and each random bit of its bucket they open d = b XOR r, which is uniform.
4. v - d - (1 - 2d) q is zero mod 2^w if both are right: into the transcripts.
If the claim is wrong by x and the random number by y, step 4 gives x - (1 - 2d) y: zero only for y = x or y = -x.

What the comparison of transcripts shows a party of the difference is that there is one: see there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from foedus_workloads.mpc.arithmetic import BOOLEAN
from foedus_workloads.mpc.conversion import bit_to_arithmetic
from foedus_workloads.mpc.malicious.buckets import fit
from foedus_workloads.mpc.malicious.claims import BitClaim, joined, taken
from foedus_workloads.mpc.malicious.coins import Coins
from foedus_workloads.mpc.malicious.opening import open_to_all
from foedus_workloads.mpc.malicious.transcripts import Transcripts
from foedus_workloads.mpc.malicious.wire import pack_bits, unpack_bits
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.ring import WORD_BITS
from foedus_workloads.mpc.rounds import Operation

_BITS = 0  # slot


def check_bits(
    party: Party, width: int, claims: Sequence[BitClaim], tossed: Operation[Coins], transcripts: Transcripts
) -> Operation[None]:
    """Check conversions to numbers mod 2^width: 5 rounds, whose comparison is left to the transcripts."""
    buckets = fit(sum(claim.count for claim in claims))
    shape = (buckets.units * buckets.depth, buckets.width)
    step = party.begin()
    drawn = (step.draw_narrow(component, _BITS, shape, 8) & 1 for component in (party.index, party.following))
    random = Shared(*drawn)
    numbers = yield from bit_to_arithmetic(party, random, bits=width)
    coins = yield from tossed
    order = coins.order(shape[0])
    bit, value = (
        joined(parts, buckets.size).map(lambda t: t.reshape(-1, buckets.width))
        for parts in ([claim.bit for claim in claims], [claim.value for claim in claims])
    )
    places = [order[place * buckets.units : (place + 1) * buckets.units] for place in range(buckets.depth)]
    masked = [bit ^ taken(random, chosen) for chosen in places]
    words = [each.map(pack_bits) for each in masked]
    opened = yield from open_to_all(party, words, BOOLEAN, transcripts, bits=WORD_BITS)
    for chosen, each in zip(places, opened, strict=True):
        d = unpack_bits(each, buckets.size).reshape(-1, buckets.width).to(torch.int64)
        rest = value - taken(numbers, chosen) * (1 - 2 * d)
        rest = party.add_public(rest, -d)
        transcripts.zero(rest.own, rest.next, width)

"""The words from which a sign is read: three components added up to two numbers, whose carries a tree combines.

Each component x_i has two holders, so its window's bits are a Boolean sharing that needs no message: component i is the
window, the others are 0. (A party that knows two components would have to be believed their sum.)
1. s = X_0 XOR X_1 XOR X_2 is shared with the windows as its components.
2. Majority m = ((X_0 XOR X_2) AND (X_1 XOR X_2)) XOR X_2: one AND a bit. X_0 + X_1 + X_2 = s + 2m.
3. p = s XOR 2m says where a carry passes, g = s AND 2m where one arises: one AND a bit. `mpc.comparison` does the rest,
   with ANDs that are claimed like these.

Cutting a window off three numbers loses up to two carries from below, where two numbers lose one: an x in [0, 2 units)
may count as negative.
Cost: 2 rounds and two windows a party, as for parties that follow the protocol.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foedus_workloads.mpc.arithmetic import BOOLEAN
from foedus_workloads.mpc.comparison import Words
from foedus_workloads.mpc.malicious.record import Record
from foedus_workloads.mpc.party import PARTIES, Party, Shared
from foedus_workloads.mpc.rounds import Operation


def carry_words(record: Record, party: Party, x: Shared, words: Words) -> Operation[tuple[Shared, Shared]]:
    """Return Boolean sharings of p and g."""
    s = x.map(lambda value: words.pack([value]))
    left, right, third = (_only(party, s, components) for components in ({0, 2}, {1, 2}, {2}))
    majority = (yield from record.multiply(party, left, right, BOOLEAN, bits=words.bits)) ^ third
    carried = majority.map(words.raise_bits)
    arises = yield from record.multiply(party, s, carried, BOOLEAN, bits=words.bits)
    return s ^ carried, arises


def _only(party: Party, s: Shared, components: set[int]) -> Shared:
    """Return the XOR of some components, as a sharing."""

    def one(component: int, value: Tensor) -> Tensor:
        return value if component % PARTIES in components else torch.zeros_like(value)

    return Shared(one(party.index, s.own), one(party.following, s.next))

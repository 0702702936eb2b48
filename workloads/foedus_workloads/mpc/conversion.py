"""From a Boolean bit to an arithmetic one, and selection by it.

Steps for b = b_first XOR b_second XOR b_dealer (roles as in `party.Roles`): first knows e = b_first XOR b_second,
second and dealer know n = b_dealer, and b = e + n - 2 e n. `known_factor` shares e and e n in 2 rounds, the rest is
local.
"""

from __future__ import annotations

import torch

from foedus_workloads.mpc.arithmetic import ARITHMETIC, multiply
from foedus_workloads.mpc.known_factor import share_and_multiply
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.rounds import Operation


def bit_to_arithmetic(party: Party, bit: Shared) -> Operation[Shared]:
    """Return an arithmetic sharing of Boolean words of 0 or 1: 2 rounds, one element a party in both together."""
    step = party.begin()
    roles = step.roles()
    zero = torch.zeros_like(bit.own)
    if party.index == roles.first:
        known, n = bit.own ^ bit.next, Shared(zero, zero)
    elif party.index == roles.second:
        known, n = bit.next, Shared(zero, bit.next)
    else:
        known, n = bit.own, Shared(bit.own, zero)
    e, both = yield from share_and_multiply(party, step, known, ARITHMETIC)
    return e + n - both * 2


def select(party: Party, bit: Shared, x: Shared, y: Shared) -> Operation[Shared]:
    """Return x where the arithmetic bit is 1 and y where it is 0: 1 round, one element a party."""
    chosen = yield from multiply(party, bit, x - y)
    return y + chosen

"""Division by 2^t, rounded probabilistically; CrypTen's errs by 2^(64-t) with probability |x| / 2^64, and is not used.

Escudero et al., "Improved Primitives for MPC over Mixed Arithmetic-Binary Circuits", CRYPTO 2020, section 5, with the
mask from the dealer. Steps, for |x| < 2^62, all values mod 2^64 and unsigned:
1. The dealer deals r, floor(r / 2^t) and the top bit of r.
2. Open c = x' + r, where x' = x + 2^62 lies in [0, 2^63).
3. x' = c + 2^64 w - r with w = top bit of r where c has none, else 0: so the share of w is local, and
   floor(c / 2^t) + 2^(64-t) w - floor(r / 2^t) is floor(x' / 2^t) or one more. Take off 2^(62-t).

c is uniform, and the dealer, who knows r, does not see it. The result is x / 2^t rounded up with the probability of its
fraction, and down else: no bias, and an error below one unit of the last place whatever x is.

Cost: 1 round, 8 bytes to each other party; the dealer sends 16.
"""

from __future__ import annotations

from torch import Tensor

from foedus_workloads.mpc.crypten.deals import cut, logical_shift
from foedus_workloads.mpc.crypten.openings import Opening, Operation
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.ring import WORD_BITS

_ROOM = WORD_BITS - 2


def truncate(party: Party, x: Tensor, count: int) -> Operation[Tensor]:
    """Return the share of x / 2^count, rounded as the module says; `count` from 1 to 62."""
    mask, quotient, top = party.deals.take(cut(tuple(x.shape), count))
    opened = yield Opening(sums=(party.add_public(x + mask, 1 << _ROOM),))
    (c,) = opened.sums
    overflow = top * (1 - logical_shift(c, WORD_BITS - 1))
    share = (overflow << (WORD_BITS - count)) - quotient
    return party.add_public(share, logical_shift(c, count) - (1 << (_ROOM - count)))

"""exp, softmax, GELU and tanh on fixed-point secrets, with their rounds at k = 64 and 16 bits of fraction."""

from __future__ import annotations

import torch

from foedus_workloads.mpc.comparison import maximum, narrow, sign
from foedus_workloads.mpc.conversion import Pair
from foedus_workloads.mpc.normalisation import Powers, reciprocal, reciprocal_near_one
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.polynomials import Quartic, evaluate
from foedus_workloads.mpc.primitives import inject, product, square, truncate
from foedus_workloads.mpc.rounds import Operation, together

# Scores, and what tanh is taken of, lie within 2^15 of 0 and of each other: they are squared, and squares have 30 bits.
RANGE_BITS = 15
UNIT_BITS = 16
# e^(x / 8) for -14 <= x <= 0: its eighth power is within 2e-4 e^x of e^x for x >= -5, and within 2e-4 e^-5 below, so
# that errors of many small entries do not add up in a row. Found by linear programming over the quartics that keep
# within such a bound, `quartic` given, and by descent after `linear` was rounded.
ROOT_OF_EXP = Quartic(shift=6.789902, constant=97.437877, quartic=6, linear=36, other=532.280136, halvings=2)
SQUARINGS = 3
CLIP, CLIP_UNIT_BITS = -14.0, 0  # e^-13 is 2e-6: a unit of 1 makes no difference at 16 bits
_MASKED = -1024.0  # in place of an entry that does not count: below all that do
RECIPROCAL_BITS = 10  # more bits after the point for 1 / sum, which is small when a row attends widely
# GELU(x) - x/2 is even: a quartic in x^2 meets it within 0.0034 on [-3.03, 3.03], and beyond 3 GELU is 0 or x within
# 0.0041. Of the quartics within 0.0034 this one errs least in the mean, for x of spread 1 by 0.00085 (PUMA's formula:
# 0.02 at most, relu + quartic in |x|: 0.0041 at most and 0.00092 in the mean). GELU's input comes from a layer
# normalisation by a linear map, which bounds it far below 2^10.
GELU_LIMIT, GELU_RANGE_BITS, GELU_UNIT_BITS = 3.0, 10, 5
GELU = Quartic(shift=-8.227525, constant=-67.724366, quartic=-13, linear=-86, other=-677.754759)


def exponential(party: Party, x: Shared) -> Operation[Shared]:
    """Return e^x for -2^15 < x <= 0, and 0 below -14: 12 rounds; see `ROOT_OF_EXP` for the error.

    1. A quartic in x is close to e^(x / 8): two products. 2. Square three times. 3. Far below the clip the result means
    nothing and is multiplied by 0: whether x < -14 is compared meanwhile.
    """
    window = narrow(party, range_bits=RANGE_BITS, unit_bits=CLIP_UNIT_BITS)
    power, below = yield from together(
        [_power(party, x), sign(party, party.add_public(x, -party.encode(CLIP)), window)]
    )
    return power - (yield from inject(party, [Pair(below, power)]))


def _power(party: Party, x: Shared) -> Operation[Shared]:
    y = yield from evaluate(party, x, ROOT_OF_EXP)
    for _ in range(SQUARINGS):
        y = yield from truncate(party, square(party, y), party.fraction)
    return y


def exponentials(party: Party, x: Shared) -> Operation[Shared]:
    """Return e^(x - largest) of rows of n: their sums lie in [1, n]; 9 ceil(log2 n) + 12 rounds."""
    window = narrow(party, range_bits=RANGE_BITS, unit_bits=UNIT_BITS)
    top = yield from maximum(party, x, window)
    return (yield from exponential(party, Shared(x.own - top.own, x.next - top.next)))


def inverse_of_sum(party: Party, weights: Shared) -> Operation[Shared]:
    """Return 1 / sum of each row of `exponentials`, as `divide` takes it: 20 rounds."""
    total = weights.map(lambda t: t.sum(-1, keepdim=True))
    # Rounding can push a sum of exactly 1 or n over its bound: one power of two to spare on either side.
    powers = Powers(-1, (weights.shape[-1] - 1).bit_length() + 1)
    return (yield from reciprocal(party, total, powers, bits=party.fraction + RECIPROCAL_BITS))


def divide(party: Party, values: Shared, inverse: Shared) -> Operation[Shared]:
    """Return values times the `inverse_of_sum` of their rows: 2 rounds."""
    return (yield from truncate(party, product(party, values, inverse), party.fraction + RECIPROCAL_BITS))


def softmax(party: Party, x: Shared, *, mask: torch.Tensor | None = None) -> Operation[Shared]:
    """Return softmax over the last dimension of n >= 2: 9 ceil(log2 n) + 34 rounds.

    `mask` is public, 1 where an entry counts, which must then be above -1024.
    """
    if mask is not None:
        x = party.add_public(x * mask, (1 - mask) * party.encode(_MASKED))
    weights = yield from exponentials(party, x)
    if mask is not None:
        weights = weights * mask
    inverse = yield from inverse_of_sum(party, weights)
    return (yield from divide(party, weights, inverse))


def gelu(party: Party, x: Shared) -> Operation[Shared]:
    """Return GELU(x) for |x| < 2^10: 8 rounds; see `GELU` for the error.

    1. q = x/2 + a quartic in x^2: three products. 2. Whether x < -3.03 and whether x < 3 is compared meanwhile.
    3. With the two bits, x lies between where they differ: the result is x + [between] q - [x < 3] x.
    """
    window = narrow(party, range_bits=GELU_RANGE_BITS, unit_bits=GELU_UNIT_BITS)
    # A unit lower, for what lies less than a unit above may count as below.
    limits = -GELU_LIMIT - 2.0**-GELU_UNIT_BITS, GELU_LIMIT
    signs = (sign(party, party.add_public(x, -party.encode(limit)), window) for limit in limits)
    q, below, not_above = yield from together([_gelu_between(party, x), *signs])
    return x + (yield from inject(party, [Pair(below ^ not_above, q), Pair(not_above, -x)]))


def _gelu_between(party: Party, x: Shared) -> Operation[Shared]:
    x2 = yield from truncate(party, square(party, x), party.fraction)
    return (yield from evaluate(party, x2, GELU, half=x))


def tanh(party: Party, x: Shared) -> Operation[Shared]:
    """Return tanh(x) for |x| < 2^14, as sign(x) (1 - E) / (1 + E) with E = e^(-2 |x|): 31 rounds; error below 1e-3."""
    negative = yield from sign(party, x, narrow(party, range_bits=RANGE_BITS, unit_bits=UNIT_BITS))
    size = x - (yield from inject(party, [Pair(negative, x * 2)]))
    decay = yield from exponential(party, size * -2)
    one = party.encode(1)
    inverse = yield from reciprocal_near_one(party, party.add_public(decay, one))
    value = yield from truncate(party, product(party, party.add_public(-decay, one), inverse), party.fraction)
    return value - (yield from inject(party, [Pair(negative, value * 2)]))

"""exp, softmax, GELU and tanh on fixed-point secrets, with their rounds at k = 64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foedus_workloads.mpc.arithmetic import add_to_summand, dot, multiply, product
from foedus_workloads.mpc.comparison import maximum, negative
from foedus_workloads.mpc.normalisation import Powers, reciprocal, reciprocal_near_one
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.rounds import Operation, together
from foedus_workloads.mpc.truncation import truncate

_CLIP = -14.0  # e^-14 = 8e-7 is below half a unit of the last place at 16 bits
# 1 + a u + b u^2 with u = x / 32 and b = 15/32, raised to 2^5: this a makes the largest relative error for x >= -5,
# weighted by e^(x + 5) below, smallest: 0.2 %; e^x is met within 1.6e-4. PUMA's (1 + u)^32 has 0.0085.
_SQUARINGS = 5
_SLOPE = 0.99904365
_CURVATURE, _SHIFT = 15, 15  # the factor of x^2 is 15 / 2^15: b / 32^2 with a division that a truncation does
_MASKED = -1024.0  # in place of an entry that does not count: below all that do
_RECIPROCAL_BITS = 10  # more bits after the point for 1 / sum, which is small when a row attends widely
# GELU(x) - relu(x) on |x| < 3 (zero beyond) by a quartic in a = |x|: 0.02328962 a^4 - 0.19719836 a^3 + 0.5658561 a^2
# - 0.55386347 a + 0.00410626, here as a product of two quadratics: largest error 0.0041, mean 0.00034 on [-10, 10].
_GELU_LIMIT = 3.0
_GELU_LEFT = (7.67784689, -5.38593562, 1.0)
_GELU_RIGHT = (0.02328962 * 0.0229636, 0.02328962 * -3.08128539, 0.02328962)
_QUADRATICS_BITS = 58  # of both quadratics' scales together: four bits of 62 are left for the value


def exponential(party: Party, x: Shared) -> Operation[Shared]:
    """Return e^x for x <= 0, and 0 below -14: 13 rounds; see `_SLOPE` for the error.

    1. y is a quadratic in x that is close to e^(x / 32), as 15 / 2^15 ((x + s)^2 + q): one product. 2. Square five
    times. 3. Far below the clip the result means nothing and is multiplied by 0: whether x < -14 is compared meanwhile.
    """
    power, below = yield from together(
        [_power_of_quadratic(party, x), negative(party, party.add_public(x, -party.encode(_CLIP)))]
    )
    return power - (yield from multiply(party, power, below))


def _power_of_quadratic(party: Party, x: Shared) -> Operation[Shared]:
    centre = _SLOPE * (1 << (_SHIFT - 1 - _SQUARINGS)) / _CURVATURE
    shifted = party.add_public(x, party.encode(centre))
    at_zero = party.encode((1 << _SHIFT) - _CURVATURE * centre**2, 2 * party.fraction)
    summand = add_to_summand(party, product(party, shifted, shifted * _CURVATURE), at_zero)
    y = yield from truncate(party, summand, party.fraction + _SHIFT)
    for _ in range(_SQUARINGS):
        y = yield from truncate(party, product(party, y, y), party.fraction)
    return y


def softmax(party: Party, x: Shared, *, mask: torch.Tensor | None = None) -> Operation[Shared]:
    """Return softmax over the last dimension of n >= 2: 11 ceil(log2 n) + 35 rounds.

    `mask` is public, 1 where an entry counts, which must then be above -1024.

    The largest entry is taken off, so the sum lies in [1, n].
    """
    count = x.shape[-1]
    if mask is not None:
        x = party.add_public(x * mask, (1 - mask) * party.encode(_MASKED))
    top = yield from maximum(party, x)
    weights = yield from exponential(party, Shared(x.own - top.own, x.next - top.next))
    if mask is not None:
        weights = weights * mask
    total = weights.map(lambda t: t.sum(-1, keepdim=True))
    bits = party.fraction + _RECIPROCAL_BITS
    # Rounding can push a sum of exactly 1 or n over its bound: one power of two to spare on either side.
    powers = Powers(-1, (count - 1).bit_length() + 1)
    inverse = yield from reciprocal(party, total, powers, bits=bits)
    return (yield from truncate(party, product(party, weights, inverse), bits))


@dataclass(frozen=True)
class Magnitude:
    """|x| and the arithmetic bit that says x < 0."""

    value: Shared
    negative: Shared


def magnitude(party: Party, x: Shared) -> Operation[Magnitude]:
    """Return |x| and the sign: 11 rounds."""
    sign = yield from negative(party, x)
    return Magnitude(x - (yield from multiply(party, x, sign)) * 2, sign)


def gelu(party: Party, x: Shared) -> Operation[Shared]:
    """Return GELU(x) as relu(x) + [|x| < 3] q(|x|): 23 rounds; see `_GELU_LEFT` for q and its error."""
    size = yield from magnitude(party, x)
    quartic, inside = yield from together(
        [
            _gelu_quartic(party, size.value),
            negative(party, party.add_public(size.value, -party.encode(_GELU_LIMIT))),
        ]
    )
    positive = party.add_public(-size.negative, 1)
    both = dot(party, [(x * (1 << party.fraction), positive), (quartic, inside)])
    return (yield from truncate(party, both, party.fraction))


def _gelu_quartic(party: Party, a: Shared) -> Operation[Shared]:
    """Return q(a) at twice the fraction: 4 rounds."""
    f = party.fraction
    square = yield from truncate(party, product(party, a, a), f)
    spare = _QUADRATICS_BITS - 2 * f
    # The right quadratic has the small coefficients, so it gets more of the bits.
    left_bits = spare // 2 - 3
    left = _quadratic(party, a, square, _GELU_LEFT, left_bits)
    right = _quadratic(party, a, square, _GELU_RIGHT, spare - left_bits)
    return (yield from truncate(party, product(party, left, right), spare))


def _quadratic(party: Party, a: Shared, square: Shared, factors: tuple[float, float, float], bits: int) -> Shared:
    """Return a quadratic with public factors at fraction + `bits` bits after the point; local."""
    constant, linear, quadratic = factors
    terms = a * party.encode(linear, bits) + square * party.encode(quadratic, bits)
    return party.add_public(terms, party.encode(constant, party.fraction + bits))


def tanh(party: Party, x: Shared) -> Operation[Shared]:
    """Return tanh(x) as sign(x) (1 - E) / (1 + E), E = e^(-2 |x|): 33 rounds; error below 1e-3."""
    size = yield from magnitude(party, x)
    decay = yield from exponential(party, size.value * -2)
    one = party.encode(1)
    inverse = yield from reciprocal_near_one(party, party.add_public(decay, one))
    value = yield from truncate(party, product(party, party.add_public(-decay, one), inverse), party.fraction)
    return value - (yield from multiply(party, value, size.negative)) * 2

"""exp, softmax, GELU, tanh and layer normalisation on fixed-point secrets, in place of CrypTen's.

CrypTen's reciprocal overflows from 1000 on, its inverse root is wrong below 0.1 and above 100, and its softmax compares
every entry with every other at the end. The formulas here are those of `Replicated3PC`, and so are their errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from foedus_workloads.mpc.activations import RECIPROCAL_BITS
from foedus_workloads.mpc.crypten.beaver import matrix_product, multiply, square
from foedus_workloads.mpc.crypten.comparison import maximum, negative
from foedus_workloads.mpc.crypten.openings import Operation, together
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.crypten.truncation import truncate
from foedus_workloads.mpc.layers import VARIANCES
from foedus_workloads.mpc.normalisation import LINE_BITS, ROOT, Powers

# 1 + a u + b u^2 with u = x / 32 and b = 15/32, raised to 2^5: this a makes the largest relative error for x >= -5,
# weighted by e^(x + 5) below, smallest: 0.2 %; e^x is met within 1.6e-4.
_SQUARINGS = 5
_SLOPE = 0.99904365
_CURVATURE, _SHIFT = 15, 15  # the factor of x^2 is 15 / 2^15: b / 32^2 with a division that a truncation does
_CLIP = -14.0  # e^-14 = 8e-7 is below half a unit of the last place at 16 bits
# GELU(x) - relu(x) on |x| < 3 (zero beyond) by a quartic in a = |x|: 0.02328962 a^4 - 0.19719836 a^3 + 0.5658561 a^2
# - 0.55386347 a + 0.00410626, here as a product of two quadratics: largest error 0.0041, mean 0.00034 on [-10, 10].
_GELU_LIMIT = 3.0
_GELU_LEFT = (7.67784689, -5.38593562, 1.0)
_GELU_RIGHT = (0.02328962 * 0.0229636, 0.02328962 * -3.08128539, 0.02328962)
_QUADRATICS_BITS = 58  # of both quadratics' scales together: four bits of 62 are left for the value


def scaled_product(party: Party, x: Tensor, y: Tensor, bits: int | None = None) -> Operation[Tensor]:
    """Return the share of x y / 2^bits, by default of two numbers at the fraction: 2 rounds."""
    return (yield from truncate(party, (yield from multiply(party, x, y)), party.fraction if bits is None else bits))


def scaled_square(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return the share of x squared at the fraction: 2 rounds."""
    return (yield from truncate(party, (yield from square(party, x)), party.fraction))


def exponential(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return e^x for x <= 0, and 0 below -14: 13 rounds; see `_SLOPE` for the error.

    1. y is a quadratic in x that is close to e^(x / 32), as 15 / 2^15 ((x + s)^2 + q). 2. Square five times. 3. Far
    below the clip the result means nothing and is multiplied by 0: whether x < -14 is compared meanwhile.
    """
    power, below = yield from together(_power(party, x), negative(party, party.add_public(x, -party.encode(_CLIP))))
    return power - (yield from multiply(party, power, below))


def _power(party: Party, x: Tensor) -> Operation[Tensor]:
    centre = _SLOPE * (1 << (_SHIFT - 1 - _SQUARINGS)) / _CURVATURE
    at_zero = party.encode((1 << _SHIFT) - _CURVATURE * centre**2, 2 * party.fraction)
    squared = yield from square(party, party.add_public(x, party.encode(centre)))
    y = yield from truncate(party, party.add_public(squared * _CURVATURE, at_zero), party.fraction + _SHIFT)
    for _ in range(_SQUARINGS):
        y = yield from scaled_square(party, y)
    return y


def softmax(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return softmax over the last dimension of n >= 2: 8 ceil(log2 n) + 32 rounds.

    The largest entry is taken off, so the sum lies in [1, n].
    """
    top = yield from maximum(party, x)
    weights = yield from exponential(party, x - top)
    total = weights.sum(-1, keepdim=True)
    bits = party.fraction + RECIPROCAL_BITS
    # Rounding can push a sum of exactly 1 or n over its bound: one power of two to spare on either side.
    inverse = yield from reciprocal(party, total, Powers(-1, (x.shape[-1] - 1).bit_length() + 1), bits=bits)
    return (yield from scaled_product(party, weights, inverse, bits))


def gelu(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return GELU(x) as relu(x) + [|x| < 3] q(|x|): 17 rounds; see `_GELU_LEFT` for q and its error."""
    below, size = yield from _magnitude(party, x)
    quartic, inside = yield from together(
        _gelu_quartic(party, size), negative(party, party.add_public(size, -party.encode(_GELU_LIMIT)))
    )
    lost, rest = yield from together(multiply(party, x, below), multiply(party, quartic, inside))
    return x - lost + (yield from truncate(party, rest, party.fraction))


def _magnitude(party: Party, x: Tensor) -> Operation[tuple[Tensor, Tensor]]:
    """Return whether x < 0, and |x|: 8 rounds."""
    below = yield from negative(party, x)
    return below, x - 2 * (yield from multiply(party, x, below))


def _gelu_quartic(party: Party, a: Tensor) -> Operation[Tensor]:
    """Return q(a) at twice the fraction: 4 rounds."""
    f = party.fraction
    squared = yield from scaled_square(party, a)
    spare = _QUADRATICS_BITS - 2 * f
    # The right quadratic has the small coefficients, so it gets more of the bits.
    left_bits = spare // 2 - 3
    left = _quadratic(party, a, squared, _GELU_LEFT, left_bits)
    right = _quadratic(party, a, squared, _GELU_RIGHT, spare - left_bits)
    return (yield from scaled_product(party, left, right, spare))


def _quadratic(party: Party, a: Tensor, squared: Tensor, factors: tuple[float, float, float], bits: int) -> Tensor:
    """Return a quadratic with public factors at fraction + `bits` bits after the point; local."""
    constant, linear, quadratic = factors
    terms = a * party.encode(linear, bits) + squared * party.encode(quadratic, bits)
    return party.add_public(terms, party.encode(constant, party.fraction + bits))


def tanh(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return tanh(x) as sign(x) (1 - E) / (1 + E), E = e^(-2 |x|): 30 rounds; error below 1e-3."""
    below, size = yield from _magnitude(party, x)
    decay = yield from exponential(party, size * -2)
    one = party.encode(1)
    inverse = yield from _reciprocal_near_one(party, party.add_public(decay, one))
    value = yield from scaled_product(party, party.add_public(-decay, one), inverse)
    return value - 2 * (yield from multiply(party, value, below))


@dataclass(frozen=True)
class Normalised:
    """v as c 2^j: c in [1, 2) at the fraction, and the bits from which public functions of j are made.

    `above[..., i]` is 1 where v >= 2^(low + 1 + i).
    """

    c: Tensor = field(repr=False)
    above: Tensor = field(repr=False)
    powers: Powers


def normalise(party: Party, v: Tensor, powers: Powers) -> Operation[Normalised]:
    """Bring v, which lies within `powers`, into [1, 2): 9 rounds.

    Values outside come out wrong, and nothing says so: the bounds are part of the program.
    """
    bounds = torch.tensor([party.encode(2.0**step) for step in range(powers.low + 1, powers.high)])
    spread = v.unsqueeze(-1).expand(*v.shape, len(bounds))
    above = party.add_public(-(yield from negative(party, party.add_public(spread, -bounds))), 1)
    bits = party.fraction + powers.high  # so that the smallest scale has as many bits as other values
    scale = _by_power(party, above, powers, lambda j: 2.0**-j, bits)
    return Normalised((yield from scaled_product(party, v, scale, bits)), above, powers)


def _by_power(party: Party, above: Tensor, powers: Powers, function: Callable[[int], float], bits: int) -> Tensor:
    """Return function(j) for the secret j, at `bits` bits after the point; local."""
    values = [party.encode(function(j), bits) for j in range(powers.low, powers.high)]
    rises = torch.tensor([after - before for before, after in pairwise(values)], dtype=torch.int64)
    return party.add_public((above * rises).sum(-1), values[0])


def reciprocal(party: Party, v: Tensor, powers: Powers, *, bits: int) -> Operation[Tensor]:
    """Return 1/v at `bits` bits after the point: 17 rounds; relative error about 3e-5 at 16 bits of fraction."""
    normalised = yield from normalise(party, v, powers)
    w = yield from _reciprocal_near_one(party, normalised.c)
    scale_bits = party.fraction + powers.high
    scale = _by_power(party, normalised.above, powers, lambda j: 2.0**-j, scale_bits)
    return (yield from scaled_product(party, w, scale, party.fraction + scale_bits - bits))


def _reciprocal_near_one(party: Party, c: Tensor) -> Operation[Tensor]:
    """Return 1/c for c in [1, 2]: 6 rounds.

    w = (24 - 8 c) / 17 has the smallest relative error of all lines, e = 1 - c w <= 1/17; two steps of Goldschmidt,
    w (1 + e)(1 + e^2), leave e^4 <= 1.2e-5.
    """
    f = party.fraction
    bits, one = f + LINE_BITS, party.encode(1)
    w = party.add_public(c * -party.encode(8 / 17, LINE_BITS), party.encode(24 / 17, bits))
    e = party.add_public(-(yield from scaled_product(party, c, w, bits)), one)
    first, squared = yield from together(
        scaled_product(party, w, party.add_public(e, one), bits), scaled_square(party, e)
    )
    return (yield from scaled_product(party, first, party.add_public(squared, one)))


def inverse_root(party: Party, v: Tensor, powers: Powers, *, factor: float = 1.0) -> Operation[Tensor]:
    """Return factor / sqrt(v): 15 rounds; relative error about 1e-4 at 16 bits of fraction."""
    f = party.fraction
    normalised = yield from normalise(party, v, powers)
    x = party.add_public(normalised.c, -party.encode(1.5))
    x2 = yield from scaled_square(party, x)
    x3, x4 = yield from together(scaled_product(party, x2, x), scaled_square(party, x2))
    scale = _by_power(party, normalised.above, powers, lambda j: factor * 2 ** (-j / 2), f)
    terms = sum(term * party.encode(c) for term, c in zip((x, x2, x3, x4), ROOT[1:], strict=True))
    root = party.add_public(torch.as_tensor(terms), party.encode(ROOT[0], 2 * f))
    return (yield from scaled_product(party, root, scale, 2 * f))


@dataclass(frozen=True)
class Norm:
    """Scale and shift of a layer normalisation, and what is added to the variance."""

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    epsilon: float


def layer_norm(party: Party, x: Tensor, norm: Norm) -> Operation[Tensor]:
    """Return (x - mean) / sqrt(variance + epsilon) * weight + bias over the last dimension: 20 rounds.

    The sum of squares is not divided by n: its range and the root's factor are scaled instead.
    """
    f, count = party.fraction, x.shape[-1]
    width = count.bit_length()
    total = x.sum(-1, keepdim=True)
    centred = x - (yield from truncate(party, total * party.encode(1 / count, f + width), f + width))
    squares, weighted = yield from together(_square_sum(party, centred), scaled_product(party, centred, norm.weight))
    powers = Powers(VARIANCES.low + width - 1, VARIANCES.high + width)
    spread = party.add_public(squares, party.encode(norm.epsilon * count))
    inverse = yield from inverse_root(party, spread.unsqueeze(-1), powers, factor=count**0.5)
    scaled = yield from multiply(party, weighted, inverse)
    return (yield from truncate(party, scaled + norm.bias * (1 << f), f))


def _square_sum(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return the sum of squares over the last dimension, at the fraction: 2 rounds."""
    return (yield from truncate(party, (yield from square(party, x)).sum(-1), party.fraction))


def attention(party: Party, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Operation[Tensor]:
    """Return softmax(q k^T + mask) v: [heads, n, d] each; 4 rounds more than the softmax.

    The queries come divided by the root of d. `mask` [n] is 0 for a key that counts, far below all scores for others.
    """
    f = party.fraction
    scores = yield from truncate(party, (yield from matrix_product(party, query, key.transpose(-1, -2))), f)
    weights = yield from softmax(party, scores + mask)
    return (yield from truncate(party, (yield from matrix_product(party, weights, value)), f))

"""exp, softmax, GELU, tanh and layer normalisation on fixed-point secrets, in place of CrypTen's.

CrypTen's reciprocal overflows from 1000 on, its inverse root is wrong below 0.1 and above 100, and its softmax compares
every entry with every other at the end. Formulas, constants, ranges and windows are those of `Replicated3PC`, in
`mpc/activations.py`, `mpc/normalisation.py` and `mpc/layers.py`, and so are their errors; what is written here is how
they are computed from CrypTen's products. Rounds are those at 16 bits of fraction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus_workloads.mpc import activations as formulas
from foedus_workloads.mpc.comparison import Window
from foedus_workloads.mpc.crypten.beaver import matrix_product, multiply, square
from foedus_workloads.mpc.crypten.comparison import maximum, negative, window
from foedus_workloads.mpc.crypten.openings import Operation, together
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.crypten.truncation import truncate
from foedus_workloads.mpc.layers import VARIANCES
from foedus_workloads.mpc.normalisation import LINE_BITS, ROOT, Powers
from foedus_workloads.mpc.polynomials import SCALE_BITS, Quartic


def scaled_product(party: Party, x: Tensor, y: Tensor, bits: int | None = None) -> Operation[Tensor]:
    """Return the share of x y / 2^bits, by default of two numbers at the fraction: 2 rounds."""
    return (yield from truncate(party, (yield from multiply(party, x, y)), party.fraction if bits is None else bits))


def scaled_square(party: Party, x: Tensor, bits: int | None = None) -> Operation[Tensor]:
    """Return the share of x squared / 2^bits, by default of a number at the fraction: 2 rounds."""
    return (yield from truncate(party, (yield from square(party, x)), party.fraction if bits is None else bits))


def scaled_matrix_product(party: Party, x: Tensor, y: Tensor) -> Operation[Tensor]:
    """Return the share of x @ y of two matrices at the fraction: 2 rounds."""
    return (yield from truncate(party, (yield from matrix_product(party, x, y)), party.fraction))


def polynomial(party: Party, z: Tensor, form: Quartic, *, half: Tensor | None = None) -> Operation[Tensor]:
    """Return the polynomial at z, and `half` / 2 added to it: 4 rounds."""
    f = party.fraction
    y = yield from scaled_square(party, party.add_public(z, party.encode(form.shift)), f + form.halvings)
    left = party.add_public(y, party.encode(form.constant))
    right = party.add_public(y * form.quartic + z * form.linear, party.encode(form.other))
    summand = yield from multiply(party, left, right)
    if half is not None:
        summand = summand + half * (1 << (f + SCALE_BITS - 1))
    return (yield from truncate(party, summand, f + SCALE_BITS))


def exponential(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return e^x for -2^15 < x <= 0, and 0 below -14: 11 rounds.

    1. A quartic in x is close to e^(x / 8). 2. Square three times. 3. Far below the clip the result means nothing and
    is multiplied by 0: whether x < -14 is compared meanwhile.
    """
    at = window(party, range_bits=formulas.RANGE_BITS, unit_bits=formulas.CLIP_UNIT_BITS)
    power, below = yield from together(
        _power(party, x), negative(party, party.add_public(x, -party.encode(formulas.CLIP)), at)
    )
    return power - (yield from multiply(party, power, below))


def _power(party: Party, x: Tensor) -> Operation[Tensor]:
    y = yield from polynomial(party, x, formulas.ROOT_OF_EXP)
    for _ in range(formulas.SQUARINGS):
        y = yield from scaled_square(party, y)
    return y


def exponentials(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return e^(x - largest) of rows of n: their sums lie in [1, n]; 7 ceil(log2 n) + 11 rounds."""
    top = yield from maximum(party, x, _wide(party))
    return (yield from exponential(party, x - top))


def inverse_of_sum(party: Party, weights: Tensor) -> Operation[Tensor]:
    """Return 1 / sum of each row of `exponentials`, as `divide` takes it: 16 rounds."""
    # Rounding can push a sum of exactly 1 or n over its bound: one power of two to spare on either side.
    powers = Powers(-1, (weights.shape[-1] - 1).bit_length() + 1)
    bits = party.fraction + formulas.RECIPROCAL_BITS
    return (yield from reciprocal(party, weights.sum(-1, keepdim=True), powers, bits=bits))


def divide(party: Party, values: Tensor, inverse: Tensor) -> Operation[Tensor]:
    """Return values times the `inverse_of_sum` of their rows: 2 rounds."""
    return (yield from scaled_product(party, values, inverse, party.fraction + formulas.RECIPROCAL_BITS))


def softmax(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return softmax over the last dimension of n >= 2: 7 ceil(log2 n) + 29 rounds."""
    weights = yield from exponentials(party, x)
    return (yield from divide(party, weights, (yield from inverse_of_sum(party, weights))))


def gelu(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return GELU(x) for |x| < 2^10: 7 rounds.

    1. q = x/2 + a quartic in x^2. 2. Whether x < -3.03 and whether x < 3 is compared meanwhile; where they differ, x
    lies between. 3. The result is x + [between] q - [x < 3] x.
    """
    at = window(party, range_bits=formulas.GELU_RANGE_BITS, unit_bits=formulas.GELU_UNIT_BITS)
    # A unit lower, for what lies less than a unit above may count as below.
    limits = -formulas.GELU_LIMIT - 2.0**-formulas.GELU_UNIT_BITS, formulas.GELU_LIMIT
    signs = (negative(party, party.add_public(x, -party.encode(limit)), at) for limit in limits)
    q, below, not_above = yield from together(_gelu_between(party, x), *signs)
    inside, lost = yield from together(multiply(party, q, not_above - below), multiply(party, x, not_above))
    return x + inside - lost


def _gelu_between(party: Party, x: Tensor) -> Operation[Tensor]:
    return (yield from polynomial(party, (yield from scaled_square(party, x)), formulas.GELU, half=x))


def tanh(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return tanh(x) for |x| < 2^14, as sign(x) (1 - E) / (1 + E) with E = e^(-2 |x|): 27 rounds; error below 1e-3."""
    below = yield from negative(party, x, _wide(party))
    size = x - 2 * (yield from multiply(party, x, below))
    decay = yield from exponential(party, size * -2)
    one = party.encode(1)
    inverse = yield from _reciprocal_near_one(party, party.add_public(decay, one))
    value = yield from scaled_product(party, party.add_public(-decay, one), inverse)
    return value - 2 * (yield from multiply(party, value, below))


def _wide(party: Party) -> Window:
    """Return the window of scores and of what lies between them."""
    return window(party, range_bits=formulas.RANGE_BITS, unit_bits=formulas.UNIT_BITS)


@dataclass(frozen=True)
class Normalised:
    """v as c 2^j: c in [1, 2) at the fraction, and the bits from which public functions of j are made.

    `above[..., i]` is 1 where v >= 2^(low + 1 + i).
    """

    c: Tensor = field(repr=False)
    above: Tensor = field(repr=False)
    powers: Powers


def normalise(party: Party, v: Tensor, powers: Powers) -> Operation[Normalised]:
    """Bring v, which lies within `powers`, into [1, 2): 8 rounds, 9 where range and fraction take over 31 bits.

    Values outside come out wrong, and nothing says so: the bounds are part of the program.
    """
    bounds = torch.tensor([party.encode(2.0**step) for step in range(powers.low + 1, powers.high)])
    spread = v.unsqueeze(-1).expand(*v.shape, len(bounds))
    at = window(party, range_bits=powers.high, unit_bits=party.fraction)
    above = party.add_public(-(yield from negative(party, party.add_public(spread, -bounds), at)), 1)
    bits = party.fraction + powers.high  # so that the smallest scale has as many bits as other values
    scale = _by_power(party, above, powers, lambda j: 2.0**-j, bits)
    return Normalised((yield from scaled_product(party, v, scale, bits)), above, powers)


def _by_power(party: Party, above: Tensor, powers: Powers, function: Callable[[int], float], bits: int) -> Tensor:
    """Return function(j) for the secret j, at `bits` bits after the point; local."""
    first, rises = powers.tabulate(function, bits)
    return party.add_public((above * rises).sum(-1), first)


def reciprocal(party: Party, v: Tensor, powers: Powers, *, bits: int) -> Operation[Tensor]:
    """Return 1/v at `bits` bits after the point: 8 rounds after `normalise`; relative error about 3e-5 at 16 bits."""
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
    """Return factor / sqrt(v): 6 rounds after `normalise`; relative error about 1e-4 at 16 bits of fraction."""
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

    The sum of squares is not divided by n: its range and the root's factor are scaled instead. Values times weights are
    not rounded before they are scaled: of 62 bits 3 f are after the point, which leaves room for 2^14 at 16 bits.
    """
    f, count = party.fraction, x.shape[-1]
    width = count.bit_length()
    total = x.sum(-1, keepdim=True)
    centred = x - (yield from truncate(party, total * party.encode(1 / count, f + width), f + width))
    squares, weighted = yield from together(_square_sum(party, centred), multiply(party, centred, norm.weight))
    powers = Powers(VARIANCES.low + width - 1, VARIANCES.high + width)
    spread = party.add_public(squares, party.encode(norm.epsilon * count))
    inverse = yield from inverse_root(party, spread.unsqueeze(-1), powers, factor=count**0.5)
    scaled = yield from multiply(party, weighted, inverse)
    return (yield from truncate(party, scaled + norm.bias * (1 << 2 * f), 2 * f))


def _square_sum(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return the sum of squares over the last dimension, at the fraction: 2 rounds."""
    return (yield from truncate(party, (yield from square(party, x)).sum(-1), party.fraction))


def attention(party: Party, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Operation[Tensor]:
    """Return softmax(q k^T + mask) v: [heads, n, d] each; 2 rounds more than the softmax.

    The queries come divided by the root of d. `mask` [n] is 0 for a key that counts, far below all scores for others.
    Rows are divided by their sums last, when they have d entries and not n; the sums are inverted while the
    exponentials are multiplied by v.
    """
    scores = yield from scaled_matrix_product(party, query, key.transpose(-1, -2))
    weights = yield from exponentials(party, scores + mask)
    sums, inverse = yield from together(scaled_matrix_product(party, weights, value), inverse_of_sum(party, weights))
    return (yield from divide(party, sums, inverse))

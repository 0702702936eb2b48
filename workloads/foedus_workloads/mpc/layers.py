"""Layers of an encoder on fixed-point secrets: linear maps, layer normalisation, attention."""

from __future__ import annotations

from dataclasses import dataclass

from foedus_workloads.mpc.activations import divide, exponentials, inverse_of_sum
from foedus_workloads.mpc.normalisation import Powers, inverse_root
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.primitives import Weight, matrix_product, prepare, product, reshare, square_sum, truncate
from foedus_workloads.mpc.rounds import Operation, together

# Variances of hidden states between 2^-12 and 2^12: embeddings of BERT have about 2^-9, its last layers up to 2^3.
VARIANCES = Powers(-12, 12)


@dataclass(frozen=True)
class Linear:
    """x W + b: the weight prepared once, the bias at twice the fraction, so that it is rounded with the product."""

    weight: Weight
    bias: Shared


def linear(party: Party, x: Shared, layer: Linear) -> Operation[Shared]:
    """Return x W + b: [..., m, k] -> [..., m, n]; 2 rounds."""
    return (yield from truncate(party, matrix_product(party, x, layer.weight) + layer.bias, party.fraction))


@dataclass(frozen=True)
class Norm:
    """Scale and shift of a layer normalisation, and what is added to the variance."""

    weight: Shared
    bias: Shared
    epsilon: float


def layer_norm(party: Party, x: Shared, norm: Norm, *, variances: Powers = VARIANCES) -> Operation[Shared]:
    """Return (x - mean) / sqrt(variance + epsilon) * weight + bias over the last dimension: 24 rounds.

    The sum of squares is not divided by n: its range and the root's factor are scaled instead. Values times weights are
    not rounded before they are scaled: of 62 bits 3 f are after the point, which leaves room for 2^14 at 16 bits.
    """
    f, count = party.fraction, x.shape[-1]
    total = x.map(lambda t: t.sum(-1, keepdim=True))
    bits = f + count.bit_length()
    mean = yield from truncate(party, total * party.encode(1 / count, bits), bits)
    centred = Shared(x.own - mean.own, x.next - mean.next)
    squares, weighted = yield from together(
        [
            truncate(party, square_sum(party, centred), f),
            reshare(party, product(party, centred, norm.weight)),
        ]
    )
    width = count.bit_length()
    powers = Powers(variances.low + width - 1, variances.high + width)
    squares = party.add_public(squares, party.encode(norm.epsilon * count))
    inverse = yield from inverse_root(party, squares.map(lambda t: t.unsqueeze(-1)), powers, factor=count**0.5)
    shifted = product(party, weighted, inverse) + norm.bias * (1 << 2 * f)
    return (yield from truncate(party, shifted, 2 * f))


def attention(
    party: Party, query: Shared, key: Shared, value: Shared, *, mask: Shared | None = None
) -> Operation[Shared]:
    """Return softmax(q k^T / sqrt(d) + mask) v: [..., heads, n, d] each; 2 rounds more than the softmax.

    The division by sqrt(d) is taken into the query's weights beforehand. `mask` [n] is secret: 0 for a key that counts,
    far below all scores for one that does not. Rows are divided by their sums last, when they have d entries and not
    n; the sums are inverted while the exponentials are multiplied by v.
    """
    f = party.fraction
    scores = yield from truncate(
        party, matrix_product(party, query, prepare(party, key.map(lambda t: t.transpose(-1, -2)))), f
    )
    weights = yield from exponentials(party, scores if mask is None else scores + mask)
    sums, inverse = yield from together(
        [truncate(party, matrix_product(party, weights, prepare(party, value)), f), inverse_of_sum(party, weights)]
    )
    return (yield from divide(party, sums, inverse))

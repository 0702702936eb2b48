"""Reciprocal and inverse square root: scale by the top set bit into [1, 2), approximate there, scale back.

1. Where v lies between powers of two of a public range is compared for all of them at once (10 rounds whatever their
   number); the bits weighted by public constants are the scale 2^-j, and 2^(-j/2) for the root: no further round.
2. c = v 2^-j in [1, 2).
3. Reciprocal: w = (24 - 8 c) / 17 has the smallest relative error of all lines, e = 1 - c w <= 1/17; two steps of
   Goldschmidt, w (1 + e)(1 + e^2), leave e^4 <= 1.2e-5.
   Root: a polynomial of degree 4 in c - 1.5, see `ROOT`; the factor 2^(-j/2) comes with the scale.

Values outside of the range come out wrong, and nothing says so: its bounds are part of the program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import ldexp

import torch

from foedus_workloads.mpc.comparison import negative
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.primitives import product, square, truncate
from foedus_workloads.mpc.rounds import Operation, together

# 1/sqrt(1.5 + x) for |x| <= 1/2: the polynomial of degree 4 with the smallest largest relative error, 7.5e-5, found by
# iteratively reweighted least squares (Lawson) on 2,000 Chebyshev points.
ROOT = (0.81650513, -0.27157262, 0.13544569, -0.08477699, 0.05081598)


LINE_BITS = 12  # of the line's factors: an error there only starts the iteration elsewhere


@dataclass(frozen=True)
class Powers:
    """A public range of positive secrets: 2^low <= v < 2^high."""

    low: int
    high: int

    def tabulate(self, function: Callable[[int], float], bits: int) -> tuple[int, torch.Tensor]:
        """Return function(low) at `bits` bits after the point, and by how much each next power's is larger."""
        values = [round(ldexp(function(j), bits)) for j in range(self.low, self.high)]
        return values[0], torch.tensor([after - before for before, after in pairwise(values)], dtype=torch.int64)


@dataclass(frozen=True)
class Normalised:
    """v as c 2^j: c in [1, 2) at the party's fraction, and the bits from which public functions of j are made.

    `above[..., i]` is 1 where v >= 2^(low + 1 + i).
    """

    c: Shared
    above: Shared
    powers: Powers


def normalise(party: Party, v: Shared, powers: Powers) -> Operation[Normalised]:
    """Bring v into [1, 2): 12 rounds."""
    steps = range(powers.low + 1, powers.high)
    bounds = torch.tensor([party.encode(2.0**step) for step in steps])
    below = yield from negative(
        party, party.add_public(v.map(lambda t: t.unsqueeze(-1).expand(*t.shape, len(bounds))), -bounds)
    )
    above = party.add_public(-below, 1)
    bits = party.fraction + powers.high  # so that the smallest scale has as many bits as other values
    scale = by_power(party, above, powers, lambda j: 2.0**-j, bits)
    c = yield from truncate(party, product(party, v, scale), bits)
    return Normalised(c, above, powers)


def by_power(party: Party, above: Shared, powers: Powers, function: Callable[[int], float], bits: int) -> Shared:
    """Return function(j) for the secret j, at `bits` bits after the point; local."""
    first, rises = powers.tabulate(function, bits)
    return party.add_public(above.map(lambda t: (t * rises).sum(-1)), first)


def reciprocal(party: Party, v: Shared, powers: Powers, *, bits: int) -> Operation[Shared]:
    """Return 1/v at `bits` bits after the point: 20 rounds; relative error about 3e-5 at 16 bits of fraction."""
    normalised = yield from normalise(party, v, powers)
    w = yield from reciprocal_near_one(party, normalised.c)
    scale_bits = party.fraction + powers.high
    scale = by_power(party, normalised.above, powers, lambda j: 2.0**-j, scale_bits)
    return (yield from truncate(party, product(party, w, scale), party.fraction + scale_bits - bits))


def reciprocal_near_one(party: Party, c: Shared) -> Operation[Shared]:
    """Return 1/c for c in [1, 2]: 6 rounds."""
    f = party.fraction
    bits = f + LINE_BITS
    w = party.add_public(c * -party.encode(8 / 17, LINE_BITS), party.encode(24 / 17, bits))
    e = party.add_public(-(yield from truncate(party, product(party, c, w), bits)), party.encode(1))
    first, e2 = yield from together(
        [
            truncate(party, product(party, w, party.add_public(e, party.encode(1))), bits),
            truncate(party, square(party, e), f),
        ]
    )
    return (yield from truncate(party, product(party, first, party.add_public(e2, party.encode(1))), f))


def inverse_root(party: Party, v: Shared, powers: Powers, *, factor: float = 1.0) -> Operation[Shared]:
    """Return factor / sqrt(v): 18 rounds; relative error about 1e-4 at 16 bits of fraction."""
    f = party.fraction
    normalised = yield from normalise(party, v, powers)
    x = party.add_public(normalised.c, -party.encode(1.5))
    x2 = yield from truncate(party, square(party, x), f)
    x3, x4 = yield from together([truncate(party, product(party, x2, other), f) for other in (x, x2)])
    scale = by_power(party, normalised.above, powers, lambda j: factor * 2 ** (-j / 2), f)
    root = party.add_public(
        x * party.encode(ROOT[1])
        + x2 * party.encode(ROOT[2])
        + x3 * party.encode(ROOT[3])
        + x4 * party.encode(ROOT[4]),
        party.encode(ROOT[0], 2 * f),
    )
    return (yield from truncate(party, product(party, root, scale), 2 * f))

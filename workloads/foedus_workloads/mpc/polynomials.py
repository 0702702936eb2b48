"""Polynomials of degree 4 with public factors in two products."""

from __future__ import annotations

from dataclasses import dataclass

from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.primitives import product, square, truncate
from foedus_workloads.mpc.rounds import Operation

SCALE_BITS = 16  # of the integers `quartic` and `linear`: with the fraction a truncation by 32 at 16 bits


@dataclass(frozen=True)
class Quartic:
    """(y + constant) (quartic y + linear z + other) / 2^16 with y = (z + shift)^2 / 2^halvings.

    Any quartic has that form. `quartic` and `linear` are integers, so that multiplying by them costs no bits.
    """

    shift: float
    constant: float
    quartic: int
    linear: int
    other: float
    halvings: int = 0


def evaluate(party: Party, z: Shared, form: Quartic, *, half: Shared | None = None) -> Operation[Shared]:
    """Return the polynomial at z, and `half` / 2 added to it: 4 rounds."""
    f = party.fraction
    shifted = party.add_public(z, party.encode(form.shift))
    y = yield from truncate(party, square(party, shifted), f + form.halvings)
    left = party.add_public(y, party.encode(form.constant))
    right = party.combine([(y, form.quartic), (z, form.linear)], party.encode(form.other))
    summand = product(party, left, right)
    if half is not None:
        summand = summand + half * (1 << (f + SCALE_BITS - 1))
    return (yield from truncate(party, summand, f + SCALE_BITS))

"""What a ledger stores about a release: the mechanism's parameters, never an ε.

An ε cannot be composed afterwards, parameters can: every accountant of this package works from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from foedus_contract.models import ContractModel

MAX_NOISE_MULTIPLIER = 1e6  # beyond it no training learns anything, and 1/σ² stays far from underflow


class Mechanism(ContractModel):
    """One release: a sum of discrete Gaussian shares, accounted as a Gaussian up to a discretisation gap.

    `noise_multiplier` is the standard deviation of the noise in units of the sum's sensitivity, so the sensitivity
    itself is 1. `gap_epsilon` and `gap_delta` say for ONE release how far the discrete noise is from the Gaussian
    (see `gap.py`). `sampling_rate` is the probability with which each record takes part, drawn anew and in secret for
    every release (Poisson); 1 is full batch.
    """

    kind: Literal["DistributedDiscreteGaussian"] = "DistributedDiscreteGaussian"
    noise_multiplier: Annotated[float, Field(gt=0, le=MAX_NOISE_MULTIPLIER)]
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    gap_epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gap_delta: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def mu_squared(self) -> float:
        """Return μ² of one release in Gaussian differential privacy: 1/σ², which for a sampled one is an upper bound.

        A sampled release is a mixture of the Gaussian's and of one without the record, and hockey-stick divergences
        are jointly convex.
        """
        return 1.0 / (self.noise_multiplier * self.noise_multiplier)


@dataclass(frozen=True)
class Spending:
    """Totals of a set of releases: μ² and the two parts of the discretisation gap."""

    mu_squared: float
    gap_epsilon: float
    gap_delta: float


def total(releases: Iterable[tuple[Mechanism, int]]) -> Spending:
    """Return the totals of `releases`."""
    listed = tuple(releases)
    return Spending(
        math.fsum(count * mechanism.mu_squared for mechanism, count in listed),
        math.fsum(count * mechanism.gap_epsilon for mechanism, count in listed),
        math.fsum(count * mechanism.gap_delta for mechanism, count in listed),
    )

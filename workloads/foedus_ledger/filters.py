"""The filter across jobs: how much may still be reserved when every job is chosen after seeing earlier results.

Full-batch Gaussians compose in Gaussian differential privacy by adding μ², also when each next σ and the moment to
stop are chosen after seeing earlier outputs: stopping before Σμ² passes a capacity fixed beforehand keeps
√capacity-GDP (Smith and Thakurta 2022, "Fully adaptive composition for Gaussian differential privacy"; Koskela, Tobaben
and Honkela 2023). PLD has no such filter, so across jobs this one is enforced and PLD is reported.

The discretisation gap is bounded by capacities of its own, fixed beforehand too, because a filter must not trade one
quantity against another after the fact. They take 1/10,000 of ε and of δ, about a thousand times what real jobs need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.optimize import brentq

from foedus_ledger.accountants import log_gaussian_delta
from foedus_ledger.mechanisms import Spending, total
from foedus_ledger.records import Account

_GAP_SHARE = 1e-4


@dataclass(frozen=True)
class GdpFilter:
    """The capacity that a budget of (ε, δ) has; fixed by the budget alone."""

    capacity: Spending

    @staticmethod
    def of(epsilon: float, delta: float) -> GdpFilter:
        """Return the filter whose full use is exactly (`epsilon`, `delta`) private, the gap included."""
        gap_epsilon = _GAP_SHARE * epsilon
        gap_delta = _GAP_SHARE * delta / (1 + math.exp(epsilon))
        inner_epsilon = epsilon - 2 * gap_epsilon
        # e^G·δ' + (1 + e^(G+ε'))·e^G·H = δ, see accountants.
        inner_delta = delta * math.exp(-gap_epsilon) - (1 + math.exp(gap_epsilon + inner_epsilon)) * gap_delta
        return GdpFilter(Spending(_capacity(inner_epsilon, inner_delta), gap_epsilon, gap_delta))

    def fits(self, spent: Spending) -> bool:
        """Return True when `spent` is within every capacity."""
        return (
            spent.mu_squared <= self.capacity.mu_squared
            and spent.gap_epsilon <= self.capacity.gap_epsilon
            and spent.gap_delta <= self.capacity.gap_delta
        )

    def remaining(self, spent: Spending) -> Spending:
        """Return what is left of each capacity; never negative."""
        return Spending(
            max(0.0, self.capacity.mu_squared - spent.mu_squared),
            max(0.0, self.capacity.gap_epsilon - spent.gap_epsilon),
            max(0.0, self.capacity.gap_delta - spent.gap_delta),
        )


def committed(accounts: Iterable[Account]) -> Spending:
    """Return what `accounts` hold: reservations of open ones, charges of closed ones."""
    return total((account.mechanism, account.committed) for account in accounts)


def _capacity(epsilon: float, delta: float) -> float:
    """Return the largest μ² at which a Gaussian is (`epsilon`, `delta`) private, rounded down."""
    target = math.log(delta)
    # δ(ε) grows with μ: below 1e-300 at μ = ε/40, and all but 1 at μ = ε + 40.
    mu = float(brentq(lambda m: log_gaussian_delta(m, epsilon) - target, epsilon / 40, epsilon + 40, xtol=1e-13))
    return (mu * (1 - 1e-11)) ** 2  # the root is good to 1e-12 of itself; a capacity is never too large

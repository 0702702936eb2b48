"""The filter across jobs: how much may still be reserved when every job is chosen after seeing earlier results.

Full-batch Gaussians compose in Gaussian differential privacy by adding μ², also when each next σ and the moment to
stop are chosen after seeing earlier outputs: stopping before Σμ² passes a capacity fixed beforehand keeps
√capacity-GDP (Smith and Thakurta 2022, "Fully adaptive composition for Gaussian differential privacy"; Koskela, Tobaben
and Honkela 2023). PLD has no such filter, so across jobs this one is enforced and PLD is reported.

GDP says little about Poisson-sampled Gaussians, so a budget that holds one is kept by a Rényi filter: divergences of
one order add up, and stopping before they pass a capacity fixed beforehand keeps that divergence (Feldman and Zrnic
2021, "Individual privacy accounting via a Rényi filter"; Lécuyer 2021, "Practical privacy filters and odometers with
Rényi differential privacy"). The order must be fixed beforehand too. Were it enough that some order still holds,
earlier results could steer which one, and each branch might use up the whole δ; sampled Gaussians' curves cross, and
only families that are totally ordered need no such care. For the same reason a budget must not turn from GDP to RDP
after seeing results. So its first charge settles both: until then nothing is released and all is judged anew, from then
on a reservation that would change the filter or its order is refused. Both are read from the mechanisms alone, which
are kept for ever: RDP when one is sampled, at the smallest of their best orders. A full-batch job may join at any time.

The discretisation gap is bounded by capacities of its own, fixed beforehand too, because a filter must not trade one
quantity against another after the fact. They take 1/10,000 of ε and of δ, about a thousand times what real jobs need.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from scipy.optimize import brentq

from foedus_contract.errors import Refused
from foedus_ledger.accountants import RDP_ORDERS, log_gaussian_delta, rdp_capacity, release_rdp
from foedus_ledger.mechanisms import Mechanism, Spending, total
from foedus_ledger.records import Account, BudgetSpec

_GAP_SHARE = 1e-4
_ROUNDING = 1e-11  # capacities are differences of numbers below 100, good to 1e-13: never too large


@dataclass(frozen=True)
class GdpFilter:
    """The capacity that a budget of (ε, δ) has; fixed by the budget alone."""

    capacity: Spending

    @staticmethod
    def of(epsilon: float, delta: float) -> GdpFilter:
        """Return the filter whose full use is exactly (`epsilon`, `delta`) private, the gap included."""
        inner_epsilon, inner_delta, gap = _without_gap(epsilon, delta)
        return GdpFilter(Spending(_capacity(inner_epsilon, inner_delta), gap.gap_epsilon, gap.gap_delta))

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


@dataclass(frozen=True)
class RdpFilter:
    """How much Rényi divergence of one order a budget of (ε, δ) has; fixed by the budget and the order."""

    order: float
    capacity: float
    gap: Spending

    @staticmethod
    def of(epsilon: float, delta: float, order: float) -> RdpFilter:
        """Return the filter whose full use is (`epsilon`, `delta`) private, the gap included."""
        inner_epsilon, inner_delta, gap = _without_gap(epsilon, delta)
        return RdpFilter(order, rdp_capacity(order, inner_epsilon, inner_delta) - _ROUNDING, gap)

    def fits(self, releases: Iterable[tuple[Mechanism, int]]) -> bool:
        """Return True when `releases` are together within every capacity."""
        listed = [(mechanism, count) for mechanism, count in releases if count]
        spent = total(listed)
        return (
            math.fsum(count * _cost(mechanism, self.order) for mechanism, count in listed) <= self.capacity
            and spent.gap_epsilon <= self.gap.gap_epsilon
            and spent.gap_delta <= self.gap.gap_delta
        )

    def remaining(self, releases: Iterable[tuple[Mechanism, int]]) -> Spending:
        """Return what is left for full-batch releases, as the μ² that costs as much divergence; never negative."""
        listed = [(mechanism, count) for mechanism, count in releases if count]
        left = self.capacity - math.fsum(count * _cost(mechanism, self.order) for mechanism, count in listed)
        spent = total(listed)
        return Spending(
            max(0.0, 2 * left / self.order),  # one release costs order·μ²/2
            max(0.0, self.gap.gap_epsilon - spent.gap_epsilon),
            max(0.0, self.gap.gap_delta - spent.gap_delta),
        )


def best_order(mechanism: Mechanism, epsilon: float, delta: float) -> float:
    """Return the order at which (`epsilon`, `delta`) holds most releases of `mechanism`."""
    inner_epsilon, inner_delta, _ = _without_gap(epsilon, delta)
    return max(RDP_ORDERS, key=lambda order: rdp_capacity(order, inner_epsilon, inner_delta) / _cost(mechanism, order))


def settled_order(spec: BudgetSpec, accounts: Iterable[Account]) -> float | None:
    """Return the order at which a Rényi filter judges `accounts`; None when all are full batch, which GDP judges."""
    sampled = {account.mechanism for account in accounts if account.mechanism.sampling_rate < 1}
    return min((best_order(mechanism, spec.epsilon, spec.delta) for mechanism in sampled), default=None)


def admits(spec: BudgetSpec, held: Collection[Account], opened: Collection[Account]) -> bool:
    """Return True when `opened` fits beside `held`; raises Refused when it would change a filter that is settled."""
    accounts = (*held, *opened)
    order = settled_order(spec, accounts)
    if any(account.charged for account in held) and order != settled_order(spec, held):
        raise Refused(
            "the first charge settled the filter, and this sampling rate and noise need another one",
            cure="use all records or more noise, or ask the data's holder for a new budget",
        )
    if order is None:
        return GdpFilter.of(spec.epsilon, spec.delta).fits(committed(accounts))
    return RdpFilter.of(spec.epsilon, spec.delta, order).fits(
        (account.mechanism, account.committed) for account in accounts
    )


def remaining(spec: BudgetSpec, accounts: Collection[Account]) -> Spending:
    """Return what the filter that judges `accounts` has left for full-batch releases."""
    order = settled_order(spec, accounts)
    if order is None:
        return GdpFilter.of(spec.epsilon, spec.delta).remaining(committed(accounts))
    return RdpFilter.of(spec.epsilon, spec.delta, order).remaining(
        (account.mechanism, account.committed) for account in accounts
    )


def committed(accounts: Iterable[Account]) -> Spending:
    """Return what `accounts` hold: reservations of open ones, charges of closed ones."""
    return total((account.mechanism, account.committed) for account in accounts)


def _cost(mechanism: Mechanism, order: float) -> float:
    return release_rdp(mechanism.noise_multiplier, order, sampling_rate=mechanism.sampling_rate)


def _without_gap(epsilon: float, delta: float) -> tuple[float, float, Spending]:
    """Return the ε and δ left to the Gaussians when the gap uses all of its own capacity, and that capacity."""
    gap_epsilon = _GAP_SHARE * epsilon
    gap_delta = _GAP_SHARE * delta / (1 + math.exp(epsilon))
    inner_epsilon = epsilon - 2 * gap_epsilon
    # e^G·δ' + (1 + e^(G+ε'))·e^G·H = δ, see accountants.
    inner_delta = delta * math.exp(-gap_epsilon) - (1 + math.exp(gap_epsilon + inner_epsilon)) * gap_delta
    return inner_epsilon, inner_delta, Spending(0.0, gap_epsilon, gap_delta)


def _capacity(epsilon: float, delta: float) -> float:
    """Return the largest μ² at which a Gaussian is (`epsilon`, `delta`) private, rounded down."""
    target = math.log(delta)
    # δ(ε) grows with μ: below 1e-300 at μ = ε/40, and all but 1 at μ = ε + 40.
    mu = float(brentq(lambda m: log_gaussian_delta(m, epsilon) - target, epsilon / 40, epsilon + 40, xtol=1e-13))
    return (mu * (1 - 1e-11)) ** 2  # the root is good to 1e-12 of itself; a capacity is never too large

"""ε of composed Gaussian releases: exact, by privacy loss distribution, and by Rényi differential privacy.

Neighbours replace one record by a null record. Full-batch Gaussians compose to one Gaussian: k releases with noise
multiplier σ have μ² = k/σ² in Gaussian differential privacy (Dong, Roth, Su 2019), so their exact ε is known
in closed form. Poisson-sampled ones have no such form: PLD and RDP compose them.

With a gap (G, H) summed over all releases, the real mechanism is (2G + ε', e^G·δ' + (1 + e^(G+ε'))·e^G·H) private
when the Gaussian one is (ε', δ'): once from the real output to the Gaussian's, once back on the neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, reduce
from typing import Any

from scipy.optimize import brentq
from scipy.special import log_ndtr

from foedus_ledger.mechanisms import Mechanism, Spending, total

# One step of the loss grid is μ/5000: the pessimistic error is then below 1e-7 up to ε = 8 (measured against the
# exact value), in 0.1 s. Sampled mechanisms use 1e-4, the library's own default.
_STEPS_PER_MU = 5000
_SAMPLED_STEP = 1e-4
# Added to what a sampled release costs at one order: far more than the rounding of its series (a few 1e-14, against an
# integral), so that no cost is too small, and 1e-7 in 10,000 releases.
_RDP_SLACK = 1e-11
_PROBE = 1e-30  # δ at which a divergence is read from the library: small enough that no shortcut to ε = 0 applies

# Dense between 1.25 and 64: at ε = 1 the best order lies between 7 and 17 (sampled) or above 20 (full batch).
RDP_ORDERS: tuple[float, ...] = (
    *(1.25 + 0.25 * i for i in range(15)),
    *(5 + 0.125 * i for i in range(120)),
    *(20 + 0.5 * i for i in range(89)),
)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the exact δ(ε) of the Gaussian mechanism with sensitivity/σ = `mu` (Balle and Wang 2018)."""
    if mu == 0:
        return 0.0
    return math.exp(log_gaussian_delta(mu, epsilon))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the smallest ε at which the Gaussian mechanism with `mu` is (ε, `delta`) private."""
    if delta <= 0:
        return math.inf if mu > 0 else 0.0
    if mu == 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    target = math.log(delta)
    # δ(ε) ≤ Φ(μ/2 − ε/μ): at μ²/2 + 40μ it is Φ(−40), below every δ that a float can hold.
    return float(
        brentq(lambda e: log_gaussian_delta(mu, e) - target, 0.0, mu * mu / 2 + 40 * mu, xtol=1e-13, rtol=1e-14)
    )


def log_gaussian_delta(mu: float, epsilon: float) -> float:
    """Return ln δ(ε) of the Gaussian mechanism with `mu` > 0; minus infinity where δ is 0."""
    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    # The difference of the two terms, kept in logarithms: δ may be 1e-200.
    return first + math.log(-math.expm1(second - first)) if second < first else -math.inf


def pld_epsilon(noise_multiplier: float, count: int, delta: float, *, sampling_rate: float = 1.0) -> float:
    """Return ε of `count` releases by privacy loss distribution; an upper bound."""
    if count == 0:
        return 0.0
    return float(_pld(noise_multiplier, count, sampling_rate).get_epsilon_for_delta(delta))


def rdp_epsilon(noise_multiplier: float, count: int, delta: float, *, sampling_rate: float = 1.0) -> float:
    """Return ε of `count` releases by Rényi differential privacy with dense orders; an upper bound."""
    if count == 0:
        return 0.0
    return float(_rdp([_event(noise_multiplier, count, sampling_rate)]).get_epsilon(delta))


@lru_cache(maxsize=4096)
def release_rdp(noise_multiplier: float, order: float, *, sampling_rate: float = 1.0) -> float:
    """Return the Rényi divergence of `order` that one release costs; an upper bound, infinity when there is none.

    Full batch: order/2σ² (Mironov 2017, proposition 7). Sampled: Mironov, Talwar and Zhang 2019, by dp_accounting.
    """
    if sampling_rate == 1:
        return order / (2 * noise_multiplier * noise_multiplier)
    told = float(_rdp([_event(noise_multiplier, 1, sampling_rate)], (order,)).get_epsilon(_PROBE))
    return max(0.0, told + rdp_capacity(order, 0.0, _PROBE)) + _RDP_SLACK


def rdp_capacity(order: float, epsilon: float, delta: float) -> float:
    """Return the divergence of `order` at which (`epsilon`, `delta`) is reached; negative when nothing is within it.

    Canonne, Kamath and Steinke 2020, proposition 12 (Balle et al. 2020): ε = ρ + ln(1 − 1/α) − ln(δα)/(α − 1).
    """
    return epsilon - math.log1p(-1 / order) + math.log(delta * order) / (order - 1)


def composed_gaussian_epsilon(releases: Iterable[tuple[Mechanism, int]], delta: float) -> float:
    """Return ε of all `releases` together, their gap included: exact for full batch, above it for sampled ones."""
    spent = total(releases)
    mu = math.sqrt(spent.mu_squared)
    return _with_gap(lambda d: gaussian_epsilon(mu, d), spent, delta)


def composed_pld_epsilon(releases: Sequence[tuple[Mechanism, int]], delta: float) -> float:
    """Return ε of all `releases` together by privacy loss distribution, their gap included.

    It is never below the closed form of the same composition: should the discretised value be, the closed form holds.
    """
    spent = total(releases)
    mu = math.sqrt(spent.mu_squared)
    if mu == 0:
        return 0.0
    if any(mechanism.sampling_rate < 1 for mechanism, _ in releases):
        mixed = _mixed_pld(releases)
        return _with_gap(lambda d: float(mixed.get_epsilon_for_delta(d)), spent, delta)
    pld = _pld(1 / mu, 1, 1.0)
    return _with_gap(lambda d: max(float(pld.get_epsilon_for_delta(d)), gaussian_epsilon(mu, d)), spent, delta)


def composed_rdp_epsilon(releases: Iterable[tuple[Mechanism, int]], delta: float) -> float:
    """Return ε of all `releases` together by Rényi differential privacy, their gap included."""
    listed = [(mechanism, count) for mechanism, count in releases if count]
    if not listed:
        return 0.0
    spent = total(listed)
    full = total(each for each in listed if each[0].sampling_rate == 1).mu_squared
    events = [
        _event(each.noise_multiplier, count, each.sampling_rate) for each, count in listed if each.sampling_rate < 1
    ]
    if full:
        events.append(_event(1 / math.sqrt(full), 1, 1.0))
    accountant = _rdp(events)
    return _with_gap(lambda d: float(accountant.get_epsilon(d)), spent, delta)


def _with_gap(epsilon_at: Callable[[float], float], spent: Spending, delta: float) -> float:
    """Return ε at `delta` of the real mechanism when `epsilon_at` is the Gaussian's; infinity when the gap is too wide.

    Solves e^G·δ' + (1 + e^(G+ε'))·e^G·H ≤ δ from the safe side: ε' at δ/2 bounds ε' at any δ' ≥ δ/2.
    """
    if spent.gap_epsilon == 0 and spent.gap_delta == 0:
        return epsilon_at(delta)
    highest = epsilon_at(delta / 2)
    if spent.gap_epsilon + highest > 700:  # exp overflows, and no such ε means anything
        return math.inf
    inner = delta * math.exp(-spent.gap_epsilon) - (1 + math.exp(spent.gap_epsilon + highest)) * spent.gap_delta
    return epsilon_at(inner) + 2 * spent.gap_epsilon if inner >= delta / 2 else math.inf


def _pld(noise_multiplier: float, count: int, sampling_rate: float) -> Any:
    # Imported here: it takes a second, and a command that only prints its help should not wait for it.
    from dp_accounting.pld import privacy_loss_distribution as library

    if sampling_rate == 1:
        mu = math.sqrt(count) / noise_multiplier
        return library.from_gaussian_mechanism(1 / mu, value_discretization_interval=mu / _STEPS_PER_MU)
    single = library.from_gaussian_mechanism(
        noise_multiplier, value_discretization_interval=_SAMPLED_STEP, sampling_prob=sampling_rate
    )
    return single.self_compose(count)


def _mixed_pld(releases: Iterable[tuple[Mechanism, int]]) -> Any:
    """Return the loss distribution of full-batch and sampled releases together, on the sampled ones' grid."""
    from dp_accounting.pld import privacy_loss_distribution as library

    listed = [(mechanism, count) for mechanism, count in releases if count]
    parts = [_pld(each.noise_multiplier, count, each.sampling_rate) for each, count in listed if each.sampling_rate < 1]
    full = total(each for each in listed if each[0].sampling_rate == 1).mu_squared
    if full:
        parts.append(library.from_gaussian_mechanism(1 / math.sqrt(full), value_discretization_interval=_SAMPLED_STEP))
    return reduce(lambda left, right: left.compose(right), parts, library.identity(_SAMPLED_STEP))


def _rdp(events: Iterable[Any], orders: Sequence[float] = RDP_ORDERS) -> Any:
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders)
    for event in events:
        accountant.compose(event)
    return accountant


def _event(noise_multiplier: float, count: int, sampling_rate: float) -> Any:
    import dp_accounting

    release: Any = dp_accounting.GaussianDpEvent(noise_multiplier)
    if sampling_rate != 1:
        release = dp_accounting.PoissonSampledDpEvent(sampling_rate, release)
    return dp_accounting.SelfComposedDpEvent(release, count)

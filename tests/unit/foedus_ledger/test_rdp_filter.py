"""The Rényi filter against published values, integrals and dp_accounting, and when a budget may use it."""

import math

import mpmath
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus_contract.errors import Refused
from foedus_ledger.accountants import (
    RDP_ORDERS,
    composed_pld_epsilon,
    composed_rdp_epsilon,
    gaussian_delta,
    pld_epsilon,
    rdp_capacity,
    rdp_epsilon,
    release_rdp,
)
from foedus_ledger.filters import GdpFilter, RdpFilter, best_order, settled_order
from foedus_ledger.ledger import BudgetRecord, BudgetSpec, charge, check_transition, close, epsilon_spent, reserve
from foedus_ledger.mechanisms import Mechanism, total
from foedus_ledger.records import Account
from foedus_ledger.sqlite import SqliteLedger

DELTA = 1e-5
SPEC = BudgetSpec(digest="sha256:" + "0" * 64, records=170, epsilon=1.0, delta=DELTA)
FRESH = BudgetRecord(spec=SPEC)


def sampled(rate: float, sigma: float = 1.1) -> Mechanism:
    return Mechanism(noise_multiplier=sigma, sampling_rate=rate)


FULL = Mechanism(noise_multiplier=20.0)
Q01 = sampled(0.01)  # best order 10.625
Q005 = sampled(0.005)  # best order 11.875


def exact_divergence(rate: float, sigma: float, order: float) -> float:
    """Integrate ln E[((1 − q) + q·e^((2z − 1)/2σ²))^α] / (α − 1), z ~ N(0, σ²)."""
    with mpmath.workdps(40):
        q, s, a = mpmath.mpf(rate), mpmath.mpf(sigma), mpmath.mpf(order)

        def density(z: mpmath.mpf) -> mpmath.mpf:
            return ((1 - q) + q * mpmath.exp((2 * z - 1) / (2 * s * s))) ** a * mpmath.npdf(z, 0, s)

        points = [-20 * s, -5 * s, 0, a / 2, a, a + 5 * s, a + 20 * s]
        return float(mpmath.log(mpmath.quad(density, points)) / (a - 1))


@pytest.mark.parametrize(("sigma", "order", "want"), [(1.0, 2.0, 1.0), (2.0, 8.0, 1.0), (10.0, 1.25, 0.00625)])
def test_a_full_batch_gaussian_costs_order_over_twice_its_variance(sigma, order, want):
    assert release_rdp(sigma, order) == pytest.approx(want, rel=1e-15)


# `above`: at low broken orders dp_accounting adds a series' alternating terms without their signs, an upper bound.
@pytest.mark.parametrize(
    ("rate", "sigma", "order", "above"),
    [
        (0.01, 1.1, 10.625, 1e-6),
        (0.01, 1.1, 11.0, 1e-6),
        (0.002, 1.1, 13.875, 1e-6),
        (0.02, 2.0, 16.5, 1e-6),
        (0.05, 0.8, 3.0, 1e-6),
        (0.05, 0.8, 3.5, 2e-3),
        (0.3, 5.0, 64.0, 1e-6),
        (1e-4, 20.0, 24.0, 1e-6),
        (1e-6, 1e4, 20.0, 1e-6),
        (1e-9, 1e6, 1.25, 1e-6),
    ],
)
def test_a_sampled_gaussian_costs_its_integral_and_never_less(rate, sigma, order, above):
    exact = exact_divergence(rate, sigma, order)
    assert exact <= release_rdp(sigma, order, sampling_rate=rate) <= exact * (1 + above) + 1.2e-11


@pytest.mark.parametrize(("epsilon", "delta", "order"), [(1.0, 1e-5, 10.625), (3.0, 1e-6, 7.0), (8.0, 1e-5, 3.75)])
def test_a_capacity_in_full_use_is_the_budget_by_dp_accounting(epsilon, delta, order):
    # A Gaussian with order/2σ² = ρ uses a divergence ρ of that order.
    sigma = math.sqrt(order / (2 * rdp_capacity(order, epsilon, delta)))
    told = RdpAccountant([order]).compose(GaussianDpEvent(sigma)).get_epsilon(delta)
    assert told == pytest.approx(epsilon, rel=1e-12)


# Balle and Wang 2018, theorem 8. μ = 1: δ(1) = Φ(−½) − e·Φ(−3/2); (1, 1e-5) needs σ = 3.7306.
@pytest.mark.parametrize(("sigma", "epsilon", "delta"), [(1.0, 1.0, 0.1269367), (3.730632, 1.0, 1e-5)])
def test_gdp_is_the_analytic_gaussian(sigma, epsilon, delta):
    assert gaussian_delta(1 / sigma, epsilon) == pytest.approx(delta, rel=1e-4)
    capacity = GdpFilter.of(epsilon, delta)
    assert capacity.fits(total([(Mechanism(noise_multiplier=sigma * 1.001), 1)]))
    assert not capacity.fits(total([(Mechanism(noise_multiplier=sigma), 1)]))  # the gap's share is kept back


def most_releases(mechanism: Mechanism) -> int:
    """Return the largest count that a fresh budget holds, by bisection."""
    budget = RdpFilter.of(SPEC.epsilon, SPEC.delta, best_order(mechanism, SPEC.epsilon, SPEC.delta))
    low, high = 0, 1 << 15
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if budget.fits([(mechanism, middle)]) else (low, middle)
    return low


# Steps that dense orders allow at σ = 1.1, ε ≤ 1, δ = 1e-5; the filter keeps up to 0.3 % back for the gap.
@pytest.mark.parametrize(
    ("rate", "least", "most"), [(0.02, 3, 4), (0.01, 111, 141), (0.005, 1156, 1160), (0.002, 10_166, 10_199)]
)
def test_the_filter_allows_the_published_steps(rate, least, most):
    assert least <= most_releases(sampled(rate)) <= most


def test_the_ledger_holds_a_sampled_job_to_the_same_count():
    assert reserve(FRESH, "a", Q005, 1156, "engine").accounts["a"].reserved == 1156
    with pytest.raises(Refused, match=r"1161 releases .* sampling rate 0\.005 exceed .* order 11\.875 has left"):
        reserve(FRESH, "a", Q005, 1161, "engine")


@pytest.mark.parametrize("releases", [[(Q01, 100), (Q005, 50)], [(Q01, 60), (FULL, 3)], [(Q01, 0), (FULL, 2)]])
def test_releases_of_all_kinds_compose_in_both_accountants(releases):
    accountant = RdpAccountant(RDP_ORDERS)
    for mechanism, count in (each for each in releases if each[1]):
        event = PoissonSampledDpEvent(mechanism.sampling_rate, GaussianDpEvent(mechanism.noise_multiplier))
        accountant.compose(SelfComposedDpEvent(event, count))
    rdp = composed_rdp_epsilon(releases, DELTA)
    assert rdp == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-9)
    assert 0 < composed_pld_epsilon(releases, DELTA) < rdp


def test_one_sampled_job_is_what_the_single_accountants_say():
    assert composed_pld_epsilon([(Q01, 100)], DELTA) == pytest.approx(pld_epsilon(1.1, 100, DELTA, sampling_rate=0.01))
    assert composed_rdp_epsilon([(Q01, 100)], DELTA) == pytest.approx(rdp_epsilon(1.1, 100, DELTA, sampling_rate=0.01))


def opened(*mechanisms: Mechanism, charges: int = 0) -> BudgetRecord:
    """Return a budget with an account of two releases for each of `mechanisms`; the first has made `charges`."""
    now = FRESH
    for number, mechanism in enumerate(mechanisms):
        now = reserve(now, f"job-{number}", mechanism, 2, "engine")
    for attempt in range(charges):
        now = charge(now, "job-0", attempt, sampling_rate=mechanisms[0].sampling_rate)
    return now


@pytest.mark.parametrize(
    ("now", "mechanism", "settled"),
    [
        (FRESH, FULL, None),
        (FRESH, Q01, 10.625),
        (opened(FULL), Q01, 10.625),
        (opened(Q005), Q01, 10.625),
        (close(opened(FULL), "job-0"), Q005, 11.875),
        (opened(FULL, charges=1), FULL, None),
        (opened(Q01, charges=1), Q01, 10.625),
        (opened(Q01, charges=1), Q005, 10.625),
        (opened(Q01, charges=1), FULL, 10.625),
        (opened(FULL, Q01, charges=1), Q005, 10.625),
    ],
)
def test_a_filter_is_chosen_until_the_first_charge_and_kept_afterwards(now, mechanism, settled):
    new = reserve(now, "next", mechanism, 1, "engine")
    check_transition(now, new)
    assert settled_order(SPEC, new.accounts.values()) == settled


@pytest.mark.parametrize(
    ("now", "mechanism"),
    [
        (opened(FULL, charges=1), Q01),
        (close(opened(FULL, charges=1), "job-0"), Q01),
        (opened(Q005, charges=1), Q01),
    ],
)
def test_a_filter_that_a_charge_has_settled_is_not_changed(now, mechanism):
    with pytest.raises(Refused, match="first charge settled the filter"):
        reserve(now, "next", mechanism, 1, "engine")
    account = Account(mechanism=mechanism, reserved=1, claimant="engine")
    forged = BudgetRecord(spec=SPEC, accounts=now.accounts | {"next": account}, version=now.version + 1)
    with pytest.raises(Refused, match="first charge settled the filter"):
        check_transition(now, forged)


@pytest.mark.parametrize("gap", [{"gap_epsilon": 1e-3}, {"gap_delta": 1e-9}])
def test_a_sampled_releases_gap_has_its_own_capacity(gap):
    with pytest.raises(Refused, match="exceed"):
        reserve(FRESH, "a", Mechanism(noise_multiplier=1.1, sampling_rate=0.002, **gap), 1, "engine")


@pytest.mark.parametrize("drawn", [{}, {"sampling_rate": 0.011}, {"sampling_rate": math.nan}])
def test_a_release_of_more_records_than_reserved_for_is_not_charged(drawn):
    with pytest.raises(Refused, match=r"sampling rate .* is above 0\.01"):
        charge(opened(Q01), "job-0", 0, **drawn)


def test_a_stored_ledger_holds_a_sampled_job_and_charges_no_full_batch_to_it(tmp_path):
    stored = SqliteLedger(tmp_path / "ledger.sqlite")
    stored.create(SPEC)
    stored.reserve("b-first", Q005, 2, "engine")
    stored.reserve("a-second", Q01, 2, "engine")
    assert settled_order(SPEC, stored.read().accounts.values()) == 10.625
    with pytest.raises(Refused, match=r"sampling rate 1 is above 0\.005, which job b-first has reserved for"):
        stored.charge("b-first", 0, noise_multiplier=1.1)
    assert stored.read().accounts["b-first"].charged == 0


def test_what_a_sampled_job_spent_is_told_with_its_sampling():
    now = opened(Q01, charges=2)
    assert epsilon_spent(now) == pytest.approx(pld_epsilon(1.1, 2, DELTA, sampling_rate=0.01))


@given(epsilon=st.floats(0.05, 20), delta=st.floats(1e-9, 1e-3), sigma=st.floats(1.0, 500), order=st.floats(1.25, 64))
def test_gdp_holds_at_least_as_many_full_batch_gaussians_as_any_order(epsilon, delta, sigma, order):
    mechanism = Mechanism(noise_multiplier=sigma)
    by_rdp = math.floor(RdpFilter.of(epsilon, delta, order).capacity / release_rdp(sigma, order))
    assert by_rdp <= 0 or GdpFilter.of(epsilon, delta).fits(total([(mechanism, by_rdp)]))


STEP = st.tuples(st.sampled_from([FULL, Q01, Q005, sampled(0.02, 2.0), sampled(0.3, 30.0)]), st.integers(1, 400))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(STEP, st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
def test_no_adaptive_sequence_exceeds_the_budget_or_changes_its_filter(steps):
    now, settled, released = FRESH, None, False
    for number, ((mechanism, count), charges, ends) in enumerate(steps):
        try:
            new = reserve(now, f"job-{number}", mechanism, count, "engine")
        except Refused:
            continue
        check_transition(now, new)
        for attempt in range(min(charges, count)):
            new = charge(new, f"job-{number}", attempt, sampling_rate=mechanism.sampling_rate)
        now = close(new, f"job-{number}") if ends else new
        order = settled_order(SPEC, now.accounts.values())
        assert not released or order == settled
        settled, released = order, released or charges > 0
        assert independent_epsilon(now, order) <= SPEC.epsilon


def independent_epsilon(now: BudgetRecord, order: float | None) -> float:
    """Return ε of all that is held by dp_accounting at one order, or by the closed form's own inverse."""
    held = [(account.mechanism, account.committed) for account in now.accounts.values() if account.committed]
    if order is None:
        mu = math.sqrt(sum(count / mechanism.noise_multiplier**2 for mechanism, count in held))
        return SPEC.epsilon if mu == 0 or gaussian_delta(mu, SPEC.epsilon) <= DELTA else math.inf
    accountant = RdpAccountant([order])
    for mechanism, count in held:
        event = PoissonSampledDpEvent(mechanism.sampling_rate, GaussianDpEvent(mechanism.noise_multiplier))
        accountant.compose(SelfComposedDpEvent(event, count))
    return accountant.get_epsilon(DELTA)

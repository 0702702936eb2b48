"""Accountants against independent oracles: the closed form in mpmath, Opacus, and a published-style table."""

import itertools
import math

import mpmath
import pytest
from opacus.accountants import PRVAccountant, RDPAccountant

from foedus_ledger.accountants import (
    RDP_ORDERS,
    composed_gaussian_epsilon,
    composed_pld_epsilon,
    composed_rdp_epsilon,
    gaussian_delta,
    gaussian_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from foedus_ledger.mechanisms import Mechanism

DELTA = 1e-5


def exact_delta(mu: float, epsilon: float) -> mpmath.mpf:
    with mpmath.workdps(60):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


@pytest.mark.parametrize(
    ("mu", "epsilon"),
    [(0.268, 1.0), (0.268, 0.0), (0.01, 0.03), (1e-4, 1e-4), (1.0, 4.0), (1.0, 0.0), (3.0, 16.0), (0.3, 8.0)],
)
def test_gaussian_delta_is_the_closed_form(mu, epsilon):
    assert gaussian_delta(mu, epsilon) == pytest.approx(float(exact_delta(mu, epsilon)), rel=1e-9)


@pytest.mark.parametrize(("mu", "delta"), [(0.268, 1e-5), (0.0585, 1e-5), (1.0, 1e-5), (3.0, 1e-9), (1e-3, 1e-6)])
def test_gaussian_epsilon_is_where_the_closed_form_meets_delta(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    assert exact_delta(mu, epsilon - 1e-9) > delta > exact_delta(mu, epsilon + 1e-9)


@pytest.mark.parametrize(
    ("mu", "delta", "want"), [(0.0, 1e-5, 0.0), (0.0, 0.0, 0.0), (1.0, 0.0, math.inf), (1e-6, 1e-5, 0.0)]
)
def test_gaussian_epsilon_at_its_edges(mu, delta, want):
    assert gaussian_epsilon(mu, delta) == want


@pytest.mark.parametrize(
    ("sigma", "count"), [(17.1, 21), (16.7, 20), (26.4, 50), (6.4, 21), (2.75, 21), (1.1, 1), (1117.0, 21), (5.0, 1)]
)
def test_pld_is_the_closed_form_to_1e_6_and_never_below_it(sigma, count):
    exact = gaussian_epsilon(math.sqrt(count) / sigma, DELTA)
    assert exact - 1e-12 <= pld_epsilon(sigma, count, DELTA) <= exact + 1e-6


@pytest.mark.parametrize(("sigma", "count"), [(17.1, 21), (6.4, 21), (2.75, 21)])
def test_rdp_bounds_the_closed_form_from_above(sigma, count):
    exact = gaussian_epsilon(math.sqrt(count) / sigma, DELTA)
    assert exact < rdp_epsilon(sigma, count, DELTA) < 1.15 * exact


# Opacus takes log(1 − q) at q = 1, and its own RDP orders end below the best one.
@pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning", "ignore:Optimal order is:UserWarning")
@pytest.mark.parametrize(
    ("sigma", "rate", "count"), [(17.1, 1.0, 21), (6.37, 1.0, 21), (1.1, 0.01, 420), (1.1, 0.05, 3), (4.0, 0.1, 100)]
)
def test_pld_lies_within_the_error_bounds_of_opacus_prv(sigma, rate, count):
    accountant = PRVAccountant()
    accountant.history = [(sigma, rate, count)]
    distribution = accountant._get_dprv(eps_error=0.01, delta_error=DELTA / 1000)
    lower, _, upper = distribution.compute_epsilon(DELTA, DELTA / 1000, 0.01)
    assert lower <= pld_epsilon(sigma, count, DELTA, sampling_rate=rate) <= upper


@pytest.mark.parametrize(
    ("sigma", "rate", "count"), [(17.1, 1.0, 21), (2.75, 1.0, 21), (1.1, 0.01, 111), (1.1, 0.05, 3), (4.0, 0.1, 100)]
)
def test_rdp_equals_opacus_rdp_over_the_same_orders(sigma, rate, count):
    accountant = RDPAccountant()
    accountant.history = [(sigma, rate, count)]
    want, _ = accountant.get_privacy_spent(delta=DELTA, alphas=list(RDP_ORDERS))
    assert rdp_epsilon(sigma, count, DELTA, sampling_rate=rate) == pytest.approx(want, rel=1e-6)


# Steps that σ = 1.1 allows at ε ≤ 1, δ = 1e-5: the last that fits and the first that does not. At q = 0.005 and 0.002
# the source gives three digits.
@pytest.mark.parametrize(
    ("rate", "fits", "too_many"),
    [(0.1, 0, 1), (0.05, 3, 4), (0.02, 71, 72), (0.01, 420, 422), (0.005, 1940, 1980), (0.002, 12_900, 13_500)],
)
def test_steps_that_pld_allows(rate, fits, too_many):
    assert pld_epsilon(1.1, fits, DELTA, sampling_rate=rate) <= 1.0
    assert pld_epsilon(1.1, too_many, DELTA, sampling_rate=rate) > 1.0


@pytest.mark.parametrize(
    ("rate", "fits", "too_many"),
    [(0.1, 0, 1), (0.05, 0, 1), (0.02, 4, 5), (0.01, 141, 142), (0.005, 1160, 1161), (0.002, 10_196, 10_200)],
)
def test_steps_that_rdp_allows(rate, fits, too_many):
    assert rdp_epsilon(1.1, fits, DELTA, sampling_rate=rate) <= 1.0
    assert rdp_epsilon(1.1, too_many, DELTA, sampling_rate=rate) > 1.0


def test_orders_are_dense_from_1_25_to_64():
    assert (RDP_ORDERS[0], RDP_ORDERS[-1]) == (1.25, 64.0)
    assert max(b - a for a, b in itertools.pairwise(RDP_ORDERS)) <= 0.5
    assert sum(5 <= order <= 20 for order in RDP_ORDERS) == 121


@pytest.mark.parametrize("composed", [composed_gaussian_epsilon, composed_pld_epsilon, composed_rdp_epsilon])
def test_releases_of_different_noise_compose_by_mu_squared(composed):
    # 9/3² + 16/4² + 25/5² = 3: as many as three releases at σ = 1.
    mixed = [(Mechanism(noise_multiplier=float(s)), s * s) for s in (3, 4, 5)]
    single = [(Mechanism(noise_multiplier=1.0), 3)]
    assert composed(mixed, DELTA) == pytest.approx(composed(single, DELTA), abs=1e-9)


@pytest.mark.parametrize("composed", [composed_gaussian_epsilon, composed_pld_epsilon, composed_rdp_epsilon])
@pytest.mark.parametrize("releases", [[], [(Mechanism(noise_multiplier=1.0), 0)]])
def test_nothing_released_costs_nothing(composed, releases):
    assert composed(releases, DELTA) == 0.0


def test_the_gap_is_paid_twice_in_epsilon_and_once_in_delta():
    mechanism = Mechanism(noise_multiplier=17.1, gap_epsilon=1e-4, gap_delta=1e-8)
    epsilon = composed_gaussian_epsilon([(mechanism, 21)], DELTA)
    g, h = mpmath.mpf("0.0021"), mpmath.mpf("2.1e-7")
    inner = epsilon - 2 * g
    delta = mpmath.exp(g) * exact_delta(math.sqrt(21) / 17.1, inner) + (1 + mpmath.exp(g + inner)) * mpmath.exp(g) * h
    assert 0.98 * DELTA < delta <= DELTA * (1 + 1e-9)


@pytest.mark.parametrize("gap", [{"gap_delta": 1e-6}, {"gap_delta": 0.5}, {"gap_epsilon": 0.9}])
def test_a_gap_too_wide_promises_nothing(gap):
    mechanism = Mechanism(noise_multiplier=17.1, **gap)
    assert composed_pld_epsilon([(mechanism, 1000)], DELTA) == math.inf

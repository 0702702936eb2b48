"""The filter across jobs: its capacity against the closed form, and what counts as held."""

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus_ledger.filters import GdpFilter, committed
from foedus_ledger.mechanisms import Mechanism, Spending, total
from foedus_ledger.records import Account


def account(sigma: float, reserved: int, charged: int = 0, state: str = "Open") -> Account:
    return Account(
        mechanism=Mechanism(noise_multiplier=sigma, gap_epsilon=1e-12, gap_delta=1e-40),
        reserved=reserved,
        charged=charged,
        last_attempt=charged - 1,
        claimant="engine",
        state=state,
    )


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(1.0, 1e-5), (0.01, 1e-5), (3.0, 1e-6), (8.0, 1e-5), (1e-3, 1e-9), (50.0, 1e-5)]
)
def test_full_use_of_every_capacity_is_epsilon_delta_private_and_hardly_less(epsilon, delta):
    capacity = GdpFilter.of(epsilon, delta).capacity
    with mpmath.workdps(60):
        mu, g, h = mpmath.sqrt(capacity.mu_squared), mpmath.mpf(capacity.gap_epsilon), mpmath.mpf(capacity.gap_delta)
        inner = epsilon - 2 * g
        gauss = mpmath.ncdf(mu / 2 - inner / mu) - mpmath.exp(inner) * mpmath.ncdf(-mu / 2 - inner / mu)
        whole = mpmath.exp(g) * gauss + (1 + mpmath.exp(g + inner)) * mpmath.exp(g) * h
    assert 0.999 * delta <= whole <= delta


@pytest.mark.parametrize(
    ("spent", "fits"),
    [
        (Spending(0.0, 0.0, 0.0), True),
        (Spending(0.0718, 0.0, 0.0), True),
        (Spending(0.0719, 0.0, 0.0), False),
        (Spending(0.0, 1e-4, 0.0), True),
        (Spending(0.0, 1.01e-4, 0.0), False),
        (Spending(0.0, 0.0, 2.6e-10), True),
        (Spending(0.0, 0.0, 2.7e-10), False),
    ],
)
def test_each_quantity_has_a_capacity_of_its_own(spent, fits):
    assert GdpFilter.of(1.0, 1e-5).fits(spent) is fits


@pytest.mark.parametrize(
    ("accounts", "mu_squared"),
    [
        ([], 0.0),
        ([account(10.0, 20)], 0.20),
        ([account(10.0, 20, charged=5)], 0.20),
        ([account(10.0, 20, charged=5, state="Closed")], 0.05),
        ([account(10.0, 20, state="Closed")], 0.0),
        ([account(10.0, 20, charged=5, state="Closed"), account(5.0, 3)], 0.17),
    ],
)
def test_open_accounts_hold_what_they_reserved_closed_ones_what_was_charged(accounts, mu_squared):
    assert committed(accounts).mu_squared == pytest.approx(mu_squared, abs=1e-15)


def test_what_is_left_is_never_negative():
    filter_ = GdpFilter.of(1.0, 1e-5)
    assert filter_.remaining(Spending(9.0, 9.0, 0.5)) == Spending(0.0, 0.0, 0.0)
    assert filter_.remaining(Spending(0.0, 0.0, 0.0)) == filter_.capacity


@given(st.floats(0.01, 40), st.floats(1e-12, 1e-3), st.floats(1.01, 1.2))
def test_a_larger_budget_has_a_larger_capacity(epsilon, delta, factor):
    base = GdpFilter.of(epsilon, delta).capacity.mu_squared
    assert GdpFilter.of(epsilon * factor, delta).capacity.mu_squared > base
    assert GdpFilter.of(epsilon, delta * factor).capacity.mu_squared > base


def test_totals_add_each_release():
    releases = [(Mechanism(noise_multiplier=2.0, gap_epsilon=1e-6, gap_delta=1e-12), 4)]
    assert total(releases) == Spending(1.0, 4e-6, 4e-12)

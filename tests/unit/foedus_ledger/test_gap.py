"""The discretisation gap against the distributions themselves, summed in mpmath at scales where it is visible."""

import math
from itertools import product

import mpmath
import pytest

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_ledger.gap import GAP_DELTA, discretisation_gap, sum_divergence


@pytest.fixture(autouse=True)
def _many_digits():
    with mpmath.workdps(60):
        yield


def discrete_gaussian(scale: float, reach: int) -> list[mpmath.mpf]:
    weights = [mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(scale) ** 2)) for x in range(-reach, reach + 1)]
    whole = mpmath.fsum(weights)
    return [weight / whole for weight in weights]


def rounded_gaussian_log_ratio(scale: float, points: list[int]) -> dict[int, mpmath.mpf]:
    """ln q(x)/p(x) for the rounded and the discrete Gaussian of one scale; Z is S√2π to 1e-300 at these scales."""
    s = mpmath.mpf(scale)
    ratios = {}
    for x in points:
        q = mpmath.quad(lambda y: mpmath.npdf(y, 0, s), [x - mpmath.mpf(1) / 2, x + mpmath.mpf(1) / 2])
        ratios[x] = mpmath.log(q * s * mpmath.sqrt(2 * mpmath.pi)) + mpmath.mpf(x) ** 2 / (2 * s**2)
    return ratios


@pytest.mark.parametrize(("scale", "shares"), [(0.75, 2), (1.0, 2), (1.0, 3), (1.25, 3)])
def test_sum_of_shares_is_within_tau_of_one_discrete_gaussian(scale, shares):
    reach = 24
    share = discrete_gaussian(scale, reach)
    total = share
    for _ in range(shares - 1):
        longer = [mpmath.mpf(0)] * (len(total) + 2 * reach)
        for (i, a), (j, b) in product(enumerate(total), enumerate(share)):
            longer[i + j] += a * b
        total = longer
    one = discrete_gaussian(scale * math.sqrt(shares), shares * reach)
    middle = shares * reach
    # Three standard deviations: further out the cut at `reach` shows.
    inside = range(middle - 6, middle + 7)
    worst = max(abs(mpmath.log(total[x] / one[x])) for x in inside)
    assert 0 < worst <= sum_divergence(scale, shares)


@pytest.mark.parametrize(("scale", "shares", "coordinates"), [(64.0, 1, 1), (64.0, 6, 4), (200.0, 6, 1000)])
def test_rounding_bound_covers_every_point_where_all_but_delta_of_the_mass_lies(scale, shares, coordinates):
    wide = scale * math.sqrt(shares)
    gap = discretisation_gap(scale, shares, coordinates)
    # A vector whose coordinates are all r·S has W = d·r²; the largest W that chi-square allows but for 1e-40.
    tail = math.log(4 / GAP_DELTA)
    top = coordinates + 2 * math.sqrt(coordinates * tail) + 2 * tail
    bottom = max(0.0, coordinates - 2 * math.sqrt(coordinates * tail))
    points = [round(wide * math.sqrt(w / coordinates)) for w in (bottom, coordinates, top)]
    ratios = rounded_gaussian_log_ratio(wide, points)
    worst = max(abs(coordinates * ratio) for ratio in ratios.values())
    assert worst <= gap.epsilon
    assert worst >= gap.epsilon / 2  # sound, and still of the right size


def test_rounding_ratio_is_the_one_that_the_derivation_states():
    ratio = rounded_gaussian_log_ratio(64.0, [0])[0]
    assert float(ratio) == pytest.approx(-1 / (24 * 64**2), rel=1e-3)


@pytest.mark.parametrize(
    ("scale", "shares", "coordinates", "below"),
    [(7.0e6, 6, 8_000, 1e-12), (1e6, 6, 147_456, 1e-9), (3.0e3, 33, 147_456, 1e-5), (64.0, 3, 1 << 24, 2e3)],
)
def test_gap_at_the_sizes_that_jobs_have(scale, shares, coordinates, below):
    gap = discretisation_gap(scale, shares, coordinates)
    assert 0 < gap.epsilon < below
    assert gap.delta == 1e-40


def test_gap_falls_with_scale_and_grows_with_coordinates():
    assert discretisation_gap(200.0, 6, 100).epsilon < discretisation_gap(100.0, 6, 100).epsilon
    assert discretisation_gap(100.0, 6, 200).epsilon > discretisation_gap(100.0, 6, 100).epsilon


@pytest.mark.parametrize("scale", [63.9, 0.0, -1.0, math.nan])
def test_a_grid_too_coarse_is_refused(scale):
    with pytest.raises(InvalidInput, match="below 64; use fewer records") as caught:
        discretisation_gap(scale, 6, 100)
    assert caught.value.code is ExitCode.UNPLANNABLE

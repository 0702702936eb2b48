"""The discretisation gap: how far the noise that silos really add is from the Gaussian that is accounted.

Real noise of one release: R = Σ of m independent discrete Gaussians N_Z(0, s²) in each of d coordinates, where m is
the number of honest shares that are certain (n_min). Honest shares beyond m are independent of the data, so adding
them is post-processing. Two steps lead from R to a Gaussian.

(i) Sum to one. Kairouz, Liu and Steinke (2021, "The Distributed Discrete Gaussian Mechanism") bound the max divergence
between Σ of m copies of N_Z(0, s²) and N_Z(0, S²), S² = m·s², in both directions and for each coordinate, by
τ = 10·Σ_{k=1}^{m−1} exp(−2π²·s²·k/(k+1)).

(ii) Discrete to rounded. Let p be N_Z(0, S²) and q the law of round(Y), Y ~ N(0, S²). For an integer x, with
a = x/S² and u uniform on [−½, ½],  q(x)/p(x) = (Z/(S√2π)) · E[cosh(a·u)·exp(−u²/2S²)],  where Poisson summation
gives 1 ≤ Z/(S√2π) ≤ 1 + 3·exp(−2π²S²).
  Above: cosh grows and exp(−u²/2S²) falls in |u|, so the expectation of the product is at most the product of
  expectations; E cosh(a·u) ≤ exp(a²/24) and E exp(−u²/2S²) ≤ exp(−1/24S² + 1/640S⁴).
  Below: E exp(−u²/2S²) ≥ exp(−1/24S²) by Jensen; under the tilted law of u, E u² ≥ 1/12 − 1/160S², hence
  E cosh(a·u) ≥ 1 + a²/24 − a²/320S², and ln(1+z) ≥ z − z²/2.
Summed over d coordinates with W = ‖x‖²/S²:
  |ln q(x)/p(x)| ≤ |W − d|/24S² + d/640S⁴ + W/320S⁴ + W²/1152S⁴ + 3d·exp(−2π²S²).

W is within D of d but for a probability h. For chi-square, Laurent and Massart (2000) give
d − 2√(dL) ≤ W ≤ d + 2√(dL) + 2L but for e^−L on each side. p is sub-Gaussian with parameter S (Canonne, Kamath and
Steinke 2020), so its upper tail obeys the same Chernoff bound. Its lower tail does up to the factor
(1 + 3·exp(−2π²S²/(1 + 2√(L/d))))^d, which is 1 to within 1e-300 at S ≥ 64. Under q, rounding moves ‖x‖ by at most
√d/2, so W by at most √(d·W)/S + d/4S².

q plus integer data is the rounding of (data + Y): post-processing of the Gaussian mechanism. So one release is
(ε_gap, δ_gap)-close, in both directions, to a function of the Gaussian's: ε_gap = d·τ + the bound of (ii), δ_gap = h.
The bound is sound, not tight; at S ≥ 1e6 it is far below anything that is printed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode

MIN_SCALE = 64.0  # every exp(−2π²s²·…) of the derivation is then below 1e-300
GAP_DELTA = 1e-40  # so small that e^ε · attempts · GAP_DELTA stays far below any δ; costs only a √log in ε_gap
_TAIL = math.log(4 / GAP_DELTA)  # two tails of e^−L each, and a factor of two for the corrections of 1e-300


@dataclass(frozen=True)
class Gap:
    """Distance of one release from the accounted Gaussian, or the sum of such distances."""

    epsilon: float
    delta: float


def sum_divergence(share_scale_grid: float, shares: int) -> float:
    """Return τ of step (i) for one coordinate: max divergence of Σ of `shares` discrete Gaussians from one."""
    rate = 2 * math.pi**2 * share_scale_grid**2
    return 10 * math.fsum(math.exp(-rate * k / (k + 1)) for k in range(1, shares))


def discretisation_gap(share_scale_grid: float, shares: int, coordinates: int) -> Gap:
    """Return the gap of one release with `shares` honest noise shares of scale `share_scale_grid` grid units.

    Falls when the scale grows, so the gap at a smaller σ bounds the gap at a larger one. Raises InvalidInput when
    the grid is too coarse for the bound.
    """
    if not share_scale_grid >= MIN_SCALE:
        raise InvalidInput(
            f"the noise of one share is {share_scale_grid:g} grid units, below {MIN_SCALE:g}",
            where="privacy grid",
            cure="use fewer records or fewer silos in one job",
            code=ExitCode.UNPLANNABLE,
        )
    variance = shares * share_scale_grid**2
    return Gap(coordinates * sum_divergence(share_scale_grid, shares) + _rounding(variance, coordinates), GAP_DELTA)


def _rounding(variance: float, coordinates: int) -> float:
    """Return the bound of step (ii)."""
    d = float(coordinates)
    spread = 2 * math.sqrt(d * _TAIL) + 2 * _TAIL
    width = spread + math.sqrt(d * (d + spread) / variance) + d / (4 * variance)
    top = d + width
    fourth = variance * variance
    wrap = 3 * d * math.exp(-2 * math.pi**2 * variance)
    return width / (24 * variance) + d / (640 * fourth) + top / (320 * fourth) + top**2 / (1152 * fourth) + wrap

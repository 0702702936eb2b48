"""The smallest noise multiplier under which a whole plan keeps its own promise and every budget's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foedus_contract.errors import InvalidInput, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_ledger.accountants import composed_pld_epsilon, composed_rdp_epsilon
from foedus_ledger.filters import GdpFilter, admits, remaining
from foedus_ledger.gap import Gap
from foedus_ledger.mechanisms import MAX_NOISE_MULTIPLIER, Mechanism, Spending, total
from foedus_ledger.records import MAX_EPSILON, Account, BudgetRecord

NO_GAP = Gap(0.0, 0.0)
_PLACES = 1e6  # σ is rounded up to six places: it is then printed exactly, and rounding never eats privacy
_MAX_STEPS = 40  # the closed form is within 1e-7 of the PLD, so one or two steps suffice; each step doubles


@dataclass(frozen=True)
class Calibration:
    """What a plan needs: σ, its ε by both accountants (gap included), and μ of all attempts together."""

    noise_multiplier: float
    epsilon_pld: float
    epsilon_rdp: float
    mu: float
    mechanism: Mechanism


def calibrate(
    epsilon: float,
    delta: float,
    attempts: int,
    *,
    minimum: float = 1.1,
    budgets: Mapping[str, BudgetRecord] | None = None,
    gap: Gap = NO_GAP,
) -> Calibration:
    """Return the smallest σ ≥ `minimum` at which `attempts` releases fit (ε, δ) and all `budgets`, by their names.

    `gap` is one release's; pass the one at `minimum`, which bounds it at every larger σ. Raises InvalidInput when no σ
    keeps the plan's own promise, Refused when what is left of a budget is too little; both name the place.
    """
    _check_request(epsilon, delta, attempts)
    own = GdpFilter.of(epsilon, delta)
    needs = [_needed(own.capacity, attempts, gap)]
    left = {name: remaining(record.spec, record.accounts.values()) for name, record in (budgets or {}).items()}
    needs += [_needed(each, attempts, gap) for each in left.values()]
    if math.isinf(needs[0]):
        raise _unplannable(epsilon, delta, attempts)
    for name, need in zip(budgets or {}, needs[1:], strict=True):
        if math.isinf(need):
            raise _exhausted(name, (budgets or {})[name], attempts)
    sigma = _round_up(max(minimum, *needs))
    for step in range(_MAX_STEPS):
        mechanism = Mechanism(noise_multiplier=_round_up(sigma), gap_epsilon=gap.epsilon, gap_delta=gap.delta)
        found = _measure(mechanism, attempts, delta)
        if found.epsilon_pld <= epsilon and _fits_all(mechanism, attempts, own, budgets or {}):
            return found
        sigma = min(MAX_NOISE_MULTIPLIER, sigma + 2**step / _PLACES)
    raise _unplannable(epsilon, delta, attempts)


def _check_request(epsilon: float, delta: float, attempts: int) -> None:
    if not 0 < epsilon <= MAX_EPSILON:
        raise InvalidInput(
            f"ε = {epsilon:g} is not above 0 and at most {MAX_EPSILON:g}",
            where="spec.privacy.epsilon",
            cure="choose an ε such as 1.0",
        )
    if not 0 < delta < 1:
        raise InvalidInput(
            f"δ = {delta:g} is not between 0 and 1", where="spec.privacy.delta", cure="choose a δ such as 1e-5"
        )
    if attempts < 1:
        raise InvalidInput("a plan needs at least one attempt", where="spec.training.rounds", cure="ask for 1 or more")


def _needed(left: Spending, attempts: int, gap: Gap) -> float:
    """Return the σ at which `attempts` releases just fit into `left`; infinity when none up to the maximum does."""
    gap_fits = attempts * gap.epsilon <= left.gap_epsilon and attempts * gap.delta <= left.gap_delta
    if not gap_fits or left.mu_squared <= 0:
        return math.inf
    need = math.sqrt(attempts / left.mu_squared)
    return need if need < MAX_NOISE_MULTIPLIER else math.inf


def _fits_all(mechanism: Mechanism, attempts: int, own: GdpFilter, budgets: Mapping[str, BudgetRecord]) -> bool:
    if not own.fits(total([(mechanism, attempts)])):
        return False
    account = Account(mechanism=mechanism, reserved=attempts, claimant="calibration")
    return all(admits(record.spec, record.accounts.values(), (account,)) for record in budgets.values())


def _measure(mechanism: Mechanism, attempts: int, delta: float) -> Calibration:
    releases = [(mechanism, attempts)]
    return Calibration(
        noise_multiplier=mechanism.noise_multiplier,
        epsilon_pld=composed_pld_epsilon(releases, delta),
        epsilon_rdp=composed_rdp_epsilon(releases, delta),
        mu=math.sqrt(total(releases).mu_squared),
        mechanism=mechanism,
    )


def _round_up(sigma: float) -> float:
    nearest = round(sigma * _PLACES) / _PLACES
    return nearest if nearest >= sigma else (round(sigma * _PLACES) + 1) / _PLACES


def _unplannable(epsilon: float, delta: float, attempts: int) -> InvalidInput:
    return InvalidInput(
        f"no noise multiplier keeps {attempts} attempts within ε = {epsilon:g}, δ = {delta:g}",
        where="spec.privacy.epsilon",
        cure="allow a larger ε or fewer rounds",
        code=ExitCode.UNPLANNABLE,
    )


def _exhausted(name: str, record: BudgetRecord, attempts: int) -> Refused:
    return Refused(
        f"what is left of its ε = {record.spec.epsilon:g} does not hold {attempts} attempts at any noise",
        where=f"PrivacyBudget {name}",
        cure="let open jobs end, or ask its holder for a new budget",
    )

"""Calibration: the smallest noise that keeps a plan's promise and every budget's, or a clear refusal."""

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant

from foedus_contract.errors import InvalidInput, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_ledger import ledger
from foedus_ledger.accountants import pld_epsilon
from foedus_ledger.calibration import calibrate
from foedus_ledger.gap import Gap, discretisation_gap
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetRecord, BudgetSpec

DIGEST = "sha256:" + "0" * 64


def budget(epsilon: float = 1.0, delta: float = 1e-5) -> BudgetRecord:
    return BudgetRecord(spec=BudgetSpec(digest=DIGEST, records=170, epsilon=epsilon, delta=delta))


def after_job(record: BudgetRecord, attempts: int, charged: int) -> BudgetRecord:
    mechanism = calibrate(record.spec.epsilon, record.spec.delta, attempts).mechanism
    record = ledger.reserve(record, "first", mechanism, attempts, "engine")
    for attempt in range(charged):
        record = ledger.charge(record, "first", attempt)
    return ledger.close(record, "first")


# σ that an independent measurement gave for full batches at δ = 1e-5, to the digits it printed.
@pytest.mark.parametrize(
    ("epsilon", "attempts", "sigma"),
    [(1.0, 20, 16.7), (3.0, 20, 6.2), (8.0, 20, 2.7), (1.0, 50, 26.4), (3.0, 50, 9.8), (8.0, 50, 4.2)],
)
def test_noise_multipliers_of_full_batch_plans(epsilon, attempts, sigma):
    assert calibrate(epsilon, 1e-5, attempts).noise_multiplier == pytest.approx(sigma, abs=0.06)


@pytest.mark.parametrize(("epsilon", "delta", "attempts"), [(1.0, 1e-5, 21), (0.1, 1e-6, 3), (8.0, 1e-5, 200)])
def test_the_plan_keeps_its_promise_and_no_smaller_noise_would(epsilon, delta, attempts):
    found = calibrate(epsilon, delta, attempts)
    assert 0.9995 * epsilon < found.epsilon_pld <= epsilon < found.epsilon_rdp
    assert pld_epsilon(found.noise_multiplier * 0.999, attempts, delta) > epsilon


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("gap", [Gap(0.0, 0.0), discretisation_gap(7e6, 6, 8000)])
def test_a_plan_fits_a_fresh_budget_of_its_own_size(epsilon, gap):
    found = calibrate(epsilon, 1e-5, 21, gap=gap)
    record = ledger.reserve(budget(epsilon), "job", found.mechanism, 21, "engine")
    assert ledger.epsilon_reserved(record) <= epsilon
    assert calibrate(epsilon, 1e-5, 21, gap=gap, budgets={"fresh": budget(epsilon)}) == found


def test_the_minimum_holds_when_privacy_asks_for_less():
    assert calibrate(50.0, 1e-5, 1).noise_multiplier == 1.1
    assert calibrate(50.0, 1e-5, 1, minimum=2.5).noise_multiplier == 2.5


def test_a_second_job_gets_what_the_first_left():
    record = after_job(budget(), attempts=21, charged=20)
    found = calibrate(1.0, 1e-5, 21, budgets={"silo-01": record})
    assert found.noise_multiplier == pytest.approx(17.1 * 21**0.5, rel=2e-3)
    record = ledger.reserve(record, "second", found.mechanism, 21, "engine")
    assert 0.999 < ledger.epsilon_reserved(record) <= 1.0


@pytest.mark.parametrize(
    ("other", "tighter"),
    [(budget(0.5), True), (budget(1.0, 1e-6), True), (budget(2.0), False), (budget(1.0, 1e-4), False)],
)
def test_the_tightest_budget_decides_through_its_own_epsilon_and_delta(other, tighter):
    alone = calibrate(1.0, 1e-5, 21)
    found = calibrate(1.0, 1e-5, 21, budgets={"a": budget(), "b": other})
    assert (found.noise_multiplier > alone.noise_multiplier) is tighter
    ledger.reserve(other, "job", found.mechanism, 21, "engine")


# The order that a first charge at q = 0.01 and σ = 1.1 settles, as test_rdp_filter has it.
SAMPLED, ORDER = Mechanism(noise_multiplier=1.1, sampling_rate=0.01), 10.625


def sampled_budget(count: int) -> BudgetRecord:
    record = ledger.reserve(budget(), "first", SAMPLED, count, "engine")
    for attempt in range(count):
        record = ledger.charge(record, "first", attempt, sampling_rate=0.01)
    return ledger.close(record, "first")


def rdp_oracle(count: int, sigma: float, attempts: int) -> float:
    """Return ε of the sampled job and of a plan after it, by dp_accounting at the settled order alone."""
    accountant = RdpAccountant((ORDER,))
    accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(0.01, GaussianDpEvent(1.1)), count))
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(sigma), attempts))
    return float(accountant.get_epsilon(1e-5))


@pytest.mark.parametrize(("count", "attempts"), [(10, 21), (100, 21), (100, 5)])
def test_after_a_sampled_job_a_plan_is_the_smallest_that_the_renyi_filter_holds(count, attempts):
    record = sampled_budget(count)
    found = calibrate(1.0, 1e-5, attempts, budgets={"silo-01": record})
    assert 0.999 < rdp_oracle(count, found.noise_multiplier, attempts) <= 1.0
    assert rdp_oracle(count, found.noise_multiplier * 0.99, attempts) > 1.0
    assert found.noise_multiplier > calibrate(1.0, 1e-5, attempts).noise_multiplier  # GDP holds more of full batches
    ledger.reserve(record, "second", found.mechanism, attempts, "engine")


def test_a_used_up_budget_of_a_sampled_job_is_named_before_anything_starts():
    record = sampled_budget(100)
    found = calibrate(1.0, 1e-5, 1, budgets={"silo": record})
    record = ledger.charge(ledger.reserve(record, "second", found.mechanism, 1, "engine"), "second", 0)
    assert rdp_oracle(100, found.noise_multiplier, 1) > 0.999
    with pytest.raises(Refused) as caught:
        calibrate(1.0, 1e-5, 10_000, budgets={"silo-01": budget(), "silo-02": record})
    assert str(caught.value).startswith("PrivacyBudget silo-02: what is left of its ε = 1 does not hold 10000 attempts")


def test_a_spent_budget_is_named():
    record = after_job(budget(), attempts=21, charged=21)
    with pytest.raises(Refused) as caught:
        calibrate(1.0, 1e-5, 10_000, budgets={"silo-01": budget(), "silo-02": record})
    assert caught.value.code is ExitCode.BUDGET_REFUSED
    assert str(caught.value).startswith("PrivacyBudget silo-02: what is left of its ε = 1 does not hold 10000 attempts")


@pytest.mark.parametrize(
    ("epsilon", "delta", "attempts", "code", "where"),
    [
        (0.0, 1e-5, 21, ExitCode.INVALID_SPEC, "spec.privacy.epsilon"),
        (-1.0, 1e-5, 21, ExitCode.INVALID_SPEC, "spec.privacy.epsilon"),
        (float("nan"), 1e-5, 21, ExitCode.INVALID_SPEC, "spec.privacy.epsilon"),
        (51.0, 1e-5, 21, ExitCode.INVALID_SPEC, "spec.privacy.epsilon"),
        (1.0, 0.0, 21, ExitCode.INVALID_SPEC, "spec.privacy.delta"),
        (1.0, 1.0, 21, ExitCode.INVALID_SPEC, "spec.privacy.delta"),
        (1.0, 1e-5, 0, ExitCode.INVALID_SPEC, "spec.training.rounds"),
        (1e-7, 1e-9, 10_000, ExitCode.UNPLANNABLE, "spec.privacy.epsilon"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(epsilon, delta, attempts, code, where):
    with pytest.raises(InvalidInput) as caught:
        calibrate(epsilon, delta, attempts)
    assert (caught.value.code, caught.value.where) == (code, where)
    assert caught.value.cure


def test_a_gap_wider_than_its_allowance_is_unplannable():
    with pytest.raises(InvalidInput) as caught:
        calibrate(1.0, 1e-5, 21, gap=Gap(1e-5, 1e-40))
    assert caught.value.code is ExitCode.UNPLANNABLE

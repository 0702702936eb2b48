"""The ledger's transitions: what is refused, what never goes back, and a state machine over two jobs."""

import math
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import ValidationError

from foedus_contract.errors import InvalidInput, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_ledger.ledger import (
    Account,
    BudgetRecord,
    BudgetSpec,
    charge,
    check_transition,
    close,
    epsilon_reserved,
    epsilon_spent,
    reserve,
)
from foedus_ledger.mechanisms import Mechanism

DIGEST = "sha256:" + "0" * 64
SPEC = BudgetSpec(digest=DIGEST, records=170, epsilon=1.0, delta=1e-5, owner="Hospital A")
# μ at which a Gaussian is (1, 1e-5) private, from the closed form; the ledger allows a little less.
MU_LIMIT = 0.2680518
COARSE = Mechanism(noise_multiplier=10.0)  # 7 releases fit: 7/100 < μ² = 0.07185 < 8/100


def record(reserved: int = 5, charged: int = 0, closed: bool = False) -> BudgetRecord:
    now = reserve(BudgetRecord(spec=SPEC), "job-a", COARSE, reserved, "engine")
    for attempt in range(charged):
        now = charge(now, "job-a", attempt)
    return close(now, "job-a") if closed else now


def test_life_of_an_account():
    now = record(reserved=5)
    assert now.accounts["job-a"] == Account(mechanism=COARSE, reserved=5, claimant="engine")
    now = charge(charge(now, "job-a", 0), "job-a", 3)
    assert (now.accounts["job-a"].charged, now.accounts["job-a"].last_attempt, now.version) == (2, 3, 3)
    now = close(now, "job-a")
    assert (now.accounts["job-a"].state, now.accounts["job-a"].charged, now.version) == ("Closed", 2, 4)


def test_the_reservation_that_would_pass_the_limit_is_refused():
    assert reserve(BudgetRecord(spec=SPEC), "job-a", COARSE, 7, "engine").accounts["job-a"].reserved == 7
    with pytest.raises(Refused, match=r"bring ε from 0\.0000 to 1\.06\d\d, above the limit 1 ") as caught:
        reserve(BudgetRecord(spec=SPEC), "job-a", COARSE, 8, "engine")
    assert caught.value.code is ExitCode.BUDGET_REFUSED


def test_a_thousand_jobs_fill_a_ledger_and_none_of_them_is_forgotten_for_another():
    spent = Account(mechanism=Mechanism(noise_multiplier=1e5), reserved=1, charged=1, last_attempt=0, claimant="engine")
    closed = spent.model_copy(update={"state": "Closed"})
    full = BudgetRecord(spec=SPEC, accounts={f"job-{number}": closed for number in range(999)} | {"last": spent})
    with pytest.raises(Refused, match="holds 1000 accounts and has no room for another; ask its holder"):
        reserve(full, "job-a", COARSE, 1, "engine")
    assert close(full, "last").accounts["last"].state == "Closed"
    one_less = BudgetRecord(spec=SPEC, accounts={uid: full.accounts[uid] for uid in list(full.accounts)[1:]})
    assert len(reserve(one_less, "job-a", COARSE, 1, "engine").accounts) == 1000


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (record(5), 2, True),
        (record(5), 3, False),
        (record(5, charged=2), 3, False),
        (record(5, charged=2, closed=True), 5, True),
        (record(5, charged=2, closed=True), 6, False),
        (record(7, closed=True), 7, True),
        (record(7, charged=7, closed=True), 1, False),
    ],
)
def test_a_second_job_gets_what_is_left(first, second, fits):
    if fits:
        assert reserve(first, "job-b", COARSE, second, "engine").accounts["job-b"].reserved == second
    else:
        with pytest.raises(Refused, match="above the limit 1"):
            reserve(first, "job-b", COARSE, second, "engine")


def test_noise_whose_gap_does_not_fit_is_refused():
    with pytest.raises(Refused, match="discretisation gap does not fit"):
        reserve(
            BudgetRecord(spec=SPEC), "a", Mechanism(noise_multiplier=99.0, gap_epsilon=1e-3, gap_delta=0), 1, "engine"
        )


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_a_count_out_of_range_is_invalid(count):
    with pytest.raises(InvalidInput, match="cannot be reserved; reserve 1 to 10000"):
        reserve(BudgetRecord(spec=SPEC), "job-a", Mechanism(noise_multiplier=1e6), count, "engine")


def test_the_same_reservation_again_changes_nothing():
    now = record(5, charged=2)
    assert reserve(now, "job-a", COARSE, 5, "engine") is now


@pytest.mark.parametrize(
    ("now", "mechanism", "count", "claimant", "why"),
    [
        (record(5), COARSE, 4, "engine", "a different account"),
        (record(5), Mechanism(noise_multiplier=11.0), 5, "engine", "a different account"),
        (record(5), COARSE, 5, "other engine", "a different account"),
        (record(5, closed=True), COARSE, 5, "engine", "a closed account"),
    ],
)
def test_another_reservation_of_the_same_job_is_refused(now, mechanism, count, claimant, why):
    with pytest.raises(Refused, match=why):
        reserve(now, "job-a", mechanism, count, claimant)


@pytest.mark.parametrize(
    ("now", "job", "attempt", "noise", "why"),
    [
        (record(5), "job-b", 0, None, "has reserved nothing"),
        (record(5, closed=True), "job-a", 0, None, "is closed"),
        (record(5, charged=5), "job-a", 9, None, "all 5 reserved releases of job job-a are charged"),
        (record(5, charged=2), "job-a", 1, None, "attempt 1 of job job-a is not above the last charged one, 1"),
        (record(5, charged=2), "job-a", 0, None, "attempt 0 of job job-a is not above"),
        (record(5), "job-a", -1, None, "attempt -1 of job job-a is not above"),
        (record(5), "job-a", 0, 9.99, "noise multiplier 9.99 is below 10, which job job-a has reserved for"),
        (record(5), "job-a", 0, math.nan, "noise multiplier nan"),
    ],
)
def test_charges_that_are_refused(now, job, attempt, noise, why):
    with pytest.raises(Refused, match=why):
        charge(now, job, attempt, noise_multiplier=noise)


@pytest.mark.parametrize("now", [record(5, closed=True), BudgetRecord(spec=SPEC)])
def test_closing_a_closed_or_absent_account_changes_nothing(now):
    assert close(now, "job-a") is now


def test_epsilon_spent_counts_charges_and_epsilon_reserved_what_may_still_come():
    now = record(7, charged=3)
    # √(3/100) and √(7/100) in the closed form: 0.6200 and 0.9858 at δ = 1e-5.
    assert epsilon_spent(now) == pytest.approx(0.6200, abs=5e-5)
    assert epsilon_reserved(now) == pytest.approx(0.9858, abs=5e-5)
    assert epsilon_reserved(close(now, "job-a")) == epsilon_spent(now)
    assert epsilon_spent(BudgetRecord(spec=SPEC)) == 0.0


def changed(now: BudgetRecord, **changes: object) -> BudgetRecord:
    account = Account(**(dict(now.accounts["job-a"]) | changes))
    return BudgetRecord(spec=now.spec, accounts={"job-a": account}, version=now.version + 1)


BEFORE = record(5, charged=2)


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (BudgetRecord(spec=SPEC, version=4), "account of job job-a is missing"),
        (changed(BEFORE, charged=1, last_attempt=0), "rise one at a time"),
        (changed(BEFORE, charged=4, last_attempt=4), "rise one at a time"),
        (changed(BEFORE, charged=3, last_attempt=2, reserved=6), "never change"),
        (changed(BEFORE, reserved=4), "never change"),
        (changed(BEFORE, mechanism=Mechanism(noise_multiplier=20.0)), "never change"),
        (changed(BEFORE, claimant="thief"), "never change"),
        (changed(BEFORE, last_attempt=5), "rise one at a time"),
        (BEFORE, "version 3 does not follow 3"),
        (changed(BEFORE).model_copy(update={"version": 9}), "version 9 does not follow 3"),
        (changed(BEFORE).model_copy(update={"spec": SPEC.model_copy(update={"epsilon": 9.0})}), "spec never changes"),
    ],
)
def test_transitions_that_give_something_back_are_refused(new, why):
    with pytest.raises(Refused, match=why):
        check_transition(BEFORE, new)


@pytest.mark.parametrize(
    ("account", "why"),
    [
        (Account(mechanism=COARSE, reserved=3, claimant="engine"), "exceed the budget"),
        (Account(mechanism=COARSE, reserved=1, claimant="engine", charged=1, last_attempt=0), "open and uncharged"),
        (Account(mechanism=COARSE, reserved=1, claimant="engine", state="Closed"), "open and uncharged"),
    ],
)
def test_new_accounts_that_are_refused(account, why):
    new = BudgetRecord(spec=SPEC, accounts={**BEFORE.accounts, "job-b": account}, version=4)
    with pytest.raises(Refused, match=why):
        check_transition(BEFORE, new)


def test_a_closed_account_is_final():
    closed = record(5, charged=2, closed=True)
    for change in ({"state": "Open"}, {"charged": 3, "last_attempt": 2}):
        with pytest.raises(Refused, match="closed for good"):
            check_transition(closed, changed(closed, **change))


@pytest.mark.parametrize(
    "fields",
    [
        {"reserved": 1, "charged": 2, "last_attempt": 4},
        {"reserved": 5, "charged": 2, "last_attempt": 0},
        {"reserved": 0},
        {"reserved": 5, "state": "Ajar"},
        {"reserved": 5, "unknown": 1},
    ],
)
def test_accounts_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        Account(**({"mechanism": COARSE, "claimant": "engine"} | fields))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"epsilon": 0.0}, "greater than 0"),
        ({"epsilon": math.inf}, "less than or equal to 50|finite"),
        ({"delta": 0.0}, "greater than 0"),
        ({"delta": 0.01}, "delta must be below 1/records"),
        ({"records": 0}, "greater than or equal to 1"),
        ({"digest": "md5:1"}, "should match pattern"),
    ],
)
def test_budgets_that_promise_nothing_are_refused(fields, why):
    with pytest.raises(ValidationError, match=why):
        BudgetSpec(**(SPEC.model_dump() | fields))


@pytest.mark.parametrize("rate", [-0.5, 0.0, 1.5, math.nan])
def test_sampling_rates_that_are_no_probability_are_refused(rate):
    with pytest.raises(ValidationError, match=r"samplingRate|sampling_rate"):
        Mechanism(noise_multiplier=1.0, sampling_rate=rate)


class TwoJobs(RuleBasedStateMachine):
    """Reserve, charge and close of two jobs in any order, beside a count kept in exact fractions."""

    def __init__(self) -> None:
        super().__init__()
        self.record = BudgetRecord(spec=SPEC)
        self.released: list[int] = []  # σ of every charge that was granted
        self.attempts = {"job-a": 0, "job-b": 0}

    def step(self, new: BudgetRecord) -> None:
        if new is not self.record:
            check_transition(self.record, new)
        assert BudgetRecord.from_json(new.to_json()) == new
        self.record = new

    @rule(job=st.sampled_from(["job-a", "job-b"]), sigma=st.sampled_from([6, 10, 20]), count=st.integers(1, 25))
    def reserve(self, job: str, sigma: int, count: int) -> None:
        held = sum(Fraction(a.committed, round(a.mechanism.noise_multiplier) ** 2) for a in self.accounts())
        try:
            new = reserve(self.record, job, Mechanism(noise_multiplier=float(sigma)), count, "engine")
        except Refused:
            assert job in self.record.accounts or held + Fraction(count, sigma**2) > MU_LIMIT**2 * 0.999
            return
        self.step(new)

    @rule(job=st.sampled_from(["job-a", "job-b"]), skip=st.integers(-2, 2))
    def charge(self, job: str, skip: int) -> None:
        attempt = self.attempts[job] + skip
        account = self.record.accounts.get(job)
        try:
            new = charge(self.record, job, attempt)
        except Refused:
            assert account is None or account.state == "Closed" or account.charged == account.reserved or skip < 0
            return
        assert skip >= 0
        self.attempts[job] = attempt + 1
        self.released.append(round(account.mechanism.noise_multiplier))
        self.step(new)

    @precondition(lambda self: self.record.accounts)
    @rule(job=st.sampled_from(["job-a", "job-b"]))
    def close(self, job: str) -> None:
        self.step(close(self.record, job))

    def accounts(self) -> list[Account]:
        return list(self.record.accounts.values())

    @invariant()
    def every_release_was_charged_and_the_limit_holds(self) -> None:
        assert sum(a.charged for a in self.accounts()) == len(self.released)
        assert sum(Fraction(1, sigma**2) for sigma in self.released) <= MU_LIMIT**2
        assert all(a.charged <= a.reserved for a in self.accounts())


TwoJobs.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTwoJobs = TwoJobs.TestCase

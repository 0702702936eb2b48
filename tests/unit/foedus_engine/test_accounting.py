"""What accounting answers, and how often it is asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_engine import accounting
from foedus_engine.accounting import Accounting, Later, answer, make_question
from foedus_engine.decide.checks import kappa_of
from foedus_engine.decide.observed import Calibrated, ModelView, Unplannable
from foedus_engine.decide.plan import BudgetKey
from foedus_engine.decide.training_plan import make_training_plan
from foedus_ledger.accountants import gaussian_epsilon
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec
from support.brain import MODEL, RECORDS, SILOS, UID, job, reserved

SPEC = BudgetSpec(digest="sha256:" + "01" * 32, records=RECORDS, epsilon=1.0, delta=1e-5)
SHORT = Unplannable("Unplannable", "x")
KEYS = [BudgetKey("team-a", f"budget-{silo}") for silo in SILOS]


def account(sigma: float, reserved: int, **changes: Any) -> Account:
    return Account(mechanism=Mechanism(noise_multiplier=sigma), reserved=reserved, claimant="x", **changes)


def budgets(*accounts: dict[str, Account]) -> dict[BudgetKey, BudgetRecord]:
    """The first budgets have these accounts; the others are fresh."""
    filled = [*accounts, *[{}] * (len(KEYS) - len(accounts))]
    return {key: BudgetRecord(spec=SPEC, accounts=held) for key, held in zip(KEYS, filled, strict=True)}


def ask(records: dict[BudgetKey, BudgetRecord], **spec: Any) -> Calibrated | Unplannable:
    return answer(make_question(job(**spec), UID, records, MODEL))


def test_four_attempts_fit_a_fresh_budget_of_one() -> None:
    found = ask(budgets())

    assert isinstance(found, Calibrated)
    assert found.epsilon_pld <= 1.0
    # the exact ε of the Gaussian at this σ is just below the limit: nothing is given away
    assert gaussian_epsilon(2 / found.noise_multiplier, 1e-5) == pytest.approx(1.0, abs=1e-3)
    assert found.noise_multiplier == pytest.approx(found.fresh_noise_multiplier, abs=1e-4)
    assert 0 < found.gap_epsilon < 1e-8
    assert found.epsilon_rdp > found.epsilon_pld


def test_a_used_budget_asks_for_more_noise() -> None:
    fresh = ask(budgets())
    assert isinstance(fresh, Calibrated)
    used = account(fresh.noise_multiplier * 2, 4, charged=2, last_attempt=1, state="Closed")
    found = ask(budgets({"other-job": used}))

    assert isinstance(found, Calibrated)
    # two of four releases at twice the noise used an eighth of the capacity: σ grows by √(8/7)
    assert found.noise_multiplier / fresh.noise_multiplier == pytest.approx((8 / 7) ** 0.5, rel=1e-4)
    assert found.fresh_noise_multiplier == pytest.approx(fresh.noise_multiplier, abs=1e-4)


def test_the_budget_with_the_least_left_is_named() -> None:
    found = ask(budgets({"other-job": account(30.0, 4)}, {}, {"other-job": account(20.0, 4)}))

    assert isinstance(found, Calibrated)
    assert found.tightest == "team-a/budget-silo-3"


def test_an_exhausted_budget_is_named() -> None:
    found = ask(budgets({}, {"other-job": account(1.1, 4)}))

    assert isinstance(found, Unplannable)
    assert found.reason == "BudgetInsufficient"
    assert "team-a/budget-silo-2" in found.message


def test_what_is_reserved_is_kept_whatever_others_reserve_later() -> None:
    held = account(30.0, 4)
    alone = ask(budgets(*[{UID: held}] * 4))
    crowded = ask(budgets(*[{UID: held, "other-job": account(8.0, 4)}] * 4))

    assert isinstance(alone, Calibrated)
    assert alone.noise_multiplier == 30.0
    assert crowded == alone


def test_a_reservation_that_the_other_silos_cannot_make_is_refused() -> None:
    fresh = ask(budgets())
    assert isinstance(fresh, Calibrated)
    full = account(fresh.noise_multiplier, 4)
    found = ask(budgets({UID: full}, {"other-job": full}))

    assert isinstance(found, Unplannable)
    assert found.reason == "BudgetInsufficient"
    assert "team-a/budget-silo-2" in found.message


def test_local_noise_has_the_same_multiplier_and_rests_on_one_share() -> None:
    spread, local = ask(budgets()), ask(budgets(), privacy={"noise": "Local"})
    assert isinstance(spread, Calibrated)
    assert isinstance(local, Calibrated)
    assert local.noise_multiplier == spread.noise_multiplier
    assert gaussian_epsilon(2 / local.noise_multiplier, 1e-5) == pytest.approx(local.epsilon_pld, abs=1e-4)
    wanted = job(privacy={"noise": "Local"})
    plan = make_training_plan(wanted, reserved(), local)
    assert (plan.privacy.noise, plan.privacy.min_honest) == ("Local", 1)
    other = make_training_plan(job(), reserved(), spread)
    # n_min is 2 of four silos with distributed noise: κ grows by √2
    assert plan.kappa(130) / other.kappa(130) == pytest.approx(2**0.5, rel=1e-3)
    assert kappa_of(wanted, reserved(), local.noise_multiplier) == plan.kappa(130)


def test_no_multiplier_below_the_minimum() -> None:
    found = ask(budgets(), privacy={"minNoiseMultiplier": 50.0})

    assert isinstance(found, Calibrated)
    assert found.noise_multiplier == 50.0


@pytest.mark.parametrize("change", [{"records": 10**9}, {"records": 10**8, "min_honest": 2}])
def test_what_cannot_be_planned_says_so(change: dict[str, Any]) -> None:
    found = answer(replace(make_question(job(), UID, budgets(), MODEL), **change))

    assert isinstance(found, Unplannable)


def test_charges_of_the_job_itself_ask_nothing_new() -> None:
    before = budgets(*[{UID: account(30.0, 4)}] * 4)
    after = budgets(*[{UID: account(30.0, 4, charged=2, last_attempt=1)}] * 4)

    assert make_question(job(), UID, before, MODEL) == make_question(job(), UID, after, MODEL)


async def test_the_same_question_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(accounting, "answer", lambda question: asked.append(question) or SHORT)
    desk = Accounting(lambda _: MODEL)
    for _ in range(3):
        await desk.calibration(job(), UID, budgets(), MODEL)
    await desk.calibration(job(privacy={"epsilon": 2.0}), UID, budgets(), MODEL)

    assert len(asked) == 2


async def test_what_is_asked_again_and_again_is_never_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "CACHED_ANSWERS", 3)
    asked: list[float] = []
    monkeypatch.setattr(accounting, "answer", lambda question: asked.append(question.epsilon) or SHORT)
    desk = Accounting(lambda _: MODEL)
    for epsilon in (2.0, 3.0, 4.0, 5.0):
        for each in (1.0, epsilon):
            await desk.calibration(job(privacy={"epsilon": each}), UID, budgets(), MODEL)
    assert asked == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_a_budget_is_measured_every_half_minute_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(accounting, "measure", lambda record: len(record.accounts))
    desk = Accounting(None, clock=lambda: now)
    here, there = BudgetKey("team-a", "here"), BudgetKey("team-a", "there")
    used = account(30.0, 4)
    (record, *_), (more, *_) = budgets().values(), budgets(*[{UID: used}] * 4).values()

    assert await desk.used(here, record) == 0  # type: ignore[comparison-overlap]
    now = 10.0
    assert await desk.used(here, more) == Later(20.0)
    assert await desk.used(here, record) == 0  # type: ignore[comparison-overlap]  # known
    assert await desk.used(there, more) == 1  # type: ignore[comparison-overlap]
    now = 30.0
    assert await desk.used(here, more) == 1  # type: ignore[comparison-overlap]


async def test_no_pass_waits_for_another_budgets_measurement() -> None:
    """300 budgets after a failover: each holds a worker for its own measurement at most, and comes back in order."""
    now, done = 100.0, asyncio.Event()

    async def work(_function: object, _record: object) -> int:
        await done.wait()
        return 7

    desk = Accounting(None, work=work, clock=lambda: now)  # type: ignore[arg-type]
    first, *others = (BudgetKey("team-a", f"b-{number}") for number in range(300))
    (record, *_), (more, *_) = budgets().values(), budgets({UID: account(30.0, 4)}).values()
    under_way = asyncio.create_task(desk.used(first, record))
    await asyncio.sleep(0)
    assert [await desk.used(each, record) for each in others] == [Later(0.5 * number) for number in range(1, 300)]

    done.set()
    assert await under_way == 7  # type: ignore[comparison-overlap]
    now = 100.5
    assert await desk.used(others[0], more) == 7  # type: ignore[comparison-overlap]


async def test_a_model_is_read_once_but_a_failure_again() -> None:
    views = [InvalidInput("no config.json", where="/m", cure="name a model folder", code=ExitCode.INVALID_MODEL), MODEL]

    def read(_: object) -> ModelView:
        view = views.pop(0)
        if isinstance(view, InvalidInput):
            raise view
        return view

    desk = Accounting(read)
    source = job().spec.model.source

    assert (await desk.model(source)).problem == "/m: no config.json; name a model folder"
    assert await desk.model(source) == MODEL
    assert await desk.model(source) == MODEL


async def test_a_defect_of_the_reader_is_not_hidden() -> None:
    def read(_: object) -> ModelView:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Accounting(read).model(job().spec.model.source)

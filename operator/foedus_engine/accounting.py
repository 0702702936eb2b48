"""The accountants as the engine asks them: off the event loop, once for the same question.

The engine has no training framework, so what it must know of a base model comes from a reader that is injected. Where
the accountants run is injected, too: in a thread, or in a process of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from foedus_contract.errors import FoedusError, InvalidInput, Refused
from foedus_contract.scale import finest_grid, sensitivity
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.api.training_parts import ModelSource
from foedus_engine.decide.budget import Used
from foedus_engine.decide.observed import Calibrated, ModelView, Unplannable
from foedus_engine.decide.plan import BudgetKey
from foedus_engine.decide.training_plan import attempts, min_honest, size_on
from foedus_ledger.accountants import composed_pld_epsilon, composed_rdp_epsilon
from foedus_ledger.calibration import calibrate
from foedus_ledger.filters import GdpFilter, admits, remaining
from foedus_ledger.gap import Gap, discretisation_gap
from foedus_ledger.ledger import epsilon_reserved, epsilon_spent
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord

A = TypeVar("A")
K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")

EXHAUSTED_SHARE = 1e-4
# Each running job's question and each budget's ledger has a place, so that none is computed again at every look; an
# answer takes a few hundred bytes, and its key is a digest, for a ledger may take hundreds of thousands.
CACHED_ANSWERS = 4096
MEASURE_SECONDS = 30.0  # between two times that a budget is measured: each takes a third of a second of a processor
SLOT_SECONDS = 0.5  # after which the next budget of those that found another one being measured asks again

Budgets = Mapping[BudgetKey, BudgetRecord]


class Work(Protocol):
    """Runs a pure function elsewhere than on the event loop."""

    async def __call__(self, function: Callable[[A], T], argument: A, /) -> T:
        """Return what the function returns."""
        ...


class ModelReader(Protocol):
    """Reads a base model; may take seconds and is called in a worker. Raises FoedusError with the cure."""

    def __call__(self, source: ModelSource) -> ModelView:
        """Return what planning needs to know."""
        ...


@dataclass(frozen=True)
class Later:
    """What is used of a budget is not measured now: it may be asked for again in so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Question:
    """Everything that a calibration depends on. `held` is what the job has reserved already."""

    epsilon: float
    delta: float
    attempts: int
    minimum: float
    silos: int
    min_honest: int
    records: int
    coordinates: int
    budgets: tuple[tuple[str, str], ...]  # name and record (as JSON, so that the question can be a key)
    held: Mechanism | None


class Accounting:
    """Answers what planning asks about models and noise; remembers answers, never failures to read a model.

    Without a reader it knows no models: where the engine does not see them, a pod looks at them.
    """

    def __init__(
        self,
        read_model: ModelReader | None,
        *,
        work: Work = asyncio.to_thread,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_model = read_model
        self._work = work
        self._clock = clock
        self._models: OrderedDict[str, ModelView] = OrderedDict()
        self._answers: OrderedDict[bytes, Calibrated | Unplannable] = OrderedDict()
        self._used: OrderedDict[bytes, Used] = OrderedDict()
        self._measured: OrderedDict[BudgetKey, float] = OrderedDict()  # when a budget was last measured
        self._measures = False  # a budget, just now
        self._slot = 0.0  # when the last of those that wait for that asks again

    async def model(self, source: ModelSource) -> ModelView | None:
        """Return what is known of the base model; one that cannot be read has a problem. None without a reader."""
        if self._read_model is None:
            return None
        key = source.model_dump_json()
        if key not in self._models:
            view = await asyncio.to_thread(_read, self._read_model, source)
            if view.problem:
                return view
            _remember(self._models, key, view)
        return self._models[key]

    async def calibration(
        self, job: FederatedTrainingJob, uid: str, budgets: Budgets, model: ModelView
    ) -> Calibrated | Unplannable:
        """Return the noise for `job` on what is left of `budgets`; what it has reserved already stays as it is."""
        question = make_question(job, uid, budgets, model)
        key = _digest(repr(question))
        if (known := _recall(self._answers, key)) is not None:
            return known
        return _remember(self._answers, key, await self._work(answer, question))

    async def used(self, budget: BudgetKey, record: BudgetRecord) -> Used | Later:
        """Return what is used of a budget, or when to ask again.

        One is measured at a time, and who finds another under way comes back: jobs wait for a pass, nobody for this.
        """
        key = _digest(record.model_dump_json())
        if (known := _recall(self._used, key)) is not None:
            return known
        now = self._clock()
        if (wait := self._measured.get(budget, -math.inf) + MEASURE_SECONDS - now) > 0:
            return Later(wait)
        if self._measures:
            self._slot = max(self._slot, now) + SLOT_SECONDS
            return Later(self._slot - now)
        _remember(self._measured, budget, now)
        self._measures = True
        try:
            return _remember(self._used, key, await self._work(measure, record))
        finally:
            self._measures = False


def measure(record: BudgetRecord) -> Used:
    """Return what is used of a budget. Pure; takes up to a second."""
    left = remaining(record.spec, record.accounts.values()).mu_squared
    capacity = remaining(record.spec, ()).mu_squared
    return Used(
        spent=epsilon_spent(record),
        reserved=epsilon_reserved(record),
        # Less than a hundredth of a per cent holds no release that anybody learns from.
        exhausted=left < EXHAUSTED_SHARE * capacity,
    )


def make_question(job: FederatedTrainingJob, uid: str, budgets: Budgets, model: ModelView) -> Question:
    """Return what to ask. Budgets in which the job holds an account are settled and no part of it."""
    accounts = [record.accounts[uid] for record in budgets.values() if uid in record.accounts]
    open_budgets = {str(key): record for key, record in budgets.items() if uid not in record.accounts}
    return Question(
        epsilon=job.spec.privacy.epsilon,
        delta=job.spec.privacy.delta,
        attempts=attempts(job),
        minimum=job.spec.privacy.min_noise_multiplier,
        silos=len(job.spec.clients),
        min_honest=min_honest(job),
        records=sum(record.spec.records for record in budgets.values()),
        coordinates=size_on(job, model).coordinates,
        budgets=tuple((name, record.model_dump_json()) for name, record in sorted(open_budgets.items())),
        held=accounts[0].mechanism if accounts else None,
    )


def answer(question: Question) -> Calibrated | Unplannable:
    """Return the noise multiplier, or why there is none. Pure; takes about a second."""
    budgets = {name: BudgetRecord.model_validate_json(record) for name, record in question.budgets}
    try:
        return _held(question, budgets) if question.held else _calibrated(question, budgets)
    except Refused as error:
        return Unplannable("BudgetInsufficient", str(error))
    except InvalidInput as error:
        return Unplannable("Unplannable", str(error))


def _calibrated(question: Question, budgets: Mapping[str, BudgetRecord]) -> Calibrated:
    """Calibrate on what is left of every budget."""
    fresh = max(question.minimum, _alone(question))
    gap = _gap(question, fresh)
    found = calibrate(
        question.epsilon, question.delta, question.attempts, minimum=question.minimum, budgets=budgets, gap=gap
    )
    return Calibrated(
        noise_multiplier=found.noise_multiplier,
        fresh_noise_multiplier=fresh,
        epsilon_pld=found.epsilon_pld,
        epsilon_rdp=found.epsilon_rdp,
        gap_epsilon=gap.epsilon,
        gap_delta=gap.delta,
        tightest=min(budgets, key=lambda name: _left(budgets[name])),
    )


def _left(record: BudgetRecord) -> float:
    """Return what is left of a budget for jobs that use all records, in μ²."""
    return remaining(record.spec, record.accounts.values()).mu_squared


def _held(question: Question, budgets: Mapping[str, BudgetRecord]) -> Calibrated:
    """Keep the mechanism that is reserved in some budgets already; the others must hold it too."""
    mechanism = question.held
    assert mechanism is not None
    account = Account(mechanism=mechanism, reserved=question.attempts, claimant="calibration")
    for name, record in budgets.items():
        if not admits(record.spec, record.accounts.values(), (account,)):
            raise Refused(
                "what is left does not hold the plan that other silos have reserved",
                where=f"PrivacyBudget {name}",
                cure="let open jobs end and create the job again, or ask its holder for a new budget",
            )
    releases = [(mechanism, question.attempts)]
    return Calibrated(
        noise_multiplier=mechanism.noise_multiplier,
        fresh_noise_multiplier=max(question.minimum, _alone(question)),
        epsilon_pld=composed_pld_epsilon(releases, question.delta),
        epsilon_rdp=composed_rdp_epsilon(releases, question.delta),
        gap_epsilon=mechanism.gap_epsilon,
        gap_delta=mechanism.gap_delta,
    )


def _alone(question: Question) -> float:
    """Return σ by the job's own limit: a closed form that no calibration goes below."""
    return math.sqrt(question.attempts / GdpFilter.of(question.epsilon, question.delta).capacity.mu_squared)


def _gap(question: Question, noise_multiplier: float) -> Gap:
    """Return one release's gap at the smallest σ that can come out; at a larger one it is smaller.

    σ·Δ(σ) grows with σ, but Δ is a whole number: one unit less makes it a bound also just below a step.
    """
    q = question
    grid = finest_grid(noise_multiplier, q.silos, q.min_honest, q.coordinates, q.records)
    share_scale = noise_multiplier * (sensitivity(grid, q.coordinates) - 1) / math.sqrt(q.min_honest)
    return discretisation_gap(share_scale, q.min_honest, q.coordinates)


def _read(read_model: ModelReader, source: ModelSource) -> ModelView:
    try:
        return read_model(source)
    except FoedusError as error:
        return ModelView(problem=str(error))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _recall(cache: OrderedDict[K, V], key: K) -> V | None:
    if key in cache:
        cache.move_to_end(key)  # what is asked for again and again is never dropped for what was asked once
    return cache.get(key)


def _remember(cache: OrderedDict[K, V], key: K, value: V) -> V:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > CACHED_ANSWERS:
        cache.popitem(last=False)
    return value

"""What must hold before a training job may start, one question a function; the first that fails is the reason.

Each check returns None when it has nothing against the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from foedus_contract import limits
from foedus_contract.models import DIGEST_SHOWN
from foedus_contract.scale import finest_grid, kappa
from foedus_contract.size import named_by
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.api.training_status import TrainingConditionType as ConditionType
from foedus_engine.api.training_status import TrainingReason as Reason
from foedus_engine.decide.observed import BudgetView, Calibrated, Observed, Unplannable
from foedus_engine.decide.training_plan import attempts, lora_plan, min_honest, size_of

KAPPA_WARN = 0.5  # above it the noise's norm in the mean gradient nears the clip norm: a weak adapter is to be expected
KAPPA_REFUSE = 2.0  # twice the longest gradient that can be: the budget would be spent for noise
MIN_GRID = 64  # a coarser grid lets rounding, up to √d/2 units, outweigh the clip norm of 64 units at d = 16,384

MAX_HOLDERS = 3  # jobs that a refusal names; a condition's message is bounded


@dataclass(frozen=True)
class Problem:
    """Why a job may not start, and under which condition it is said."""

    condition: ConditionType
    reason: Reason
    message: str


Check = Callable[[FederatedTrainingJob, Observed], Problem | None]


def first_problem(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """Return the first thing that stands against the job, or None; without its model, as far as can be said."""
    checks = CHECKS if observed.model is not None else CHECKS_WITHOUT_MODEL
    return next((problem for check in checks if (problem := check(job, observed))), None)


def check_children_are_ours(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """No object of somebody else bears the name of one of our children."""
    if not observed.foreign:
        return None
    return _not_accepted(
        Reason.PENDING,
        f"{observed.foreign[0]} belongs to another object; wait until it is deleted, or rename this job",
    )


def check_ledgers(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """Every silo's ledger can be read and trusted, and holds all that the silo has charged."""
    for fault in observed.ledger_faults.values():
        return Problem(ConditionType.BUDGET_AVAILABLE, _LEDGER_REASONS[fault.reason], fault.message)
    return None


_LEDGER_REASONS: Mapping[str, Reason] = {
    "Unavailable": Reason.LEDGER_UNAVAILABLE,
    "Damaged": Reason.BUDGET_REFUSED,
    "Behind": Reason.LEDGER_BEHIND,
}


def check_budgets(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """Every silo has a budget."""
    for client in job.spec.clients:
        name = client.budget_ref.name
        if observed.budgets.get(client.name) is None:
            return _not_accepted(
                Reason.BUDGET_NOT_FOUND,
                f"silo {client.name}: PrivacyBudget {observed.meta.namespace}/{name} does not exist; its data holder "
                f"makes it with: foedus budget create {name} --data FILE --epsilon EPSILON --delta DELTA",
            )
    return None


def check_room(_job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """Every ledger has room for the job's account, or has it already."""
    for silo, budget in _budgets(observed).items():
        if budget.account is None and budget.accounts >= limits.MAX_ACCOUNTS:
            return Problem(
                ConditionType.BUDGET_AVAILABLE,
                Reason.BUDGET_INSUFFICIENT,
                f"silo {silo}: PrivacyBudget {budget.key} holds the accounts of {limits.MAX_ACCOUNTS} jobs and has no "
                "room for another; ask its holder for a new budget",
            )
    return None


def check_labels(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """The job knows every label that a holder has declared: no list of its author's is ever compared with records."""
    for silo, budget in _budgets(observed).items():
        if not budget.labels:
            return _not_accepted(
                Reason.INVALID_DATA,
                f"silo {silo}: PrivacyBudget {budget.key} declares no labels, so no job may use its data; its holder "
                "makes a budget that does with: foedus budget create",
            )
        unknown = [label for label in budget.labels if label not in job.spec.model.labels]
        if unknown:
            return _not_accepted(
                Reason.INVALID_SPEC,
                f"spec.model.labels: {unknown[0]!r} is missing, which PrivacyBudget {budget.key} declares for the "
                f"records of {silo}; add it",
            )
    return None


def check_colluders(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """The job assumes as many colluders as each holder wants assumed, unless a silo's own noise is all of it."""
    assumed = job.spec.aggregation.colluders
    for silo, budget in _budgets(observed).items():
        if job.spec.privacy.noise != "Local" and assumed < budget.least_colluders:
            return _not_accepted(
                Reason.INVALID_SPEC,
                f"spec.aggregation.colluders: {assumed} are assumed, PrivacyBudget {budget.key} of {silo} asks for at "
                f"least {budget.least_colluders}; raise it, or set spec.privacy.noise: Local",
            )
    return None


def check_datasets(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """No two silos hold the same data: silos compose in parallel only over disjoint records."""
    seen: dict[str, str] = {}
    for silo, budget in _budgets(observed).items():
        if budget.digest in seen:
            return _not_accepted(
                Reason.INVALID_DATA,
                f"silos {seen[budget.digest]} and {silo} hold the same data ({budget.digest[:DIGEST_SHOWN]}); a person"
                " would be counted once and spent twice; remove one of them",
            )
        seen[budget.digest] = silo
    return None


def check_delta(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """δ is below 1/N over all records: at 1/N, publishing one whole record would be allowed."""
    records, delta = total_records(observed), job.spec.privacy.delta
    if delta < 1 / records:
        return None
    return _not_accepted(
        Reason.DELTA_TOO_LARGE,
        f"spec.privacy.delta: {delta:g} must be below 1/N = {1 / records:.3g} for the {records} records of all silos; "
        "choose a smaller delta",
    )


def check_model(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """The base model is there, and it has the layers and modules that are to be adapted."""
    model = observed.model
    assert model is not None  # else nobody asks
    if model.problem:
        return _not_accepted(Reason.INVALID_MODEL, model.problem)
    if (tokens := job.spec.model.max_tokens) > model.positions:
        return _not_accepted(
            Reason.INVALID_MODEL,
            f"spec.model.maxTokens: {tokens} tokens are asked for, the base model takes {model.positions}; lower it",
        )
    lora = lora_plan(job)
    if lora is None:
        return None
    missing = [target for target in lora.target_modules if not named_by(target, model.modules)]
    if missing:
        return _not_accepted(
            Reason.INVALID_MODEL,
            f"spec.lora.targetModules: {missing[0]!r} is no linear layer of the base model; choose from "
            f"{', '.join(path.removeprefix('attention.self.') for path in model.modules)}",
        )
    if lora.last_layers > model.layers:
        return _not_accepted(
            Reason.INVALID_MODEL,
            f"spec.lora.lastLayers: {lora.last_layers} is more than the {model.layers} layers of the base model; "
            "lower it",
        )
    return None


def check_calibration(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """Some noise multiplier keeps the job's promise and fits what is left of every budget."""
    calibration = observed.calibration
    if calibration is None:
        return _not_accepted(Reason.UNPLANNABLE, "the noise has not been calibrated yet")
    if isinstance(calibration, Unplannable):
        if calibration.reason == "BudgetInsufficient":
            return Problem(
                ConditionType.BUDGET_AVAILABLE, Reason.BUDGET_INSUFFICIENT, calibration.message + _held_by(observed)
            )
        return _not_accepted(Reason.UNPLANNABLE, calibration.message)
    return None


def check_accounts(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """What the job has reserved already is what its plan needs."""
    calibration = observed.calibration
    assert isinstance(calibration, Calibrated)
    for silo, budget in _budgets(observed).items():
        account = budget.account
        wanted = (calibration.noise_multiplier, attempts(job))
        if account is not None and (account.noise_multiplier, account.reserved) != wanted:
            return Problem(
                ConditionType.BUDGET_AVAILABLE,
                Reason.BUDGET_REFUSED,
                f"silo {silo}: the account of this job in PrivacyBudget {budget.key} holds {account.reserved} releases "
                f"at noise multiplier {account.noise_multiplier:g}, its plan needs {wanted[1]} at {wanted[0]:g}; "
                "create the job again under a new name",
            )
    return None


def check_signal(job: FederatedTrainingJob, observed: Observed) -> Problem | None:
    """The noise does not drown the gradient, and sum and noise fit the ring."""
    calibration = observed.calibration
    assert isinstance(calibration, Calibrated)
    if (ratio := kappa_of(job, observed, calibration.noise_multiplier)) > KAPPA_REFUSE:
        return _drowned(job, observed, calibration, ratio)
    if _grid(job, observed, calibration.noise_multiplier) < MIN_GRID:
        return _not_accepted(
            Reason.UNPLANNABLE,
            f"a sum over {total_records(observed)} records and its noise do not fit the ring of 32 bits; use fewer "
            "records or more ε",
        )
    return None


def _drowned(job: FederatedTrainingJob, observed: Observed, calibration: Calibrated, ratio: float) -> Problem:
    size = f"the noise would be {ratio:.2f} times the clip norm (κ, at most {KAPPA_REFUSE:g})"
    if kappa_of(job, observed, calibration.fresh_noise_multiplier) <= KAPPA_REFUSE:
        return Problem(
            ConditionType.BUDGET_AVAILABLE,
            Reason.BUDGET_INSUFFICIENT,
            f"PrivacyBudget {calibration.tightest}: with what other jobs have left of it {size}; run fewer rounds, or "
            f"ask its holder for a new budget{_held_by(observed, calibration.tightest)}",
        )
    return _not_accepted(
        Reason.UNPLANNABLE,
        f"{size}; adapt fewer parameters (spec.lora.rank, lastLayers), run fewer rounds, bring more records or more ε",
    )


def _held_by(observed: Observed, budget: str = "") -> str:
    """Return, as the end of a refusal, which jobs hold a part of `budget`, or of any; empty when none does."""
    views = [view for view in _budgets(observed).values() if budget in ("", str(view.key))]
    holders = sorted({holder for view in views for holder in view.holders})
    if not holders:
        return ""
    shown = ", ".join(holders[:MAX_HOLDERS]) + (" and others" if len(holders) > MAX_HOLDERS else "")
    return f"; held open by job {shown}: wait until it ends, or delete it to give back what it has not used"


CHECKS_WITHOUT_MODEL: tuple[Check, ...] = (
    check_children_are_ours,
    check_ledgers,
    check_budgets,
    check_room,
    check_labels,
    check_colluders,
    check_datasets,
    check_delta,
)
CHECKS: tuple[Check, ...] = (
    *CHECKS_WITHOUT_MODEL,
    check_model,
    check_calibration,
    check_accounts,
    check_signal,
)


def kappa_of(job: FederatedTrainingJob, observed: Observed, noise_multiplier: float) -> float:
    """Return κ of the job at `noise_multiplier`, on the coarsest grid where its own is not allowed."""
    grid = max(MIN_GRID, _grid(job, observed, noise_multiplier))
    silos, coordinates = len(job.spec.clients), size_of(job, observed).coordinates
    return kappa(noise_multiplier, silos, min_honest(job), coordinates, total_records(observed), grid)


def _grid(job: FederatedTrainingJob, observed: Observed, noise_multiplier: float) -> int:
    silos, coordinates = len(job.spec.clients), size_of(job, observed).coordinates
    return finest_grid(noise_multiplier, silos, min_honest(job), coordinates, total_records(observed))


def total_records(observed: Observed) -> int:
    """Return the records of all silos whose budgets are known."""
    return sum(budget.records for budget in _budgets(observed).values())


def _budgets(observed: Observed) -> dict[str, BudgetView]:
    return {silo: budget for silo, budget in observed.budgets.items() if budget is not None}


def _not_accepted(reason: Reason, message: str) -> Problem:
    return Problem(ConditionType.ACCEPTED, reason, message)

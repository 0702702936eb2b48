"""A training job's status, computed in one place from what is known now and what was reported before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from foedus_contract.plan import TrainingPlan
from foedus_contract.progress import RoundFinished, TrainingResult, TrainingStarted
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.api.training_status import Phase
from foedus_engine.decide.conditions import Condition, merge_conditions, timestamp
from foedus_engine.decide.inspection import model_fields
from foedus_engine.decide.observed import Observed


def make_status(
    observed: Observed, now: datetime, *, phase: Phase, conditions: Sequence[Condition], message: str, **fields: Any
) -> dict[str, Any]:
    """Return the stored status with what is new said over it; a field that is None is dropped."""
    old = observed.meta.status
    generation = observed.meta.generation
    status = {
        **old,
        **fields,
        "model": model_fields(observed.model) or old.get("model"),
        "observedGeneration": generation,
        "phase": phase,
        "conditions": merge_conditions(old.get("conditions", ()), conditions, generation=generation, now=now),
        "message": message,
    }
    return {key: value for key, value in status.items() if value is not None}


def progress_fields(job: FederatedTrainingJob, observed: Observed) -> dict[str, Any]:
    """Return what the progress events say: silos, and rounds and spent ε, which never fall.

    A coordinator that is killed takes its report along; the next one goes on from there and tells only of what follows.
    """
    finished = [event for event in observed.progress if isinstance(event, RoundFinished)]
    before = float(observed.meta.status.get("epsilonSpent", 0.0))
    result = observed.result
    rounds = [int(observed.meta.status.get("round", 0)), *(event.round + 1 for event in finished if event.applied)]
    spent = [before, *(event.epsilon_spent for event in finished), result.epsilon_spent if result else 0.0]
    fields = {
        # A coordinator that died between its journal and its report leaves a gap; rounds come in order.
        "round": result.rounds if result else max(rounds),
        "rounds": job.spec.training.rounds,
        "clients": f"{silos_in(observed)}/{len(job.spec.clients)}",
        "epsilonSpent": max(spent),
        "epsilonLimit": job.spec.privacy.epsilon,
    }
    return fields | _code(observed)


def _code(observed: Observed) -> dict[str, str]:
    """Return the digest of what the processes run, as the last coordinator that has told it."""
    told = [
        event.code_digest for event in observed.progress if isinstance(event, TrainingStarted) and event.code_digest
    ]
    return {"codeDigest": told[-1]} if told else {}


def silos_in(observed: Observed) -> int:
    """Return how many silos take part: survivors of the last round, else those that joined, else those that are up."""
    for event in reversed(observed.progress):
        if isinstance(event, RoundFinished):
            return len(event.survivors)
        if isinstance(event, TrainingStarted):
            return len(event.joined)
    return len(observed.identities)


def is_training(observed: Observed) -> bool:
    """Return whether the silos have joined."""
    return any(isinstance(event, TrainingStarted | RoundFinished) for event in observed.progress)


def plan_fields(plan: TrainingPlan) -> dict[str, Any]:
    """Return the plan as the status shows it."""
    privacy = plan.privacy
    return {
        "digest": plan.digest(),
        "noiseMultiplier": privacy.noise_multiplier,
        "threshold": privacy.threshold,
        "minHonest": privacy.min_honest,
        "adversary": privacy.adversary,
        "epsilonPld": privacy.epsilon_pld,
        "epsilonRdp": privacy.epsilon_rdp,
        "totalRecords": plan.total_records,
        "attempts": plan.attempts,
    }


def result_fields(result: TrainingResult) -> dict[str, Any]:
    """Return the result as the status shows it."""
    fields: Mapping[str, Any] = {
        "outcome": result.outcome,
        "accuracy": result.accuracy,
        "adapterDigest": result.adapter_digest,
        "rounds": result.rounds,
        "attempts": result.attempts,
        "message": result.message,
    }
    return {key: value for key, value in fields.items() if value is not None}


def start_time(observed: Observed, now: datetime) -> str:
    """Return when the job's processes were started: now, unless it was said before."""
    return str(observed.meta.status.get("startTime") or timestamp(now))

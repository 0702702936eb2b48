"""From a job's manifest, its budgets and its calibration to the plan that engine and pods agree on by digest."""

from __future__ import annotations

from foedus_contract.plan import (
    Deadlines,
    LoraPlan,
    ModelPlan,
    OptimizerPlan,
    PrivacyPlan,
    SiloPlan,
    TrainingPlan,
    min_honest_for,
    threshold_for,
)
from foedus_contract.scale import finest_grid
from foedus_contract.size import Size, training_size
from foedus_engine.api.meta import parse_duration
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.decide.observed import Calibrated, ModelView, Observed


def threshold(job: FederatedTrainingJob) -> int:
    """Return t: what the manifest says, else the smallest allowed."""
    asked = job.spec.aggregation.threshold
    return threshold_for(len(job.spec.clients)) if asked is None else asked


def min_honest(job: FederatedTrainingJob) -> int:
    """Return n_min: the shares of noise that ε rests on."""
    return min_honest_for(job.spec.privacy.noise, threshold(job), job.spec.aggregation.colluders)


def attempts(job: FederatedTrainingJob) -> int:
    """Return the releases that are reserved in every budget: rounds and spare attempts."""
    return job.spec.training.rounds + job.spec.training.spare_attempts


def lora_plan(job: FederatedTrainingJob) -> LoraPlan | None:
    """Return which factors are trained; None for the head alone."""
    lora = job.spec.lora
    if lora is None:
        return None
    return LoraPlan(
        rank=lora.rank,
        alpha=lora.alpha,
        target_modules=tuple(lora.target_modules),
        last_layers=lora.last_layers,
    )


def size_of(job: FederatedTrainingJob, observed: Observed) -> Size:
    """Return the job's size on the observed base model."""
    return size_on(job, observed.model or ModelView())


def size_on(job: FederatedTrainingJob, model: ModelView) -> Size:
    """Return the job's size on a base model."""
    return training_size(lora_plan(job), len(job.spec.model.labels), model.hidden_size, model.modules)


def make_training_plan(job: FederatedTrainingJob, observed: Observed, calibration: Calibrated) -> TrainingPlan:
    """Return the plan. Same job, budgets, model and noise multiplier: same plan, same digest."""
    assert observed.model is not None
    training = job.spec.training
    return TrainingPlan(
        namespace=observed.meta.namespace,
        job=observed.meta.name,
        uid=observed.meta.uid,
        rounds=training.rounds,
        spare_attempts=training.spare_attempts,
        seed=training.seed,
        micro_batch=training.micro_batch_size,
        model=ModelPlan(
            digest=observed.model.digest,
            labels=tuple(job.spec.model.labels),
            max_tokens=job.spec.model.max_tokens,
            lora=lora_plan(job),
            query_damping=job.spec.model.query_damping,
        ),
        optimizer=OptimizerPlan(
            learning_rate=training.optimizer.learning_rate,
            head_learning_rate=training.optimizer.head_learning_rate,
            momentum=training.optimizer.momentum,
            end_factor=training.optimizer.end_factor,
        ),
        privacy=_privacy_plan(job, observed, calibration),
        deadlines=deadlines(job),
        silos=_silos(observed),
    )


def deadlines(job: FederatedTrainingJob) -> Deadlines:
    """Return how long each side waits, in seconds."""
    aggregation = job.spec.aggregation
    return Deadlines(
        join_seconds=parse_duration(aggregation.join_timeout),
        stage_seconds=parse_duration(aggregation.stage_timeout),
        compute_seconds=parse_duration(aggregation.compute_timeout),
    )


def _privacy_plan(job: FederatedTrainingJob, observed: Observed, calibration: Calibrated) -> PrivacyPlan:
    sigma = calibration.noise_multiplier
    records = sum(silo.records for silo in _silos(observed))
    coordinates = size_of(job, observed).coordinates
    return PrivacyPlan(
        epsilon=job.spec.privacy.epsilon,
        delta=job.spec.privacy.delta,
        clip=job.spec.privacy.max_grad_norm,
        noise_multiplier=sigma,
        grid_per_clip=finest_grid(sigma, len(job.spec.clients), min_honest(job), coordinates, records),
        threshold=threshold(job),
        colluders=job.spec.aggregation.colluders,
        min_honest=min_honest(job),
        epsilon_pld=calibration.epsilon_pld,
        epsilon_rdp=calibration.epsilon_rdp,
        noise=job.spec.privacy.noise,
    )


def _silos(observed: Observed) -> tuple[SiloPlan, ...]:
    return tuple(
        SiloPlan(name=name, data_digest=budget.digest, records=budget.records)
        for name, budget in sorted(observed.budgets.items())
        if budget is not None
    )

"""The jobs of `examples/`, planned as the engine plans them: for tests at the shapes that users run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foedus.base_model import locate_model, read_model
from foedus_contract.plan import TrainingPlan
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.decide.observed import BudgetView, Calibrated, ObjectMeta, Observed
from foedus_engine.decide.plan import BudgetKey
from foedus_engine.decide.training_plan import make_training_plan
from foedus_engine.manifests import load_manifests, parse_manifest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NO_CLAIM: Callable[[str], None] = lambda _claim: None  # the examples' model comes from a package


def example_job(name: str, **spec: Any) -> FederatedTrainingJob:
    """Return the job of an example; keywords replace fields of its spec."""
    (document,) = load_manifests((EXAMPLES / f"{name}.yaml").read_bytes())
    job = parse_manifest({**document, "spec": {**document["spec"], **spec}})
    assert isinstance(job, FederatedTrainingJob)
    return job


def example_plan(job: FederatedTrainingJob, *, records: int, sigma: float) -> TrainingPlan:
    """Return the engine's plan of `job` with so many records a silo; the calibration is not asked, σ is given."""
    budgets = {
        client.name: BudgetView(BudgetKey("default", client.name), f"sha256:{number:064x}", records, 1.0, 1e-5)
        for number, client in enumerate(job.spec.clients)
    }
    meta = ObjectMeta("default", job.metadata.name, "uid", 1, datetime(2026, 1, 1, tzinfo=UTC))
    model = read_model(job.spec.model.source, NO_CLAIM)
    noise = Calibrated(sigma, sigma, epsilon_pld=1.0, epsilon_rdp=1.1, gap_epsilon=0.0, gap_delta=0.0)
    return make_training_plan(job, Observed(meta, budgets, model=model), noise)


def example_model_path(job: FederatedTrainingJob) -> Path:
    """Return the folder of the example's base model."""
    return locate_model(job.spec.model.source, NO_CLAIM)

"""A small training job and its world, for tests of the engine's decisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from foedus_contract.progress import RoundFinished, TrainingStarted
from foedus_contract.size import bert_modules
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.decide.observed import (
    AccountView,
    BudgetView,
    Calibrated,
    ChildView,
    ModelView,
    ObjectMeta,
    Observed,
)
from foedus_engine.decide.plan import BudgetKey, Plan
from foedus_engine.decide.training import decide_training

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
UID = "5b1c0a52-0000-4000-8000-000000000001"
SILOS = ("silo-1", "silo-2", "silo-3", "silo-4")
RECORDS = 500
MODEL = ModelView(digest="sha256:" + "ab" * 32, hidden_size=32, layers=2, positions=64, modules=bert_modules(32, 64))
CALIBRATED = Calibrated(
    noise_multiplier=20.0,
    fresh_noise_multiplier=20.0,
    epsilon_pld=0.9,
    epsilon_rdp=0.95,
    gap_epsilon=1e-10,
    gap_delta=1e-40,
)
ACCOUNT = AccountView(20.0, 1e-10, 1e-40, reserved=4, charged=0, state="Open")


def manifest(**spec: Any) -> dict[str, Any]:
    """Return the manifest of a job of four silos; keywords replace fields of the spec."""
    base: dict[str, Any] = {
        "model": {"source": {"package": {"name": "tiny-bert", "path": "tiny_bert/model"}}, "labels": ["no", "yes"]},
        "lora": {"rank": 1, "alpha": 1, "targetModules": ["query", "value"], "lastLayers": 1},
        "training": {"rounds": 3, "spareAttempts": 1},
        "clients": [
            {
                "name": silo,
                "budgetRef": {"name": f"budget-{silo}"},
                "data": {"persistentVolumeClaim": {"claimName": silo, "path": "train.jsonl"}},
            }
            for silo in SILOS
        ],
        "evaluation": {"data": {"persistentVolumeClaim": {"claimName": "public", "path": "eval.jsonl"}}},
    }
    return {
        "apiVersion": "foedus.dev/v1alpha1",
        "kind": "FederatedTrainingJob",
        "metadata": {"name": "demo", "namespace": "team-a", "uid": UID, "generation": 1},
        "spec": base | spec,
    }


def job(**spec: Any) -> FederatedTrainingJob:
    """Return the same as a model."""
    return FederatedTrainingJob.model_validate(manifest(**spec))


def meta(status: dict[str, Any] | None = None) -> ObjectMeta:
    """Return the job's metadata with a stored status."""
    return ObjectMeta("team-a", "demo", UID, 1, NOW, status or {})


def budget(silo: str, account: AccountView | None = None) -> BudgetView:
    """Return a silo's budget."""
    digest = "sha256:" + f"{SILOS.index(silo) + 1:02x}" * 32
    return BudgetView(BudgetKey("team-a", f"budget-{silo}"), digest, RECORDS, 1.0, 1e-5, account, labels=("no", "yes"))


def without(silo: str) -> dict[str, BudgetView | None]:
    """Return the budgets of all silos but one, which has none."""
    return {name: None if name == silo else budget(name) for name in SILOS}


def fresh(**changes: Any) -> Observed:
    """Return the world before anything was done."""
    world = Observed(meta(), budgets={silo: budget(silo) for silo in SILOS}, model=MODEL, calibration=CALIBRATED)
    return replace(world, **changes)


def reserved(**changes: Any) -> Observed:
    """Return the world after the reservation."""
    return replace(fresh(budgets={silo: budget(silo, ACCOUNT) for silo in SILOS}), **changes)


def running(**changes: Any) -> Observed:
    """Return the world one minute after all processes were started, with no identity yet."""
    since = "2026-03-01T11:59:00Z"
    status = {"phase": "Preparing", "startTime": since, "joinStartTime": since}
    started = frozenset(name for _, name in jobs())
    return replace(reserved(meta=meta(status), children=jobs(), started=started), **changes)


def jobs(**finished: str) -> dict[tuple[str, str], ChildView]:
    """Return the Jobs of all roles as children; `coordinator="Failed"` or `silo_1="Failed"` ends one."""
    roles = ("coordinator", *SILOS)
    return {
        ("Job", f"demo-{role}"): ChildView(f"uid-{role}", finished=finished.get(role.replace("-", "_"), ""))  # type: ignore[arg-type]
        for role in roles
    }


def started() -> TrainingStarted:
    """Return the event that all silos have joined."""
    return TrainingStarted(at=0.0, joined=SILOS, trainable_parameters=258, kappa=0.3)


def finished_round(number: int, epsilon: float, *, applied: bool = True, survivors: int = 4) -> RoundFinished:
    """Return the event of one finished attempt of round `number`."""
    return RoundFinished(
        at=1.0,
        round=number,
        attempt=number,
        applied=applied,
        survivors=SILOS[:survivors],
        dropped=SILOS[survivors:],
        epsilon_spent=epsilon,
        accuracy=0.5,
        seconds=1.0,
    )


def decide(observed: Observed, *, later: float = 0.0, **spec: Any) -> Plan:
    return decide_training(job(**spec), observed, now=NOW + timedelta(seconds=later))


def condition(plan: Plan, kind: str) -> tuple[str, str]:
    assert plan.status is not None
    found = next(item for item in plan.status["conditions"] if item["type"] == kind)
    return found["status"], found["reason"]


def message(plan: Plan) -> str:
    assert plan.status is not None
    return str(plan.status["message"])

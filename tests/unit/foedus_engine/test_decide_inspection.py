"""Who looks at the base model, how long, and what is said meanwhile."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from foedus_engine.api.training_status import FederatedTrainingJobStatus
from foedus_engine.decide.inspection import model_fields, model_in_status
from foedus_engine.decide.observed import ChildView, ModelView, Observed, Trouble
from foedus_engine.decide.plan import Plan, key_of
from foedus_engine.decide.training import decide_training
from support.brain import CALIBRATED, MODEL, NOW, SILOS, budget, fresh, job, meta, reserved, running

INSPECTOR = {("Job", "demo-inspector"): ChildView("j"), ("ConfigMap", "demo-inspector"): ChildView("c")}


def decide(observed: Observed, *, later: float = 0.0, **spec: Any) -> Plan:
    return decide_training(job(**spec), observed, now=NOW + timedelta(seconds=later))


def unseen(**changes: Any) -> Observed:
    """Return the world before anybody has looked at the model."""
    return fresh(model=None, calibration=None, **changes)


def said(plan: Plan) -> dict[str, tuple[str, str]]:
    assert plan.status is not None
    return {each["type"]: (each["status"], each["reason"]) for each in plan.status["conditions"]}


def test_a_model_that_nobody_has_seen_is_looked_at_before_anything_is_reserved() -> None:
    plan = decide(unseen())

    assert [(key_of(made).kind, key_of(made).name) for made in plan.apply] == [
        ("ServiceAccount", "demo-inspector"),
        ("NetworkPolicy", "demo-deny"),
        ("ConfigMap", "demo-inspector"),
        ("Job", "demo-inspector"),
    ]
    assert (plan.ledger, plan.ensure, plan.delete) == ((), (), ())
    assert said(plan) == {"Accepted": ("Unknown", "Inspecting"), "Ready": ("False", "Inspecting")}
    assert plan.status is not None
    assert plan.status["phase"] == "Pending"


def test_what_can_be_refused_without_the_model_is() -> None:
    budgets = {silo: None if silo == "silo-1" else budget(silo) for silo in SILOS}
    plan = decide(unseen(budgets=budgets))

    assert said(plan)["Accepted"] == ("False", "BudgetNotFound")
    assert plan.apply == ()


@pytest.mark.parametrize(
    ("reason", "message", "cure"),
    [
        ("ImagePullFailed", "ErrImagePull: not found", "see that nodes can pull the image"),
        ("VolumeMissing", 'persistentvolumeclaim "base" not found', "create the PersistentVolumeClaim"),
        ("QuotaExceeded", "exceeded quota: small", "raise the namespace's quota"),
        ("Unschedulable", "0/3 nodes are available", "add a node that fits"),
        ("CannotStart", "CreateContainerConfigError: x", "see the events of the pod"),
    ],
)
def test_what_keeps_the_pod_from_looking_is_said_with_its_cure(reason: Any, message: str, cure: str) -> None:
    plan = decide(unseen(children=INSPECTOR, troubles={"demo-inspector": Trouble(reason, message)}))

    assert said(plan) == {"Accepted": ("Unknown", reason), "Ready": ("False", reason)}
    assert plan.status is not None
    assert plan.status["message"].startswith(f"the pod that looks at the base model: {message}; {cure}")
    assert [(event.kind, event.reason) for event in plan.events] == [("Warning", reason)]


def test_what_was_found_is_kept_in_the_status_and_the_pod_goes() -> None:
    found = decide(fresh(children=INSPECTOR))

    assert found.delete == ()  # it is not in the stored status yet
    assert found.status is not None
    stored = FederatedTrainingJobStatus.model_validate(found.status).to_document()
    assert model_in_status(stored) == MODEL
    after = decide(reserved(children=INSPECTOR, meta=meta(dict(found.status))))
    assert [(key.kind, key.name, key.uid) for key in after.delete] == [
        ("Job", "demo-inspector", "j"),
        ("ConfigMap", "demo-inspector", "c"),
    ]


@pytest.mark.parametrize(("later", "deleted"), [(119, 0), (120, 2)])
def test_a_model_that_cannot_be_used_is_looked_at_again_after_a_while(later: float, deleted: int) -> None:
    failed = {**INSPECTOR, ("Job", "demo-inspector"): ChildView("j", finished="Failed", ended=NOW)}
    plan = decide(fresh(model=ModelView(problem="no config.json"), children=failed), later=later)

    assert len(plan.delete) == deleted
    assert said(plan)["Accepted"] == ("False", "InvalidModel")


def test_a_job_that_is_suspended_meanwhile_has_no_pod() -> None:
    plan = decide(unseen(children=INSPECTOR, meta=meta({"phase": "Pending"})), suspend=True)

    assert said(plan)["Suspended"] == ("True", "Suspended")
    assert (len(plan.delete), plan.apply) == (2, ())


def test_a_running_job_keeps_the_model_that_it_was_planned_with() -> None:
    plan = decide(running(model=MODEL, calibration=CALIBRATED))

    assert plan.status is not None
    assert plan.status["model"] == model_fields(MODEL)

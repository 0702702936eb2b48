"""Whose news a change is."""

from __future__ import annotations

from typing import Any

import pytest

from foedus_engine.decide.plan import ObjectKey
from foedus_operator.handlers import keys_of_budgets, keys_of_job
from support.brain import SILOS, manifest


def child(**labels: str) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "p", "namespace": "team-a", "labels": labels}}


def key(kind: str, name: str) -> ObjectKey:
    return ObjectKey("foedus.dev/v1alpha1", kind, "team-a", name)


@pytest.mark.parametrize(
    ("body", "keys"),
    [
        (child(), []),
        (child(other="demo"), []),
        (child(**{"foedus.dev/job": "demo"}), [key("FederatedTrainingJob", "demo")]),
        ({"kind": "Pod", "metadata": {"name": "p", "namespace": "team-a"}}, []),
    ],
)
def test_a_childs_label_leads_to_its_job(body: dict[str, Any], keys: list[ObjectKey]) -> None:
    assert keys_of_job(body) == keys


@pytest.mark.parametrize(
    ("body", "keys"),
    [
        (manifest(), [key("PrivacyBudget", f"budget-{silo}") for silo in SILOS]),
        (manifest(clients=[{"name": "silo-1"}]), []),  # of an older schema
        (child(), []),
    ],
)
def test_a_job_that_is_gone_is_news_of_its_budgets(body: dict[str, Any], keys: list[ObjectKey]) -> None:
    assert keys_of_budgets(body) == keys

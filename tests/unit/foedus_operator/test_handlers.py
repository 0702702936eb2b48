"""Whose news a change is."""

from __future__ import annotations

from typing import Any

import pytest

from foedus_engine.decide.ending import is_at_rest
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


SAID = {"phase": "Suspended", "observedGeneration": 1}
SUSPENDED = {**manifest(suspend=True), "status": SAID}


def over(spec: dict[str, int] | None = None, **said: str) -> dict[str, Any]:
    ended = {"completionTime": "2026-03-01T12:00:00Z", "conditions": [{"type": "Complete", "status": "True"}]}
    return {**manifest(**(spec or {})), "status": ended | said}


@pytest.mark.parametrize(
    ("body", "rests"),
    [
        (SUSPENDED, True),
        ({**SUSPENDED, "status": {}}, False),  # nothing has been said yet
        ({**SUSPENDED, "status": SAID | {"observedGeneration": 0}}, False),  # of what it was before
        ({**SUSPENDED, "status": SAID | {"plan": {"digest": "x"}}}, False),  # it holds reservations
        ({**SUSPENDED, "status": SAID | {"startTime": "2026-01-01T00:00:00Z"}}, False),
        ({**SUSPENDED, "status": SAID | {"phase": "Failed"}}, False),
        ({**manifest(suspend=False), "status": SAID}, False),
        ({**SUSPENDED, "kind": "Job"}, False),
        (over(), False),  # an account may still be open
        (over(settledTime="2026-03-01T12:00:30Z"), True),
        (over({"ttlSecondsAfterFinished": 60}, settledTime="2026-03-01T12:00:30Z"), False),
        (over({"ttlSecondsAfterFinished": 60}, settledTime="2026-03-01T12:01:00Z"), True),
        (child(), False),
    ],
)
def test_a_job_of_which_nothing_is_to_be_said_or_done_is_no_news(body: dict[str, Any], rests: bool) -> None:
    assert is_at_rest(body) is rests

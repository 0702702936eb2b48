"""When a job's certificates are renewed, for how long they are made, and how a job ends that outlives them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from foedus_engine.decide.observed import ChildView
from foedus_engine.decide.plan import Plan
from foedus_engine.decide.training import decide_training
from support.brain import NOW, SILOS, job, jobs, reserved, running

DAY = 24 * 3600
SECRETS = {"demo-ca", "demo-coordinator-tls", *(f"demo-{silo}-tls" for silo in SILOS)}


def decide(days_left: float | None, *, active: int, **spec: Any) -> Plan:
    """Decide on a job whose coordinator's certificate is valid for so long, and the others for ever."""
    roles = {key: ChildView(child.uid, active=active) for key, child in jobs().items()}
    until = None if days_left is None else NOW + timedelta(days=days_left)
    secrets = {("Secret", name): ChildView(name, valid_until=NOW + timedelta(days=9999)) for name in SECRETS}
    secrets["Secret", "demo-coordinator-tls"] = ChildView("leaf", valid_until=until)
    return decide_training(job(**spec), running(children=roles | secrets), now=NOW)


def renewed(plan: Plan) -> set[str]:
    return {ensure.manifest["metadata"]["name"] for ensure in plan.ensure if ensure.renew}


@pytest.mark.parametrize(
    ("days_left", "active", "spec", "due"),
    [
        (7, 0, {}, False),
        (3.5, 0, {}, False),
        (3.49, 0, {}, True),  # without a deadline half of what they are made for must be left
        (-100, 0, {}, True),
        (None, 0, {}, False),  # cannot be read: nothing is known
        (3.49, 1, {}, False),  # processes hold the old ones
        (3.49, 0, {"suspend": True}, False),  # nothing starts
        (1.1, 0, {"activeDeadlineSeconds": DAY}, False),
        (0.9, 0, {"activeDeadlineSeconds": DAY}, True),
        (29, 0, {"activeDeadlineSeconds": 30 * DAY}, True),
    ],
)
def test_certificates_are_renewed_together_before_work_starts_with_too_little_left(
    days_left: float | None, active: int, spec: dict[str, Any], due: bool
) -> None:
    plan = decide(days_left, active=active, **spec)
    assert renewed(plan) == (SECRETS if due else set())
    assert {item["spec"]["suspend"] for item in plan.apply if item["kind"] == "Job"} == {"suspend" in spec}


def test_an_authority_that_is_renewed_keeps_its_key_and_a_new_one_has_none_to_keep() -> None:
    plans = decide(1, active=0), decide_training(job(), reserved(), now=NOW)
    roots = [next(e.content for e in plan.ensure if e.content and e.content.kind == "Authority") for plan in plans]
    assert [root.issuer and root.issuer.name for root in roots] == ["demo-ca", None]


@pytest.mark.parametrize(
    ("spec", "days"), [({}, 7), ({"activeDeadlineSeconds": DAY}, 7), ({"activeDeadlineSeconds": 30 * DAY}, 33.5)]
)
def test_certificates_are_made_for_longer_than_the_job_may_run(spec: dict[str, Any], days: float) -> None:
    made = [ensure.content for ensure in decide_training(job(**spec), reserved(), now=NOW).ensure]
    assert {content.valid_seconds for content in made if content is not None} == {days * DAY}


@pytest.mark.parametrize(
    ("days_left", "active", "suspend", "ends"),
    [(0.01, 1, False, False), (0, 1, False, True), (-1, 1, False, True), (-1, 0, False, False), (-1, 1, True, False)],
)
def test_a_job_ends_with_the_certificates_of_its_running_processes(
    days_left: float, active: int, suspend: bool, ends: bool
) -> None:
    status = decide(days_left, active=active, suspend=suspend).status
    assert status is not None
    assert (status["phase"] == "Failed") is ends
    if ends:
        assert status["message"] == (
            "the job's certificates ended after 7 days; set spec.activeDeadlineSeconds to the time that it needs, or "
            "suspend a job in between: one that is resumed gets new certificates"
        )

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
SECRETS = {"demo-ca", "demo-coordinator-tls", "demo-operator", *(f"demo-{silo}-tls" for silo in SILOS)}


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


CREATE_AGAIN = "delete the job and create it again under a new name"


@pytest.mark.parametrize(
    ("changed", "message", "made"),
    [
        ({"demo-silo-2-tls": "is broken"}, "Secret demo-silo-2-tls is broken; delete the Secret, and it is made again",
         {"demo-silo-1-tls"}),
        ({"demo-ca": "is broken", "demo-silo-2-tls": "is foreign"}, f"Secret demo-ca is broken; {CREATE_AGAIN}", set()),
        ({"demo-ca": None, "demo-silo-2-tls": "has lost it"}, f"Secret demo-silo-2-tls has lost it; {CREATE_AGAIN}",
         set()),
    ],
)  # fmt: skip
def test_a_certificate_that_was_changed_is_said_and_no_other_authority_is_made(
    changed: dict[str, str | None], message: str, made: set[str]
) -> None:
    there = dict.fromkeys(SECRETS - {"demo-silo-1-tls"}, "") | changed
    secrets = {("Secret", name): ChildView(name, problem=what) for name, what in there.items() if what is not None}
    plan = decide_training(job(), reserved(children=jobs() | secrets), now=NOW)
    ready = next(each for each in (plan.status or {})["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "CertificateInvalid", message)
    assert {name for each in plan.ensure if (name := each.manifest["metadata"]["name"]) in SECRETS} == made


def test_a_certificate_that_was_changed_does_not_stop_what_runs() -> None:
    secrets = {("Secret", name): ChildView(name, problem="is broken" if "silo-2" in name else "") for name in SECRETS}
    status = decide_training(job(), running(children=jobs() | secrets), now=NOW).status or {}
    assert status["phase"] == "Preparing"
    assert "demo-silo-2-tls is broken" in status["message"]


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

"""What is said to whoever reaches the operator's port: numbers, and no name."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from foedus_operator.census import Census, PrivacyStatus, SecurityStatus
from foedus_operator.handlers import JOBS, WATCHED
from foedus_operator.health import Health, serve
from support.brain import manifest


def job(uid: str, **status: Any) -> dict[str, Any]:
    made = manifest()
    return {**made, "metadata": {**made["metadata"], "uid": uid, "name": "secret-trial"}, "status": status}


def budget(uid: str, reason: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "reason": reason}]
    return {
        "kind": "PrivacyBudget",
        "metadata": {"uid": uid, "name": "hospital-a"},
        "status": {"conditions": conditions},
    }


def test_each_job_and_budget_is_counted_once_in_its_latest_state() -> None:
    census = Census()
    for body in (job("a"), job("b", phase="Training"), job("c", phase="Failed"), job("a", phase="Training")):
        census.note(body, gone=False)
    census.note(job("c"), gone=True)
    census.note(job("d"), gone=True)
    census.note({"kind": "Pod", "metadata": {"uid": "e"}}, gone=False)
    for body in (budget("a", "Available"), budget("b", "Exhausted"), budget("c", "<script>"), budget("d", "Available")):
        census.note(body, gone=False)
    census.note(job("f", phase="Invented"), gone=False)
    assert census.jobs() == {"Training": 2, "Unknown": 1}
    assert census.budgets() == {"Available": 2, "Exhausted": 1, "Unknown": 1}


async def test_the_pages_keep_to_their_schema_and_name_nobody() -> None:
    now = 0.0
    health = Health(lambda: now, lambda: True)
    health.start([kind.path for kind in WATCHED])
    health.transitions_seen = 3
    health.census.note(job("a", phase="Training", message="secret-trial of hospital-a failed"), gone=False)
    health.census.note(budget("b", "Exhausted"), gone=False)
    health.faults.labels("Forbidden").inc(2)
    now = 400.0
    for kind in WATCHED:
        if kind is not JOBS:
            health.answered(kind.path)
    async with serve(health, 0) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        pages = {path: await (await session.get(path)).text() for path in ("/privacy/status", "/security/status")}
        metrics = await (await session.get("/metrics")).text()
    assert PrivacyStatus.model_validate_json(pages["/privacy/status"]) == PrivacyStatus(
        leads=True, jobs={"Training": 1}, budgets={"Exhausted": 1}
    )
    assert SecurityStatus.model_validate_json(pages["/security/status"]) == SecurityStatus(
        leads=True,
        lease_transitions=3,
        least_tls="1.3",
        watches=10,
        dead_watches=(JOBS.path,),
        faults={"Forbidden": 2},
    )
    assert '"leaseTransitions":3' in pages["/security/status"]
    assert "foedus_operator_lease_transitions 3.0" in metrics
    for text in (*pages.values(), metrics):
        assert not [word for word in ("secret-trial", "hospital-a", "team-a", "silo-1") if word in text]


@pytest.mark.parametrize("path", ["/privacy/status", "/security/status"])
async def test_a_page_takes_nothing(path: str) -> None:
    health = Health(lambda: 0.0, lambda: False)
    async with serve(health, 0) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        assert (await session.post(path, data="x")).status == 405
        assert (await (await session.get(path)).json())["leads"] is False

"""What is said to whoever reaches the operator's port: numbers, and no name."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from foedus_engine.cluster.protocol import Busy
from foedus_operator.census import Census, PrivacyStatus, SecurityStatus
from foedus_operator.handlers import JOBS, WATCHED
from foedus_operator.health import Health, serve
from foedus_operator.serving import ServerFiles
from support.brain import manifest
from support.certificates import Authority


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


async def review(token: str, path: str) -> bool | None:
    """Let the one called `reader` read, know `somebody`, and nobody else."""
    assert path in PAGES
    if token == "during an outage":
        raise Busy("does not answer")
    return {"reader": True, "somebody": False}.get(token)


async def get(session: aiohttp.ClientSession, path: str, *, token: str = "reader", status: int = 200) -> str:
    answer = await session.get(path, headers={"Authorization": f"Bearer {token}"} if token else {})
    assert answer.status == status
    return await answer.text()


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
    health.lead(3)
    health.census.note(job("a", phase="Training", message="secret-trial of hospital-a failed"), gone=False)
    health.census.note(budget("b", "Exhausted"), gone=False)
    health.faults.labels("Forbidden").inc(2)
    now = 400.0
    for kind in WATCHED:
        if kind is not JOBS:
            health.answered(kind.path)
    async with serve(health, 0, review) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        pages = {path: await get(session, path) for path in ("/privacy/status", "/security/status")}
        metrics = await get(session, "/metrics")
        assert await get(session, "/health", token="", status=503) == "not healthy"  # why, it says to nobody
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


def test_of_two_processes_the_one_that_leads_counts() -> None:
    leads = False
    health = Health(lambda: 0.0, lambda: leads)
    health.census.note(job("a", phase="Training"), gone=False)
    assert health.privacy() == PrivacyStatus(leads=False, jobs={}, budgets={})
    leads = True
    assert health.privacy() == PrivacyStatus(leads=True, jobs={"Training": 1}, budgets={})


@pytest.mark.parametrize(
    ("leads", "answered", "now", "problem"),
    [
        (False, (), 10_000.0, ""),  # the API server is away: a new process would hear as little
        (False, ("b",), 10_000.0, "the watch of a has been dead for 10000 s"),
        (False, ("a", "b"), 10_000.0, ""),
        (True, ("a", "b"), 170.0, ""),
        (True, (), 190.0, "the watches have been silent for 190 s"),
    ],
)
def test_who_stands_by_is_ill_when_one_of_its_watches_is_dead_and_others_live(
    leads: bool, answered: tuple[str, ...], now: float, problem: str
) -> None:
    clock = 0.0
    health = Health(lambda: clock, lambda: leads)
    health.start(["a", "b"])
    if leads:
        health.lead(1)
    clock = now
    for watch in answered:
        health.answered(watch)
    assert health.problem() == problem


PAGES = ("/metrics", "/privacy/status", "/security/status")


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_takes_nothing_and_is_for_whom_rbac_lets_read_it(path: str) -> None:
    health = Health(lambda: 0.0, lambda: False)
    async with serve(health, 0, review) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        assert (await session.post(path, data="x")).status == 405
        for token, status in {"reader": 200, "somebody": 403, "nobody": 401, "": 401, "x" * 9000: 400}.items():
            await get(session, path, token=token, status=status)
        await get(session, path, token="during an outage", status=503)


async def test_with_a_certificate_it_speaks_tls_1_3_to_others_too(tmp_path: Path) -> None:
    authority = Authority.create()
    files = authority.issue(tmp_path, x509.DNSName("foedus-operator"))
    health = Health(lambda: 0.0, lambda: False)
    served = ServerFiles(files.certificate, files.key)
    async with serve(health, 0, review, served) as port:
        context = ssl.create_default_context(cafile=str(files.ca))
        context.check_hostname = False
        async with aiohttp.ClientSession() as session:
            for path in ("/health", "/ready"):
                answer = await session.get(f"https://127.0.0.1:{port}{path}", ssl=context)
                assert (answer.status, await answer.text()) == (200, "ok")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        for url in (f"https://127.0.0.1:{port}/health", f"http://127.0.0.1:{port}/health"):
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientError):
                    await session.get(url, ssl=context)


async def test_without_a_certificate_only_this_machine_is_answered() -> None:
    async with serve(Health(lambda: 0.0, lambda: False), 0, review) as port:
        sockets = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    assert {place for place, _, state in sockets if state == "0A" and place.endswith(f":{port:04X}")} == {
        f"0100007F:{port:04X}"
    }

"""kopf's watches, on an API server that is made for it: what they hold in memory, and how a dead one is found out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kubernetes.aio import client as kubernetes

from foedus_contract.errors import Unavailable
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.decide.plan import ObjectKey
from foedus_operator import listed as listed_bodies
from foedus_operator import watches
from foedus_operator.api_server import connect
from foedus_operator.handlers import JOBS, WATCHED, Watched
from foedus_operator.health import Health
from foedus_operator.listed import LIMIT, ROOM, Listed
from foedus_operator.watches import check_kinds, run_watches
from support.brain import manifest
from support.listing_server import ListingServer, listing

PATIENCE_SECONDS = 60.0
PODS = Watched("", "v1", "pods", "foedus.dev/job")


def jobs(count: int) -> list[dict[str, Any]]:
    made = [manifest(suspend=True) for _ in range(count)]
    return [
        {**each, "metadata": {**each["metadata"], "name": f"job-{number}", "uid": f"uid-{number}"}}
        for number, each in enumerate(made)
    ]


@asynccontextmanager
async def watching(
    configuration: kubernetes.Configuration, feed: KeyFeed, kinds: Sequence[Watched] = (JOBS,), **options: Any
) -> AsyncIterator[None]:
    task = asyncio.create_task(run_watches(feed, kinds, configuration, **options))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def bodies_held() -> int:
    """Return of how many objects kopf holds the last body: one in each object's task."""
    return sum(task.get_name().startswith("worker for ") for task in asyncio.all_tasks())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


async def test_a_long_list_is_never_in_memory_as_a_whole() -> None:
    held: list[int] = []

    async def pause() -> None:  # pages come as fast as a server sends them
        held.append(bodies_held())
        await asyncio.sleep(0.1)

    server = ListingServer([JOBS], {JOBS.plural: jobs(2000)}, paged=pause)
    feed, listed, seen = KeyFeed(), Listed(), set[str]()
    async with listing(server) as configuration, watching(configuration, feed, listed=listed):
        while len(seen) < 2000:
            key = await feed.next()
            assert listed.take(key) is not None
            seen.add(key.name)
    assert server.largest_page <= 100
    assert max(held) <= 500


async def test_a_list_waits_until_passes_have_taken_what_was_listed() -> None:
    server = ListingServer([JOBS], {JOBS.plural: jobs(1000)})
    feed, listed = KeyFeed(), Listed()
    async with listing(server) as configuration, watching(configuration, feed, listed=listed):
        taken = [await feed.next() for _ in range(ROOM)]
        await asyncio.sleep(0.5)
        assert server.asked[JOBS.path] <= 3  # of ten; kopf asks for a page before it has handled the last
        assert [listed.take(key) is None for key in taken] == [False] * ROOM
        while len(taken) < 1000:
            key = await feed.next()
            assert listed.take(key) is not None
            taken.append(key)
    assert len({key.name for key in taken}) == 1000


async def test_a_list_comes_to_its_end_although_no_pass_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed_bodies, "ROOM_SECONDS", 0.1)
    server = ListingServer([JOBS], {JOBS.plural: jobs(500)})
    feed = KeyFeed()
    async with listing(server) as configuration, watching(configuration, feed):
        assert len({(await feed.next()).name for _ in range(500)}) == 500


def test_who_does_not_lead_keeps_no_bodies() -> None:
    leads = False
    listed = Listed(lambda: leads)
    for body in jobs(2):
        listed.put(body)
        leads = True
    assert [key.name for key in listed._bodies] == ["job-1"]


def test_no_more_bodies_are_kept_than_there_is_room_for() -> None:
    listed = Listed()
    for each in jobs(LIMIT + 1):
        listed.put(each)
    found = [listed.take(ObjectKey(*each, "team-a", f"job-{LIMIT}")) for each in [(JOBS.group + "/v1alpha1", "X")]]
    assert (len(listed._bodies), found) == (LIMIT, [None])


async def test_each_watch_is_heard_of_again_and_again_but_not_one_that_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watches, "WATCH_SECONDS", 1)
    heard = Counter[str]()
    server = ListingServer([JOBS, PODS], refused={PODS.plural})
    options = {"answered": lambda path: heard.update([path])}
    async with listing(server) as configuration, watching(configuration, KeyFeed(), [JOBS, PODS], **options):
        await until(lambda: heard[JOBS.path] > 3 and server.asked[PODS.path] > 0)
    assert heard[PODS.path] == 0


@pytest.mark.parametrize(
    ("leads", "heard", "later", "want"),
    [
        (True, {}, 360, ""),
        (True, {JOBS.path: 300}, 361, f"the watch of {PODS.path} has been dead for 361 s"),
        (True, {JOBS.path: 300, PODS.path: 300}, 660, ""),
        (
            True,
            {JOBS.path: 300, PODS.path: 360, "/other": 600},
            661,
            f"the watch of {JOBS.path} has been dead for 361 s",
        ),
        (False, {JOBS.path: 361}, 1000, f"the watch of {PODS.path} has been dead for 361 s"),
        (False, {JOBS.path: 360}, 1000, ""),  # the API server is away, for all of them
    ],
)
def test_one_dead_watch_is_a_reason_to_start_anew(leads: bool, heard: dict[str, int], later: int, want: str) -> None:
    now = 0.0
    health = Health(lambda: now, lambda: leads)
    assert health.problem() == ""
    health.start([JOBS.path, PODS.path])
    if leads:
        health.lead(1)
    for path, at in heard.items():
        now = float(at)
        health.answered(path)
    now = float(later)
    health.pulse()  # the others are alive
    assert health.problem() == want


async def test_an_api_server_that_does_not_answer_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "ASK_AGAIN_SECONDS", 0.01)
    server = ListingServer(WATCHED, away=3)
    async with listing(server) as configuration, connect(configuration) as api:
        await check_kinds(api, WATCHED)
    assert server.asked["/api/v1"] == 4


async def test_an_operator_does_not_begin_without_its_kinds() -> None:
    for missing in (None, JOBS, PODS, WATCHED[-3]):
        server = ListingServer([kind for kind in WATCHED if kind.plural != (missing and missing.plural)])
        async with listing(server) as configuration, connect(configuration) as api:
            if missing is None:
                await check_kinds(api, WATCHED)
                continue
            with pytest.raises(Unavailable, match=f"{missing.path}: the API server does not serve this kind"):
                await check_kinds(api, WATCHED)

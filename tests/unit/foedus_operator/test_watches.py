"""kopf's watches, on an API server that is made for it: what they hold in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kubernetes.aio import client as kubernetes

from foedus_engine.cluster.feed import KeyFeed
from foedus_operator.handlers import JOBS, run_watches
from support.brain import manifest
from support.listing_server import ListingServer, listing

PATIENCE_SECONDS = 60.0


def jobs(count: int) -> list[dict[str, Any]]:
    made = [manifest(suspend=True) for _ in range(count)]
    return [
        {**each, "metadata": {**each["metadata"], "name": f"job-{number}", "uid": f"uid-{number}"}}
        for number, each in enumerate(made)
    ]


@asynccontextmanager
async def watching(configuration: kubernetes.Configuration, feed: KeyFeed, **options: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(run_watches(feed, [JOBS], configuration, **options))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def bodies_held() -> int:
    """Return of how many objects kopf holds the last body: one in each object's task."""
    return sum(task.get_name().startswith("worker for ") for task in asyncio.all_tasks())


async def test_a_long_list_is_never_in_memory_as_a_whole() -> None:
    held: list[int] = []

    async def pause() -> None:  # pages come as fast as a server sends them
        held.append(bodies_held())
        await asyncio.sleep(0.1)

    server = ListingServer([JOBS], {JOBS.plural: jobs(2000)}, paged=pause)
    feed = KeyFeed()
    async with listing(server) as configuration, watching(configuration, feed):
        seen = {(await feed.next()).name for _ in range(2000)}
    assert len(seen) == 2000
    assert server.largest_page <= 100
    assert max(held) <= 500

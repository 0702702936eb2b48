"""Bodies of listed jobs of which a pass says only what they are: such a pass need not read them again.

What it writes bears the version of the body, so one that is out of date costs a conflict and nothing else. The bodies
are few: whoever lists waits until passes have taken them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.plan import ObjectKey, key_of
from foedus_operator.kube import without_owners

ROOM = 100  # a page of a list is asked for when fewer wait
ROOM_SECONDS = 10.0  # a page's jobs take a second of passes
LIMIT = 1000  # at 10 KiB; what is listed beyond it is read when its turn comes


class Listed:
    """Bodies that wait for their pass; none are kept by a process that does not lead, which makes none."""

    def __init__(self, leads: Callable[[], bool] = lambda: True) -> None:
        self._leads = leads
        self._bodies: dict[ObjectKey, Object] = {}
        self._taken = asyncio.Event()

    def put(self, body: Object) -> None:
        """Keep a body unless there are too many."""
        if self._leads() and len(self._bodies) < LIMIT:
            self._bodies[key_of(body)] = without_owners(body)

    def take(self, key: ObjectKey) -> Object | None:
        """Hand out the object's body, once."""
        self._taken.set()
        return self._bodies.pop(key, None)

    async def room(self) -> None:
        """Wait until there are few, for some seconds: a list must come to its end even when no pass gets on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ROOM_SECONDS):
                while len(self._bodies) >= ROOM:
                    self._taken.clear()
                    await self._taken.wait()

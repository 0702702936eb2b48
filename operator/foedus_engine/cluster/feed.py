"""A queue of keys in which each key stands once, however often its object changed."""

from __future__ import annotations

import asyncio

from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.plan import ObjectKey, key_of


class KeyFeed:
    """What has changed and was not handed out yet, oldest first."""

    def __init__(self) -> None:
        self._keys: dict[ObjectKey, None] = {}
        self._news = asyncio.Event()

    def notice(self, obj: Object) -> None:
        """Take the keys of an object that changed, was made or is gone, and of its controller."""
        self.add(key_of(obj))
        for owner in obj["metadata"].get("ownerReferences", ()):
            if owner.get("controller", False):
                self.add(ObjectKey(owner["apiVersion"], owner["kind"], obj["metadata"]["namespace"], owner["name"]))

    def add(self, key: ObjectKey) -> None:
        """Take one key."""
        self._keys[key] = None
        self._news.set()

    async def next(self) -> ObjectKey:
        """Hand out the oldest key; waits for one."""
        while not self._keys:
            self._news.clear()
            await self._news.wait()
        key = next(iter(self._keys))
        del self._keys[key]
        return key

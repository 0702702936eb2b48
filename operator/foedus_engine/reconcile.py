"""The loop that operator and embedded engine share: parse, gather, decide, execute, one pass at a time an object.

What a kind needs is one function from the stored object to a Plan; a table maps kinds to such functions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from foedus_contract.errors import FoedusError, describe_defect
from foedus_engine.cluster.execute import execute, is_transient
from foedus_engine.cluster.protocol import Cluster, ClusterFault, Conflict, Forbidden, Ledgers, Object, find
from foedus_engine.decide.ending import is_at_rest
from foedus_engine.decide.plan import RECONCILE_FAILED, ContentFactory, Event, ObjectKey, Plan
from foedus_engine.workqueue import LONGEST_PAUSE_SECONDS, WorkQueue

RESYNC_SECONDS = 600.0  # level-based: a lost change is seen after this at the latest
RESYNC_AGAIN_SECONDS = 5.0  # after a look that the cluster has cut short: who has just begun to lead waits for it
# Between the news of an object and its rehearsal, so also between two of them: less than what a pass each few seconds
# costs who leads, and what is asked of the accountants for a job changes twice in its life.
REHEARSE_SECONDS = 30.0
WORKERS = 16  # passes wait for disk or network most of the time, one for a lost node's log for some seconds

Decide = Callable[[Object], Awaitable[Plan]]  # parse, gather, decide: reads, and never writes
Kind = tuple[str, str]  # apiVersion and kind
Kinds = Mapping[Kind, Decide]
Labels = Mapping[Kind, Mapping[str, str]]  # of a kind's objects that are ours, where others are not
Report = Callable[[ObjectKey, FoedusError], None]

_logger = logging.getLogger(__name__)


class Reconciler:
    """Feeds changed keys to passes. `report` hears of each pass that ended in an error, a defect included.

    `listed` hands out, once, what was just read of an object for whose pass that is enough.

    With `rehearsed` it stands by until `lead` is called: it decides about the objects of these kinds and does nothing,
    so that what a decision takes time to find out is known when it counts. What changed meanwhile is looked at then.
    """

    def __init__(
        self,
        cluster: Cluster,
        ledgers: Ledgers,
        factory: ContentFactory,
        kinds: Kinds,
        *,
        clock: Callable[[], float],
        report: Report | None = None,
        labels: Labels | None = None,
        listed: Callable[[ObjectKey], Object | None] = lambda _key: None,
        rehearsed: Collection[Kind] | None = None,
    ) -> None:
        self._cluster = cluster
        self._ledgers = ledgers
        self._factory = factory
        self._kinds = kinds
        self._clock = clock
        self._report = report
        self._labels = labels or {}
        self._listed = listed
        self._rehearsed = rehearsed or ()
        self._leads = asyncio.Event()
        if rehearsed is None:
            self._leads.set()
        self._has_missed = False  # there was news before it led
        self._queue = WorkQueue()
        self._sleepers: list[asyncio.Event] = []  # of the workers that have nothing to do

    async def run(self) -> None:
        """Reconcile until cancelled; ends early only when the watch fails."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._resync())
            for _ in range(WORKERS):
                group.create_task(self._work())

    def lead(self) -> None:
        """Act from now on."""
        self._leads.set()

    def add(self, key: ObjectKey) -> None:
        """Ask for a pass over one object; keys of other kinds are ignored."""
        leads = self._leads.is_set()
        if (key.api_version, key.kind) in (self._kinds if leads else self._rehearsed):
            self._queue.add(key, self._clock() + (0.0 if leads else REHEARSE_SECONDS))
            self._wake()

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Do one pass over one object and return when it wants the next; nothing when the object is gone."""
        obj = self._listed(key) or await find(self._cluster, key)
        if obj is None:
            return None
        plan = await self._kinds[key.api_version, key.kind](obj)
        return await execute(plan, obj=obj, cluster=self._cluster, ledgers=self._ledgers, factory=self._factory)

    async def _watch(self) -> None:
        async for key in self._cluster.watch():
            self._has_missed |= not self._leads.is_set()
            self.add(key)

    async def _resync(self) -> None:
        """Look at all objects now and then, and at once if there was news before this process led."""
        await self._leads.wait()
        if not self._has_missed:
            await asyncio.sleep(RESYNC_SECONDS)
        while True:
            for api_version, kind in self._kinds:
                while not await self._look_at_all(api_version, kind):
                    await asyncio.sleep(RESYNC_AGAIN_SECONDS)
            await asyncio.sleep(RESYNC_SECONDS)

    async def _look_at_all(self, api_version: str, kind: str) -> bool:
        """Ask for a pass over each object of a kind of which something may be left to do; say whether all were seen.

        A cluster that does not answer ends neither the loop nor the lead: what was not seen is looked at again.
        """
        try:
            async for obj in self._cluster.scan(api_version, kind, self._labels.get((api_version, kind))):
                if not is_at_rest(obj):
                    meta = obj["metadata"]
                    self.add(ObjectKey(api_version, kind, meta["namespace"], meta["name"]))
        except FoedusError as error:
            _logger.warning(
                "the look at every %s was cut short: %s; again in %.0f s", kind, error, RESYNC_AGAIN_SECONDS
            )
            self._tell(ObjectKey(api_version, kind, "", ""), error)
            return False
        return True

    async def _work(self) -> None:
        while True:
            key = self._queue.take(self._clock())
            if key is None:
                await self._rest()
            else:
                self._wake()  # somebody else waits for what is due next
                await (self._pass(key) if self._leads.is_set() else self._rehearse(key))

    def _wake(self) -> None:
        """Let one worker look what is due. It is enough: one that finds something wakes another."""
        if self._sleepers:
            self._sleepers.pop().set()

    async def _rest(self) -> None:
        """Wait for news or for the next key that is due."""
        due = self._queue.next_due()
        timeout = None if due is None else max(0.0, due - self._clock())
        news = asyncio.Event()
        self._sleepers.append(news)
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that meets the news, and the loop never ends.
            async with asyncio.timeout(timeout):
                await news.wait()
        except TimeoutError:
            if news in self._sleepers:
                self._sleepers.remove(news)

    async def _rehearse(self, key: ObjectKey) -> None:
        """Decide about one object and forget what: it was read before this process may act on it."""
        try:
            obj = await find(self._cluster, key)
            if obj is not None:
                await self._kinds[key.api_version, key.kind](obj)
        except Exception as error:  # noqa: BLE001 - the loop's border; who leads meets it, too, and tells
            _logger.info("%s: not rehearsed (%s)", key, describe_defect(error))
        self._queue.done(key, self._clock(), again_seconds=None)

    async def _pass(self, key: ObjectKey) -> None:
        """Do one pass and give the key back; the class of an error decides whether and when there is another."""
        try:
            again = await self.reconcile(key)
        except FoedusError as error:
            await self._note(key, error)
        except Exception as error:  # noqa: BLE001 - the loop's border: every defect is told, and none ends the loop
            defect = FoedusError(describe_defect(error), where=str(key))
            self._queue.failed(key, self._clock())
            _logger.error("%s", defect)
            self._tell(key, defect)
            await self._publish(key, defect)
        else:
            self._queue.done(key, self._clock(), again_seconds=again)

    async def _note(self, key: ObjectKey, error: FoedusError) -> None:
        lasts = False
        if is_transient(error):
            pause = self._queue.failed(key, self._clock(), lost_race=isinstance(error, Conflict))
            _logger.info("%s: %s; again in %.1f s", key, error, pause)
            lasts = pause >= LONGEST_PAUSE_SECONDS and not isinstance(error, ClusterFault)  # which is no object's
        else:
            self._queue.done(key, self._clock(), again_seconds=None)  # the same input fails again: wait for a change
            _logger.warning("%s: %s", key, error)
        self._tell(key, error)
        if lasts or isinstance(error, Forbidden) or not is_transient(error):
            await self._publish(key, error)  # somebody has to act

    def _tell(self, key: ObjectKey, error: FoedusError) -> None:
        if self._report is not None:
            self._report(key, error)

    async def _publish(self, key: ObjectKey, error: FoedusError) -> None:
        try:
            await self._cluster.publish(key, Event("Warning", RECONCILE_FAILED, str(error)))
        except Exception:  # the error has been told; an event that is lost must not end the loop
            _logger.exception("%s: an event is lost", key)

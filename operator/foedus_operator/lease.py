"""Who may act: one process at a time, by a Lease, with durations on each process's own monotonic clock.

The rules are those of client-go's leader election:

1. Whoever sees the Lease unchanged for DURATION, counted from when it first saw that very version, may take it.
2. Whoever waits looks every LOOK, whoever holds it renews it every RETRY; the write bears the version that was read,
   so of two takers one wins.
3. A holder acts for RENEW_DEADLINE after it SENT its last successful renewal, and not a moment longer.

Assumption: clocks of different processes may show anything, but DURATION on one takes longer than RENEW_DEADLINE on
another, i.e. their rates differ by less than a third. Then no two processes act at the same time: others count from
when they saw the renewal, which is after it was sent. A clock that stands still with its machine breaks this; the
ledger does not rely on it, each of its writes bears the version that it was decided on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from foedus_contract.errors import FoedusError, Unavailable
from foedus_engine.cluster.protocol import AlreadyExists, Busy, Conflict, Forbidden, Object, find
from foedus_engine.decide.plan import ObjectKey
from foedus_operator.kube import KubeCluster

DURATION_SECONDS = 15.0
RENEW_DEADLINE_SECONDS = 10.0
RETRY_SECONDS = 2.0
# How often a waiting process looks: what it has not seen it counts from later, so this is what a failover may lose.
LOOK_SECONDS = 0.5

_logger = logging.getLogger(__name__)


class LeaseLost(Unavailable):
    """Another process may act now; this one must end."""


def steady_clock() -> float:
    """Return seconds that also pass while the process is stopped and the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class LeaseRecord:
    """What the Lease says: who holds it (nobody: empty) and how often it has changed hands."""

    holder: str = ""
    transitions: int = 0


@dataclass(frozen=True)
class Candidate:
    """One process's view of the election; every step returns a new one. Times are its own clock's."""

    identity: str
    record: LeaseRecord | None = None  # None: never seen, or there is no Lease
    version: str = ""
    seen: float = 0.0  # when this very version was first seen
    renewed: float | None = None  # when the last renewal that succeeded was sent

    def observe(self, record: LeaseRecord | None, version: str, now: float) -> Candidate:
        """Take what was read at `now`."""
        if record == self.record and version == self.version:
            return self
        mine = record is not None and record.holder == self.identity
        return replace(self, record=record, version=version, seen=now, renewed=self.renewed if mine else None)

    def wish(self, now: float) -> LeaseRecord | None:
        """Return what to write now, over the version that was seen; None while another one holds the Lease."""
        held = self.record
        if held is None:
            return LeaseRecord(self.identity)
        if held.holder == self.identity:
            return held
        if self.seconds_until_free(now) > 0:
            return None
        return LeaseRecord(self.identity, held.transitions + 1)

    def seconds_until_free(self, now: float) -> float:
        """Return after how long the Lease may be taken if nobody renews it; 0 when it may be already."""
        if self.record is None or self.record.holder in ("", self.identity):
            return 0.0
        return max(0.0, self.seen + DURATION_SECONDS - now)

    def wrote(self, record: LeaseRecord, version: str, *, sent: float, now: float) -> Candidate:
        """Take that `record`, sent at `sent`, is what the Lease says."""
        return replace(self, record=record, version=version, seen=now, renewed=sent)

    def seconds_left(self, now: float) -> float:
        """Return for how long this process may act; 0 when it may not."""
        return 0.0 if self.renewed is None else max(0.0, self.renewed + RENEW_DEADLINE_SECONDS - now)


class Lease:
    """The Lease in the cluster. One task elects; everybody may ask whether this process leads."""

    def __init__(
        self,
        cluster: KubeCluster,
        key: ObjectKey,
        identity: str,
        *,
        clock: Callable[[], float] = steady_clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._key = key
        self._clock = clock
        self._sleep = sleep
        self._candidate = Candidate(identity)

    @property
    def transitions(self) -> int:
        """Return how often the Lease has changed hands, as far as this process knows."""
        return self._candidate.record.transitions if self._candidate.record else 0

    @property
    def leads(self) -> bool:
        """Say whether this process may act."""
        return self._candidate.seconds_left(self._clock()) > 0

    def patience(self) -> float:
        """Return for how many seconds a write may be under way; raises LeaseLost when none may."""
        left = self._candidate.seconds_left(self._clock())
        if left <= 0:
            raise LeaseLost("this process does not hold the lease", where=str(self._key))
        return left

    async def acquire(self) -> None:
        """Return once this process holds the Lease."""
        while not self.leads:
            await self._try()
            if not self.leads:
                # Not later than it is free: nobody acts meanwhile. Where it is free and the try failed, RETRY goes by.
                free = self._candidate.seconds_until_free(self._clock())
                await self._sleep(min(free, LOOK_SECONDS) if free > 0 else RETRY_SECONDS)
        _logger.info("%s holds %s, transition %d", self._candidate.identity, self._key, self.transitions)

    async def hold(self) -> None:
        """Renew for ever; raises LeaseLost when another process holds the Lease, or may."""
        while True:
            self.patience()
            await self._sleep(min(RETRY_SECONDS, self.patience()))
            await self._try()

    async def release(self) -> None:
        """Give the Lease up, so that another process need not wait. Nothing may be written after."""
        if not self.leads or self._candidate.record is None:
            return
        nobody = replace(self._candidate.record, holder="")
        version = self._candidate.version
        self._candidate = replace(self._candidate, renewed=None)
        try:
            await self._write(nobody, version)
        except FoedusError as error:
            _logger.info("the lease was not given back: %s", error)

    async def _try(self) -> None:
        """Read, and write what this process wishes; no answer and a lost race leave things as they are."""
        try:
            async with asyncio.timeout(RENEW_DEADLINE_SECONDS / 2):  # two tries fit before the deadline
                obj = await find(self._cluster, self._key)
                self._candidate = self._candidate.observe(*_read(obj), self._clock())
                wish = self._candidate.wish(self._clock())
                if wish is None:
                    return
                sent = self._clock()
                written = await self._write(wish, self._candidate.version)
                version = written["metadata"]["resourceVersion"]
                self._candidate = self._candidate.wrote(wish, version, sent=sent, now=self._clock())
        except (Busy, Conflict, AlreadyExists, Forbidden, TimeoutError) as error:
            _logger.warning("the lease was not renewed: %s", str(error) or "no answer in time")

    async def _write(self, record: LeaseRecord, version: str) -> Object:
        manifest = _build(self._key, record, version)
        return await (self._cluster.update(manifest) if version else self._cluster.create(manifest))


def _build(key: ObjectKey, record: LeaseRecord, version: str) -> Mapping[str, Any]:
    """Return the Lease. Its times are wall-clock and for people only: no process decides by them."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    meta = {"name": key.name, "namespace": key.namespace} | ({"resourceVersion": version} if version else {})
    return {
        "apiVersion": key.api_version,
        "kind": key.kind,
        "metadata": meta,
        "spec": {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": int(DURATION_SECONDS),
            "leaseTransitions": record.transitions,
            "renewTime": stamp,
        },
    }


def _read(obj: Object | None) -> tuple[LeaseRecord | None, str]:
    if obj is None:
        return None, ""
    spec = obj.get("spec") or {}
    return (
        LeaseRecord(str(spec.get("holderIdentity") or ""), int(spec.get("leaseTransitions") or 0)),
        str(obj["metadata"]["resourceVersion"]),
    )

"""What pods report: the lines of their logs that are progress events.

A pod needs no right in the cluster for this, and no open port: silos have none. Lines are read once: the next read
asks for what is newer than the last line seen.

A node that does not answer holds up nobody for long: it gets LOG_SECONDS, and is then left alone for SILENT_SECONDS.
What its pods have said by then is read later; whoever asks again and again misses nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from foedus_contract.errors import InvalidInput
from foedus_contract.progress import kind_of, read_event
from foedus_engine.build.pods import CONTAINER
from foedus_engine.cluster.pods import MAX_PROGRESS_LINE
from foedus_engine.cluster.protocol import Busy, NotFound, Object
from foedus_engine.decide.observed import Progress
from foedus_engine.decide.plan import ObjectKey, key_of
from foedus_engine.decide.pod_state import has_started
from foedus_operator.api_server import ApiServer
from foedus_operator.silence import Silence

MAX_LOG_BYTES = 1024 * 1024  # a read; what a pod writes faster than that it says in vain
MAX_READS = 16  # at a time, so that what is read is at most so many of them
LOG_SECONDS = 3.0  # a kubelet answers in milliseconds; a node that is lost keeps its pods' logs for ever
SILENT_SECONDS = 60.0  # a node that comes back is heard again after this
FORGET_SECONDS = 600.0  # a pod that runs is asked every few seconds; one that is asked for again is read anew
MAX_KEPT_BYTES = 64 * 1024 * 1024  # of all pods' events together; a pod's are a few KiB

_STAMP = re.compile(r"[0-9T:-]{19}(\.[0-9]{1,9})?Z")

KeyOf = Callable[[int, Progress], object]


def every(number: int, _event: Progress) -> object:
    """Keep each event: for one job's history, read by a process that is soon over."""
    return number


def latest(_number: int, event: Progress) -> object:
    """Keep the latest event of each kind: decisions rest on no others."""
    return kind_of(event)


@dataclass
class _Log:
    """How far a pod's log was read, and what of it is kept, oldest first."""

    kept: dict[object, tuple[Progress, int]] = field(default_factory=dict)  # with the size of its line
    number: int = 0  # of events so far
    size: int = 0
    last: str = ""  # the time stamp of the last line, in nanoseconds
    complete: bool = False  # the container has ended and all was read
    asked: float = 0.0

    def keep(self, key: object, event: Progress, size: int) -> None:
        """Keep an event in the place of the one of its key."""
        self.size += size - self.kept.pop(key, (event, 0))[1]
        self.kept[key] = (event, size)

    @property
    def events(self) -> tuple[Progress, ...]:
        """What is kept, oldest first."""
        return tuple(event for event, _ in self.kept.values())


class PodLogs:
    """Reads the logs of pods, each line once. `key` says which events stand for each other: the newest is kept."""

    def __init__(self, server: ApiServer, *, key: KeyOf = latest, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._key = key
        self._clock = clock
        self._logs: OrderedDict[str, _Log] = OrderedDict()  # by the pod's UID, the longest not asked for first
        self._size = 0
        self._silence = Silence(SILENT_SECONDS, clock)  # of nodes
        self._reads = asyncio.Semaphore(MAX_READS)

    async def read(self, pod: Object) -> tuple[Progress, ...]:
        """Return what the pod has reported so far, as far as its node answers."""
        uid = pod["metadata"]["uid"]
        log = self._find(uid)
        if log.complete or not has_started(pod):
            return log.events
        async with self._reads:
            ended = pod["status"].get("phase") in {"Succeeded", "Failed"}
            before, size = log.last, log.size
            lines = await self._lines(pod, log.last)
            if lines is not None:
                _take(log, lines, self._key)
                log.complete = ended and log.last == before  # one read takes a part of a long log
        if self._logs.get(uid) is log:
            self._size += log.size - size
        self._forget()
        return log.events

    def _find(self, uid: str) -> _Log:
        log = self._logs.setdefault(uid, _Log())
        self._logs.move_to_end(uid)
        log.asked = self._clock()
        return log

    def _forget(self) -> None:
        """Drop what nobody asks for any more, and of too much what was not asked for the longest."""
        overdue = self._clock() - FORGET_SECONDS
        while len(self._logs) > 1:
            uid, oldest = next(iter(self._logs.items()))
            if oldest.asked > overdue and self._size <= MAX_KEPT_BYTES:
                return
            del self._logs[uid]
            self._size -= oldest.size

    async def _lines(self, pod: Object, since: str) -> list[bytes] | None:
        """Return the lines after a time stamp; None when nobody answers, or was asked."""
        node = str(pod.get("spec", {}).get("nodeName") or pod["metadata"]["uid"])
        if self._silence.covers(node):
            return None
        query = {"container": CONTAINER, "timestamps": "true", "limitBytes": str(MAX_LOG_BYTES)}
        if since:
            query["sinceTime"] = since
        key = key_of({"apiVersion": "v1", "kind": "Pod", **pod})
        try:
            text = await self._server.text("GET", _path(key), query=query, seconds=LOG_SECONDS)
        except Busy:
            self._silence.begin(node)
            return None
        except (NotFound, InvalidInput):
            return []  # there is no log yet, or none any more
        return text[: text.rfind(b"\n") + 1].splitlines()


def _path(pod: ObjectKey) -> str:
    return f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/log"


def _take(log: _Log, lines: list[bytes], key: KeyOf) -> None:
    for line in lines:
        stamp, _, text = line.partition(b" ")
        when = stamp.decode("ascii", "replace")
        # The second that sinceTime names comes again whole.
        if not _STAMP.fullmatch(when) or _instant(when) <= _instant(log.last):
            continue
        log.last = when
        event = event_of(text)
        if event is not None:
            log.number += 1
            log.keep(key(log.number, event), event, len(text))


def event_of(line: bytes) -> Progress | None:
    """Return the event on a line that a pod has written; None when it is none that this version knows."""
    if len(line) > MAX_PROGRESS_LINE or not line.startswith(b"{"):
        return None
    try:
        return read_event(line)
    except ValueError:
        return None


def _instant(stamp: str) -> tuple[str, str]:
    """Return what orders RFC 3339 stamps in UTC, whose fractions differ in length."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")

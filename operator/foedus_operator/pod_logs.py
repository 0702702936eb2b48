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
from datetime import UTC, datetime

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

# RFC 3339, in the time zone of the node.
_STAMP = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})")
_SECOND = 10**9  # in nanoseconds

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
    last: int = 0  # the time of the last line, in nanoseconds since 1970
    taken: int = 0  # of the lines of that time: a runtime may give one time to all that it reads at once
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
            size = log.size
            text = await self._text(pod, log.last)
            if text is not None:
                is_new = _take(log, text[: text.rfind(b"\n") + 1].splitlines(), self._key)
                if not is_new and len(text) >= MAX_LOG_BYTES:  # more in a second than a read takes
                    log.last, log.taken, is_new = (log.last // _SECOND + 1) * _SECOND, 0, True
                log.complete = ended and not is_new  # one read takes a part of a long log
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

    async def _text(self, pod: Object, since: int) -> bytes | None:
        """Return the log from the second of a time on; None when nobody answers, or was asked."""
        node = str(pod.get("spec", {}).get("nodeName") or pod["metadata"]["uid"])
        if self._silence.covers(node):
            return None
        query = {"container": CONTAINER, "timestamps": "true", "limitBytes": str(MAX_LOG_BYTES)}
        if since:
            query["sinceTime"] = datetime.fromtimestamp(since // _SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        key = key_of({"apiVersion": "v1", "kind": "Pod", **pod})
        try:
            return await self._server.text("GET", _path(key), query=query, seconds=LOG_SECONDS)
        except Busy:
            self._silence.begin(node)
            return None
        except (NotFound, InvalidInput):
            return b""  # there is no log yet, or none any more


def _path(pod: ObjectKey) -> str:
    return f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/log"


def _take(log: _Log, lines: list[bytes], key: KeyOf) -> bool:
    """Take the lines that were not there before; say whether there were any."""
    is_new, repeated = False, 0  # of the lines of the last time: the second that sinceTime names comes again whole
    for line in lines:
        stamp, _, text = line.partition(b" ")
        when = _instant(stamp.decode("ascii", "replace"))
        if when is None or when < log.last:
            continue
        if when > log.last:
            log.last, log.taken, repeated = when, 0, 0
        repeated += 1
        if repeated <= log.taken:
            continue
        log.taken, is_new = repeated, True
        event = event_of(text)
        if event is not None:
            log.number += 1
            log.keep(key(log.number, event), event, len(text))
    return is_new


def event_of(line: bytes) -> Progress | None:
    """Return the event on a line that a pod has written; None when it is none that this version knows."""
    if len(line) > MAX_PROGRESS_LINE or not line.startswith(b"{"):
        return None
    try:
        return read_event(line)
    except ValueError:
        return None


def _instant(stamp: str) -> int | None:
    """Return an RFC 3339 time in nanoseconds since 1970; None for what is none."""
    found = _STAMP.fullmatch(stamp)
    if found is None:
        return None
    second, fraction, zone = found.groups()
    try:
        whole = int(datetime.fromisoformat(second + zone).timestamp())
    except ValueError:
        return None
    return whole * _SECOND + int((fraction or "").ljust(9, "0"))

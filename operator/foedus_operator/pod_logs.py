"""What pods report: the lines of their logs that are progress events.

A pod has no right in the cluster and opens no port for this; the kubelet's log is the way that needs neither. Lines
are read once: the next read asks for what is newer than the last line seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from foedus_contract.errors import InvalidInput
from foedus_contract.limits import MAX_ATTEMPTS
from foedus_contract.progress import PROGRESS
from foedus_engine.build.pods import CONTAINER
from foedus_engine.cluster.pods import MAX_PROGRESS_LINE
from foedus_engine.cluster.protocol import Busy, NotFound, Object
from foedus_engine.decide.observed import Progress
from foedus_engine.decide.plan import ObjectKey, key_of
from foedus_engine.decide.pod_state import has_started
from foedus_operator.api_server import ApiServer

MAX_LOG_BYTES = 1024 * 1024  # a read; what a pod writes faster than that it says in vain
MAX_EVENTS = 4 * MAX_ATTEMPTS  # of one pod; an attempt is one event, and a start some
MAX_PODS = 10_000  # whose logs are remembered; the oldest are read again

_STAMP = re.compile(r"[0-9T:-]{19}(\.[0-9]{1,9})?Z")


@dataclass
class _Log:
    """How far a pod's log was read, and what it said."""

    events: list[Progress] = field(default_factory=list)
    last: str = ""  # the time stamp of the last line, in nanoseconds
    complete: bool = False  # the container has ended and all was read


class PodLogs:
    """Reads the logs of pods, each line once."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._logs: dict[str, _Log] = {}

    async def read(self, pod: Object) -> tuple[Progress, ...]:
        """Return every event that the pod has reported so far."""
        log = self._logs.setdefault(pod["metadata"]["uid"], _Log())
        if len(self._logs) > MAX_PODS:
            del self._logs[next(iter(self._logs))]
        if not log.complete and has_started(pod):
            ended, before = pod["status"].get("phase") in {"Succeeded", "Failed"}, log.last
            _take(log, await self._lines(key_of({"apiVersion": "v1", "kind": "Pod", **pod}), log.last))
            log.complete = ended and log.last == before  # one read takes a part of a long log
        return tuple(log.events)

    async def _lines(self, pod: ObjectKey, since: str) -> list[bytes]:
        query = {"container": CONTAINER, "timestamps": "true", "limitBytes": str(MAX_LOG_BYTES)}
        if since:
            query["sinceTime"] = since
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/log"
        try:
            text = await self._server.text("GET", path, query=query)
        except (Busy, NotFound, InvalidInput):
            return []  # its node does not answer, or has no log yet: there is no news
        return text[: text.rfind(b"\n") + 1].splitlines()


def _take(log: _Log, lines: list[bytes]) -> None:
    for line in lines:
        stamp, _, text = line.partition(b" ")
        when = stamp.decode("ascii", "replace")
        # The second that sinceTime names comes again whole.
        if not _STAMP.fullmatch(when) or _instant(when) <= _instant(log.last):
            continue
        log.last = when
        if len(log.events) < MAX_EVENTS and len(text) <= MAX_PROGRESS_LINE and text.startswith(b"{"):
            try:
                log.events.append(PROGRESS.validate_json(text))
            except ValueError:
                continue


def _instant(stamp: str) -> tuple[str, str]:
    """Return what orders RFC 3339 stamps in UTC, whose fractions differ in length."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")

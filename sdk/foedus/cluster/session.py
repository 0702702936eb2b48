"""A person's way to a cluster: what is read and made there, and faults as one line with a cure.

The faults of the API server become:

    no usable kubeconfig        InvalidInput
    unreachable                 Unavailable
    credentials                 Forbidden, with how to renew them
    no right                    Forbidden, as the server says it: who, verb, resource, namespace
    kinds not installed         Unavailable
    no such object              InvalidInput
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp

from foedus.cluster.target import Target
from foedus_contract.errors import FoedusError, InvalidInput, Unavailable
from foedus_contract.wire import LedgerHead
from foedus_engine import names
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import Busy, Forbidden, NotFound, Object, Unauthenticated, find
from foedus_engine.decide.observed import Progress
from foedus_engine.decide.plan import BudgetKey, Manifest, ObjectKey
from foedus_ledger.charges import LedgerBehind
from foedus_ledger.records import Account, BudgetRecord
from foedus_operator.api_server import ApiServer, connect, load_user_configuration
from foedus_operator.kube import RESOURCES, KubeCluster, collection, path_of, snapshot
from foedus_operator.pod_logs import PodLogs, every

if TYPE_CHECKING:
    from foedus.report.gather import Source
    from foedus_operator.ledgers import KubeLedgers

WATCH_SECONDS = 300  # the server ends a watch then, and it is begun again
SILENCE_SECONDS = WATCH_SECONDS + 30.0
LOG_SECONDS = 60.0  # a node that is lost says nothing of its pods' logs
GONE = 410  # the server no longer knows what has changed since
ADDED, DELETED, BOOKMARK, ERROR = "ADDED", "DELETED", "BOOKMARK", "ERROR"
LOG_IN = "log in to the cluster again; `kubectl auth whoami` says whether it worked"


@dataclass(frozen=True)
class Change:
    """What a watch says of an object: ADDED, MODIFIED or DELETED."""

    kind: str
    object: Object


@dataclass(frozen=True)
class FoundBudget:
    """A budget's ledger, the head that was kept, and that the ledger is an old copy, where that head says so."""

    key: BudgetKey
    record: BudgetRecord
    head: LedgerHead | None
    behind: LedgerBehind | None


class Session:
    """One cluster as one person sees it; `namespace` is the one that is meant, None all of them."""

    def __init__(self, server: ApiServer, host: str, namespace: str | None) -> None:
        self._server = server
        self._host = host
        self.namespace = namespace
        self.cluster = KubeCluster(server, KeyFeed(), PodLogs(server, key=every))

    @property
    def one_namespace(self) -> str:
        """The namespace, where all make no sense."""
        assert self.namespace is not None
        return self.namespace

    async def get(self, key: ObjectKey) -> Object:
        """Return the object; raises InvalidInput when it is not there."""
        with self.explained():
            try:
                return await self.cluster.get(key)
            except NotFound:
                await self._check_installed(key.kind)
                raise missing(key) from None

    async def find(self, key: ObjectKey) -> Object | None:
        """Return the object, or None when it is not there."""
        with self.explained():
            return await find(self.cluster, key)

    async def progress(self, namespace: str, job: str) -> tuple[Progress, ...]:
        """Return all events that a Job's pods have reported, as far as their logs are there; a look reads a part."""
        found = await self.find(ObjectKey("batch/v1", "Job", namespace, job))
        if found is None:
            return ()
        events: tuple[Progress, ...] = ()
        with self.explained():
            while True:
                view = (await self.cluster.pods([found])).get(job)
                if view is None or len(view.progress) <= len(events):
                    return events
                events = view.progress

    def report_source(self) -> Source:
        """Return where the report of a job comes from."""
        from foedus.report.gather import Source

        return Source(self.find, self.progress, self._ledgers().read)

    async def list(self, api_version: str, kind: str, labels: Mapping[str, str] | None = None) -> tuple[Object, ...]:
        """Return the objects of a kind in name order."""
        with self.explained():
            try:
                return await self.cluster.list(api_version, kind, self.namespace, labels)
            except NotFound:
                raise self._not_installed(kind) from None

    async def budgets(self, name: str | None = None) -> tuple[FoundBudget, ...]:
        """Return the namespace's budgets, or the one of this name; raises Refused for a ledger that is damaged."""
        if name is None:
            return tuple(map(found_budget, await self.list(names.API_VERSION, names.BUDGET_KIND)))
        key = ObjectKey(names.API_VERSION, names.BUDGET_KIND, self.one_namespace, name)
        return (found_budget(await self.get(key)),)

    async def take_over(self, budget: BudgetKey, logged: Mapping[str, Account]) -> BudgetRecord:
        """Let a ledger take over charges of its silo's log, as spent; it needs the verb `reconcile` on the budget."""
        return await self._ledgers().take_over(budget, logged)

    def _ledgers(self) -> KubeLedgers:
        """Return the ledgers: imported here, for their accountants take a second, and most commands need none."""
        from foedus_operator.ledgers import KubeLedgers

        return KubeLedgers(self._server)

    async def watch(self, api_version: str, kind: str, name: str = "") -> AsyncGenerator[Change, None]:
        """Yield what there is, then what changes, without end. Of what changes fast, only the latest may be told."""
        path = collection(api_version, kind, self.namespace)
        chosen = {"fieldSelector": f"metadata.name={name}"} if name else {}
        while True:
            with self.explained():
                try:
                    version, found = await snapshot(self._server, api_version, kind, self.namespace, chosen)
                except NotFound:
                    raise self._not_installed(kind) from None
            for item in found:
                yield Change(ADDED, item)
            while version:
                async with aclosing(self._changes(path, {**chosen, "resourceVersion": version})) as changes:
                    async for change in changes:
                        version = str(change.object["metadata"]["resourceVersion"]) if change.kind != ERROR else ""
                        if change.kind not in {BOOKMARK, ERROR}:
                            yield change

    async def _changes(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[Change, None]:
        """Yield what one watch says; an ERROR that is told ends it, and then all is to be listed again."""
        asked = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS), **query}
        with self.explained():
            async for line in self._server.lines(path, asked, silence=SILENCE_SECONDS):
                change = parse_change(line, path)
                if change.kind == ERROR and change.object.get("code") != GONE:
                    raise Busy(str(change.object.get("message", "the watch has failed"))[:1024], where=path)
                yield change

    async def log(self, pod: ObjectKey, container: str, *, follow: bool) -> AsyncIterator[bytes]:
        """Yield the lines that a pod's process wrote; with `follow`, until it ends."""
        query = {"container": container, **({"follow": "true"} if follow else {})}
        silence = None if follow else LOG_SECONDS
        with self.explained():
            async for line in self._server.lines(f"{path_of(pod)}/log", query, silence=silence):
                yield line

    async def create(self, manifest: Manifest) -> Object:
        """Make the object."""
        with self.explained():
            return await self.cluster.create(manifest)

    async def delete(self, key: ObjectKey) -> None:
        """Delete the object; one that is gone already is fine."""
        with self.explained():
            try:
                await self.cluster.delete(key)
            except NotFound:
                return

    @asynccontextmanager
    async def forward(self, pod: ObjectKey, port: int) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Yield a WebSocket to a port of the pod's own loopback interface."""
        with self.explained():
            try:
                async with self._server.channels(f"{path_of(pod)}/portforward", {"ports": str(port)}) as socket:
                    yield socket
            except Forbidden as error:
                if isinstance(error, Unauthenticated):
                    raise
                # A refused WebSocket brings no words.
                what = f'cannot create resource "pods/portforward" in the namespace "{pod.namespace}"'
                raise Forbidden(what, where=error.where) from None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a fault of the cluster into a line that says what it means for whoever typed the command."""
        try:
            yield
        except Unauthenticated as error:
            raise Unauthenticated(error.what, where=self._host, cure=LOG_IN) from None
        except Forbidden as error:
            cure = "ask whoever administers the namespace for the right; `kubectl auth can-i --list` shows yours"
            raise Forbidden(error.what, where=self._host, cure=cure) from None
        except Busy as error:
            cure = "see that this is the cluster that you mean (--context), and that it can be reached from here"
            raise Unavailable(error.what, where=self._host, cure=cure) from None

    async def _check_installed(self, kind: str) -> None:
        """Raise Unavailable when the cluster does not know our kinds."""
        if (names.API_VERSION, kind) not in RESOURCES:
            return
        try:
            served = await self._server.request("GET", f"/apis/{names.API_VERSION}")
        except NotFound:
            raise self._not_installed(kind) from None
        if kind not in {resource.get("kind") for resource in served.get("resources", ())}:
            raise self._not_installed(kind)

    def _not_installed(self, kind: str) -> Unavailable:
        cure = "install the chart there (docs/operator.md), or choose another cluster with --context"
        return Unavailable(f"this cluster has no kind {kind}: Foedus is not installed", where=self._host, cure=cure)


@asynccontextmanager
async def open_session(target: Target, environ: Mapping[str, str]) -> AsyncIterator[Session]:
    """Yield the cluster that is meant; raises InvalidInput when no kubeconfig leads to one."""
    configuration, namespace = await load_user_configuration(target.kubeconfig, target.context, environ=environ)
    chosen = None if target.every_namespace else target.namespace or namespace
    async with connect(configuration) as server:
        yield Session(server, configuration.host, chosen)


def found_budget(obj: Object) -> FoundBudget:
    """Return the ledger that an object holds."""
    from foedus_operator.ledgers import check_kept_head, kept_head, read_record

    record, meta = read_record(obj), obj["metadata"]
    found = FoundBudget(BudgetKey(meta["namespace"], meta["name"]), record, kept_head(obj, record), None)
    try:
        check_kept_head(obj, record)
    except LedgerBehind as error:
        return replace(found, behind=error)
    return found


def missing(key: ObjectKey) -> FoedusError:
    """Return the error of an object that is not there."""
    listed = {names.TRAINING_KIND: "foedus get jobs", names.BUDGET_KIND: "foedus get budgets"}.get(key.kind)
    cure = f"`{listed} -n {key.namespace}` lists what is there; -n names another namespace" if listed else ""
    return InvalidInput("does not exist", where=f"{key.kind} {key.namespace}/{key.name}", cure=cure)


def parse_change(line: bytes, where: str) -> Change:
    """Return one event of a watch; raises Busy when it is none."""
    try:
        event: dict[str, Any] = json.loads(line)
        return Change(str(event["type"]), dict(event["object"]))
    except (ValueError, KeyError, TypeError):
        raise Busy("the watch says what cannot be read", where=where) from None

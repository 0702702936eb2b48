"""The embedded engine: the cluster protocol on one machine, without Kubernetes.

Objects live in SQLite, Jobs are processes, Services loopback ports, Secrets files of mode 0600, volumes folders. One
engine uses a state folder at a time. `foedus_engine.cluster.fields` says what it honours of a manifest.

    <state>/engine.lock  objects.sqlite  endpoints.json  pods/<namespace>/<job>-<uid>/<n>  volumes/<namespace>/<claim>
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from foedus_contract.errors import InvalidInput, Unavailable
from foedus_engine.cluster import fields, pods, processes
from foedus_engine.cluster.endpoints import Endpoints
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.jobs import PodView, is_finished
from foedus_engine.cluster.protocol import FIELD_MANAGER, NotFound, Object
from foedus_engine.cluster.records import EventRecords, PodRecords, PortRecords
from foedus_engine.cluster.store import ObjectStore, open_database
from foedus_engine.cluster.supervisor import Host, Supervisor, report_sizes
from foedus_engine.decide.observed import PodsView, Progress, Trouble
from foedus_engine.decide.plan import Event, Manifest, ObjectKey
from foedus_engine.names import SILO_LABEL, ledger_claim

POLL_SECONDS = 0.25  # how soon news in a pod's files is seen; a display refreshes about as often


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class EmbeddedCluster:
    """One machine as a cluster; use it as an asynchronous context manager.

    `volumes` is the user's folder of claims: a claim named as a folder in it is that folder. `environ` is where
    processes inherit the few variables from that `processes.INHERITED` names. With `hold` no Job runs before `release`:
    what an earlier engine left behind can be looked at, and deleted, while nothing of it runs.
    """

    def __init__(
        self,
        state: Path,
        volumes: Path | None = None,
        *,
        environ: Mapping[str, str],
        now: Callable[[], datetime] = utc_now,
        hold: bool = False,
    ) -> None:
        self._state = state.absolute()
        self._volumes = None if volumes is None else volumes.absolute()
        self._environ = environ
        self._now = now
        self._held = hold
        self._watchers: list[KeyFeed] = []
        self._progress: dict[Path, tuple[int, tuple[Progress, ...]]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what the user must be told once: isolation, and the fields that are not enforced."""
        return fields.limitations()

    async def __aenter__(self) -> Self:
        """Take the state folder and run what it holds; raises Unavailable when another engine uses it."""
        make_private(self._state)
        self._lock = _take(self._state / "engine.lock")
        try:
            await self._open()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    async def _open(self) -> None:
        self._connection = open_database(self._state / "objects.sqlite")
        self._pipe = os.pipe()
        self._store = ObjectStore(self._connection, now=self._now, changed=self._changed)
        self._pods = PodRecords(self._connection)
        self._events = EventRecords(self._connection)
        self._endpoints = Endpoints(self._state / "endpoints.json", PortRecords(self._connection))
        self._host = self._build_host()
        self._supervisor = Supervisor(self._host)
        await self._supervisor.recover()
        await self._endpoints.sync(self._services(), probe=True)
        for job in self._store.list("batch/v1", "Job", None, {}):
            self._supervisor.notice(job, deleted=False)
        self._poller = asyncio.create_task(self._poll())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every process and give the state folder back."""
        os.close(self._pipe[1])  # the processes read end-of-file
        self._poller.cancel()
        await self._supervisor.close()
        os.close(self._pipe[0])
        self._connection.close()
        os.close(self._lock)

    def release(self) -> None:
        """Run the Jobs that `hold` kept back."""
        self._held = False
        self._supervisor.wake()

    async def get(self, key: ObjectKey) -> Object:
        """Return the object; raises NotFound."""
        return self._store.get(key)

    async def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> tuple[Object, ...]:
        """Return the objects of a kind in name order: of one namespace or of all, bearing all of `labels`."""
        return tuple(self._store.list(api_version, kind, namespace, labels or {}))

    async def scan(self, api_version: str, kind: str, labels: Mapping[str, str] | None = None) -> AsyncIterator[Object]:
        """Yield the objects of a kind of all namespaces, bearing all of `labels`; one machine has few."""
        for obj in self._store.list(api_version, kind, None, labels or {}):
            yield obj

    async def create(self, manifest: Manifest) -> Object:
        """Create the object; raises AlreadyExists, or InvalidInput for what this engine cannot honour."""
        fields.check_supported(manifest)
        return await self._served(self._store.create(manifest, manager=FIELD_MANAGER))

    async def apply(self, manifest: Manifest, *, field_manager: str = FIELD_MANAGER, force: bool = True) -> Object:
        """Apply the manifest's fields as `field_manager`; raises Conflict on another manager's unless `force`."""
        fields.check_supported(manifest)
        return await self._served(self._store.apply(manifest, manager=field_manager, force=force))

    async def update(self, obj: Object, *, field_manager: str = FIELD_MANAGER) -> Object:
        """Replace all but the status; raises Conflict unless resourceVersion is current."""
        fields.check_supported(obj)
        return await self._served(self._store.update(obj, manager=field_manager))

    async def update_status(self, obj: Object) -> Object:
        """Replace the status alone; raises Conflict unless resourceVersion is current."""
        return self._store.update_status(obj)

    async def delete(self, key: ObjectKey, *, cascade: bool = True) -> None:
        """Delete the object and what it owns; a Job's process ends in the background, a claim's data goes with it."""
        self._store.delete(key, cascade=cascade)
        await self._endpoints.sync(self._services())

    async def watch(self) -> AsyncIterator[ObjectKey]:
        """Yield the key of every object, then of each that changes, each followed by its controller's."""
        watcher = KeyFeed()
        for obj in self._store.everything():
            watcher.notice(obj)
        self._watchers.append(watcher)
        try:
            while True:
                yield await watcher.next()
        finally:
            self._watchers.remove(watcher)

    async def publish(self, key: ObjectKey, event: Event) -> None:
        """Record an event about the object."""
        self._events.add(key, event, now=self._now())

    async def events(self, key: ObjectKey) -> tuple[Event, ...]:
        """Return the events about an object, oldest first."""
        return tuple(self._events.of(key))

    async def pods(self, jobs: Sequence[Object]) -> Mapping[str, PodsView]:
        """Return what the pods of these Jobs have reported, by the Job's name."""
        views = {}
        for job in jobs:
            namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
            folders = self._pod_folders(namespace, name)
            views[name] = PodsView(
                progress=await self.pod_progress(namespace, name),
                result=pods.read_result(pods.termination_file(folders[-1], job)) if folders else b"",
                started=bool(folders),
                trouble=self._trouble(job),
            )
        return views

    def _trouble(self, job: Object) -> Trouble | None:
        """Return what keeps the Job's process from being started."""
        running = any(pod.state == "Running" for pod in self._pods.of_job(job["metadata"]["uid"]))
        if running or job["spec"].get("suspend", False) or is_finished(job.get("status", {})):
            return None
        namespace = job["metadata"]["namespace"]
        lacking = pods.missing(
            job,
            lookup=lambda kind, name: self._find(ObjectKey("v1", kind, namespace, name)),
            claim_folder=lambda claim: self.claim_folder(namespace, claim),
        )
        return Trouble("VolumeMissing", f"{lacking} is not there") if lacking else None

    async def pod_progress(self, namespace: str, job: str) -> tuple[Progress, ...]:
        """Return what all pods of the Job have reported, oldest first; bad lines are skipped."""
        found = self._find(ObjectKey("batch/v1", "Job", namespace, job))
        is_silo = found is not None and SILO_LABEL in found["metadata"].get("labels", {})
        limit = pods.MAX_SILO_PROGRESS_BYTES if is_silo else pods.MAX_PROGRESS_BYTES
        folders = self._pod_folders(namespace, job)
        return tuple(event for folder in folders for event in self._read_progress(folder, limit))

    def pod_views(self, namespace: str, job: str) -> tuple[PodView, ...]:
        """Return the Job's pods, oldest first: how each stands, and how it ended."""
        found = self._find(ObjectKey("batch/v1", "Job", namespace, job))
        return () if found is None else tuple(self._pods.of_job(found["metadata"]["uid"]))

    def pod_logs(self, namespace: str, job: str) -> tuple[Path, ...]:
        """Return the log files of the Job's pods, oldest first."""
        return tuple(folder / "log" for folder in self._pod_folders(namespace, job))

    def present_folder(self, namespace: str, claim: str) -> Path | None:
        """Return the folder of a claim when it is there; any thread may ask, since no object is looked up."""
        given = None if self._volumes is None or claim.endswith(ledger_claim("")) else self._volumes / claim
        if given is not None and given.is_dir():
            return given
        folder = claim_path(self._state, namespace, claim)
        return folder if folder.is_dir() else None

    def claim_folder(self, namespace: str, claim: str) -> Path | None:
        """Return the folder of a PersistentVolumeClaim; None when there is neither object nor folder.

        The user's folder of claims comes first, but ledgers always stay with the engine's state. A claim whose object
        exists gets its folder here.
        """
        if (present := self.present_folder(namespace, claim)) is not None:
            return present
        folder = claim_path(self._state, namespace, claim)
        if not folder.is_dir():
            if self._find(ObjectKey("v1", "PersistentVolumeClaim", namespace, claim)) is None:
                return None
            folder.mkdir(parents=True, mode=0o700)
        return folder

    def _build_host(self) -> Host:
        return Host(
            pods_folder=self._state / "pods",
            records=self._pods,
            environ=self._environ,
            endpoints_file=self._endpoints.path,
            pipe=self._pipe[0],
            now=self._now,
            find=self._find,
            show=self._show,
            claim_folder=self.claim_folder,
            address_taken=self._address_taken,
            held=lambda: self._held,
        )

    def _find(self, key: ObjectKey) -> Object | None:
        try:
            return self._store.get(key)
        except NotFound:
            return None

    def _show(self, key: ObjectKey, uid: str, status: Mapping[str, object]) -> None:
        obj = self._find(key)
        if obj is not None and obj["metadata"]["uid"] == uid:
            self._store.update_status({**obj, "status": status})

    def _changed(self, obj: Object, deleted: bool) -> None:
        """Hear from the store; it calls this after each commit."""
        for watcher in self._watchers:
            watcher.notice(obj)
        if deleted and obj["kind"] == "PersistentVolumeClaim":
            # As with a StorageClass's default reclaim policy; the user's own folders are not touched.
            shutil.rmtree(claim_path(self._state, obj["metadata"]["namespace"], obj["metadata"]["name"]), True)
        self._supervisor.notice(obj, deleted=deleted)

    async def _served(self, obj: Object) -> Object:
        """Give a Service that was just written its port, before the caller goes on."""
        if obj["kind"] == "Service":
            await self._endpoints.sync(self._services())
        return obj

    def _services(self) -> tuple[Object, ...]:
        return tuple(self._store.list("v1", "Service", None, {}))

    async def _address_taken(self, job: Object) -> None:
        """Move the Services in front of the Job's pod to other ports: something else listens on theirs."""
        labels = job["spec"]["template"].get("metadata", {}).get("labels", {})
        namespace = job["metadata"]["namespace"]
        names = [
            service["metadata"]["name"]
            for service in self._store.list("v1", "Service", namespace, {})
            if service["spec"].get("selector", {}).items() <= labels.items()
        ]
        await self._endpoints.exchange(namespace, names, self._services())

    def _pod_folders(self, namespace: str, job: str) -> tuple[Path, ...]:
        found = self._find(ObjectKey("batch/v1", "Job", namespace, job))
        if found is None:
            return ()
        uid = found["metadata"]["uid"]
        return tuple(self._host.pod_folder(namespace, job, uid, pod.number) for pod in self._pods.of_job(uid))

    def _read_progress(self, pod: Path, limit: int) -> tuple[Progress, ...]:
        offset, events = self._progress.get(pod, (0, ()))
        more, offset = pods.read_progress(pods.progress_file(pod), offset, limit=limit)
        self._progress[pod] = (offset, events + more)
        return events + more

    async def _poll(self) -> None:
        """Tell the watchers of each Job whose pods have reported more."""
        before = report_sizes(self._host)
        while True:
            await asyncio.sleep(POLL_SECONDS)
            after = report_sizes(self._host)
            for namespace, name in (job for job, size in after.items() if before.get(job) != size):
                obj = self._find(ObjectKey("batch/v1", "Job", namespace, name))
                if obj is not None:
                    for watcher in self._watchers:
                        watcher.notice(obj)
            before = after


def claim_path(state: Path, namespace: str, claim: str) -> Path:
    """Return where the engine of `state` keeps a claim's data."""
    return state / "volumes" / namespace / claim


def make_private(folder: Path) -> None:
    """Make the folder if need be; nobody else may enter it: it holds keys and ledgers.

    Raises InvalidInput when others may enter what is there, for it may be theirs, too, such as /tmp; Unavailable when
    it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            if any(folder.iterdir()):
                cure = "`chmod 700` it when it is for Foedus alone, or choose another folder with --state"
                raise InvalidInput("others may enter the state folder", where=str(folder), cure=cure)
            folder.chmod(0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        cure = "give this user the right to write there, or choose another folder with --state"
        raise Unavailable(f"the state folder cannot be used ({reason})", where=str(folder), cure=cure) from None


def _take(path: Path) -> int:
    lock = processes.try_lock(path)
    if lock is None:
        cure = "wait for it to end, or choose another folder with --state"
        raise Unavailable("another engine uses this state folder", where=str(path.parent), cure=cure)
    return lock

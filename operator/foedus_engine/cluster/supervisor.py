"""Runs the Jobs of the embedded engine: one runner a Job looks at the stored objects, decides, acts, and waits.

A runner is level-based: it decides from the Job and its pods as recorded, so a missed wake-up or a restart of the
engine changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from foedus_contract.errors import Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_engine.cluster import pods, processes
from foedus_engine.cluster.jobs import Decision, PodState, PodView, decide_job, judge_exit
from foedus_engine.cluster.processes import PodProcess
from foedus_engine.cluster.protocol import Object
from foedus_engine.cluster.records import PodRecords
from foedus_engine.decide.plan import ObjectKey, key_of

GRACE_SECONDS = 30  # batch/v1's default for terminationGracePeriodSeconds
ENGINE_GRACE_SECONDS = 5.0  # when the engine itself ends: processes journal before they act, so this is enough

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Host:
    """What a runner needs of its engine."""

    pods_folder: Path
    records: PodRecords
    environ: Mapping[str, str]
    endpoints_file: Path
    pipe: int
    now: Callable[[], datetime]
    find: Callable[[ObjectKey], Object | None]
    show: Callable[[ObjectKey, str, Mapping[str, object]], None]  # key, uid, status
    claim_folder: Callable[[str, str], Path | None]
    address_taken: Callable[[Object], Awaitable[None]]
    held: Callable[[], bool] = lambda: False  # while true, no process is started

    def pod_folder(self, namespace: str, job: str, job_uid: str, number: int) -> Path:
        """Return the folder of one pod."""
        return self.pods_folder / namespace / f"{job}-{job_uid}" / str(number)


class Runner:
    """Drives one Job until it is deleted or the engine ends."""

    def __init__(self, host: Host, job: Object, *, after: asyncio.Task[None] | None) -> None:
        self._host = host
        self._key = key_of(job)
        self._uid: str = job["metadata"]["uid"]
        self._wake = asyncio.Event()
        self._engine_ends = False
        self._process: PodProcess | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._incarnation = 0
        self.task = asyncio.create_task(self._run(after), name=f"runner of {self._key}")

    def wake(self) -> None:
        """Look again: something may have changed."""
        self._wake.set()

    async def close(self) -> None:
        """Stop the process and end; the Job stays as it is for the next engine."""
        self._engine_ends = True
        self.wake()
        await self.task

    async def _run(self, after: asyncio.Task[None] | None) -> None:
        if after is not None:
            await asyncio.wait([after])  # an earlier Job of this name: its process holds volumes and port
        wait: float | None = 0.0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)
            self._wake.clear()
            job = self._host.find(self._key)
            deleted = job is None or job["metadata"]["uid"] != self._uid
            if deleted or self._engine_ends:
                break
            assert job is not None
            wait = None if self._host.held() else await self._step(job)
        await self._stop(ENGINE_GRACE_SECONDS if self._engine_ends else GRACE_SECONDS)
        if deleted:
            self._host.records.forget(self._uid)
            folder = self._host.pod_folder(self._key.namespace, self._key.name, self._uid, 0).parent
            shutil.rmtree(folder, ignore_errors=True)

    async def _step(self, job: Object) -> float | None:
        """Do what the Job needs now; return when to look again."""
        host = self._host
        decision: Decision = decide_job(job, host.records.of_job(self._uid), now=host.now())
        host.show(self._key, self._uid, decision.status)
        if decision.action == "Stop":
            pod = job["spec"]["template"]["spec"]
            await self._stop(pod.get("terminationGracePeriodSeconds", GRACE_SECONDS))
            return 0.0
        if decision.action == "Start":
            return await self._start(job)
        if self._process is not None:
            self._refresh(job)
        return decision.wait_seconds

    async def _start(self, job: Object) -> float | None:
        """Start the next pod, unless something that it mounts is not there yet."""
        host, namespace = self._host, self._key.namespace
        lacking = pods.missing(job, lookup=self._lookup, claim_folder=self._claim_folder)
        if lacking:
            _logger.info("%s waits for %s", self._key, lacking)
            return 1.0  # a volume's folder may appear without any object changing
        number = len(host.records.of_job(self._uid))
        folder = host.pod_folder(namespace, self._key.name, self._uid, number)
        shutil.rmtree(folder, ignore_errors=True)  # no pod of this number was recorded: a crash left it half laid out
        self._incarnation = host.records.claim_incarnation(namespace, self._key.name)
        try:
            pods.lay_out(
                folder,
                job,
                lookup=self._lookup,
                claim_folder=self._claim_folder,
                incarnation=self._incarnation,
            )
        except Unavailable:
            return 0.0  # it went away between the two looks
        host.records.started(namespace, self._key.name, self._uid, number)
        await self._launch(job, folder, number)
        return 0.0

    async def _launch(self, job: Object, folder: Path, number: int) -> None:
        host = self._host
        container = job["spec"]["template"]["spec"]["containers"][0]
        environment = processes.build_environment(
            host.environ,
            {entry["name"]: entry.get("value", "") for entry in container.get("env", ())},
            root=folder / "root",
            endpoints=host.endpoints_file,
            pipe=host.pipe,
        )
        try:
            arguments = [*container["command"][1:], *container.get("args", ())]
            self._process = await PodProcess.start(folder, arguments, environment, pipe=host.pipe)
        except OSError as error:
            self._record(number, "Failed", None, f"cannot start: {error.strerror}")
            return
        host.records.has_pid(self._uid, number, self._process.pid)
        self._reaper = asyncio.create_task(self._reap(self._process, job, folder, number))

    async def _reap(self, process: PodProcess, job: Object, folder: Path, number: int) -> None:
        """Wait for the process's end, record it, and look again."""
        code = await process.wait()
        # _stop has taken it over, or it noticed the engine's end before _stop came to it.
        stopped = self._process is not process or self._engine_ends
        # Who was stopped and still ended well had just finished; anything else says nothing about the Job.
        state: PodState = "Stopped" if stopped and code else judge_exit(job, code)
        if code == ExitCode.ADDRESS_IN_USE and not stopped:
            await self._host.address_taken(job)
        self._record(number, state, code, pods.last_words(pods.progress_file(folder)) if code else "")
        pods.drop_secrets(folder, job)
        if self._process is process:
            self._process = None
        self.wake()

    async def _stop(self, grace_seconds: float) -> None:
        """End the process: SIGTERM, and SIGKILL after the grace period or as soon as the engine ends."""
        process, self._process = self._process, None
        if process is None or self._reaper is None:
            return
        process.signal(signal.SIGTERM)
        waited = 0.0
        while not self._reaper.done() and waited < grace_seconds:
            await asyncio.wait([self._reaper], timeout=0.5)
            waited += 0.5
            if self._engine_ends:
                grace_seconds = min(grace_seconds, ENGINE_GRACE_SECONDS)
        if not self._reaper.done():
            process.signal(signal.SIGKILL)
        await self._reaper

    def _record(self, number: int, state: PodState, code: int | None, message: str) -> None:
        finished = self._host.now().timestamp()
        self._host.records.ended(self._uid, PodView(number, state, code, message, finished))

    def _refresh(self, job: Object) -> None:
        number = len(self._host.records.of_job(self._uid)) - 1
        folder = self._host.pod_folder(self._key.namespace, self._key.name, self._uid, number)
        try:
            pods.refresh(folder, job, lookup=self._lookup, incarnation=self._incarnation)
        except Unavailable as error:
            _logger.debug("%s keeps its last %s", self._key, error.where)  # as the kubelet does

    def _lookup(self, kind: str, name: str) -> Object | None:
        return self._host.find(ObjectKey("v1", kind, self._key.namespace, name))

    def _claim_folder(self, claim: str) -> Path | None:
        return self._host.claim_folder(self._key.namespace, claim)


class Supervisor:
    """Keeps one runner for each Job that exists."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._runners: dict[str, Runner] = {}

    async def recover(self) -> None:
        """Account for the pods of an earlier engine: none of them runs on, none of them counts as a failure.

        Raises Unavailable when a process of an earlier engine cannot be ended: two of one kind must not run.
        """
        for namespace, job, job_uid, number, pid in self._host.records.running():
            folder = self._host.pod_folder(namespace, job, job_uid, number)
            if folder.is_dir() and not await processes.end_survivor(pid, folder / "lock"):
                cure = f"end process {pid} and try again"
                raise Unavailable(f"a process of an earlier engine still runs ({job})", where=str(folder), cure=cure)
            lost = PodView(number, "Lost", None, "the engine ended", self._host.now().timestamp())
            self._host.records.ended(job_uid, lost)

    def notice(self, obj: Object, *, deleted: bool) -> None:
        """Hear of a change: start a runner for a new Job, wake whom it may concern."""
        uid = obj["metadata"]["uid"]
        if obj["kind"] == "Job" and not deleted and uid not in self._runners:
            name = f"runner of {key_of(obj)}"
            before = [runner.task for runner in self._runners.values() if runner.task.get_name() == name]
            self._runners[uid] = Runner(self._host, obj, after=before[-1] if before else None)
            self._runners[uid].task.add_done_callback(lambda task: self._ended(uid, task))
        elif obj["kind"] == "Job":
            if uid in self._runners:
                self._runners[uid].wake()
        elif obj["kind"] in {"ConfigMap", "Secret", "PersistentVolumeClaim"}:
            for runner in self._runners.values():
                runner.wake()

    def wake(self) -> None:
        """Look at every Job again."""
        for runner in self._runners.values():
            runner.wake()

    async def close(self) -> None:
        """Stop all processes, all at once."""
        await asyncio.gather(*(runner.close() for runner in tuple(self._runners.values())), return_exceptions=True)

    def _ended(self, uid: str, task: asyncio.Task[None]) -> None:
        self._runners.pop(uid, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("%s failed: %s", task.get_name(), error, exc_info=error)


def report_sizes(host: Host) -> dict[tuple[str, str], tuple[int, ...]]:
    """Return how much each running pod has reported, by (namespace, job): a change is news."""
    sizes: dict[tuple[str, str], tuple[int, ...]] = {}
    for namespace, job, job_uid, number, _ in host.records.running():
        path = pods.progress_file(host.pod_folder(namespace, job, job_uid, number))
        with suppress(OSError):
            sizes[namespace, job] = (number, os.lstat(path).st_size)
    return sizes

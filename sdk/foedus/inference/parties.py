"""The members of one call as processes of this machine: started together, watched, ended with the call."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from foedus.inference.folders import endpoints_path, inside, pod_folder
from foedus.inference.places import Places
from foedus_contract import paths
from foedus_contract.errors import FoedusError, JobFailed, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import member_name
from foedus_contract.progress import Preparing
from foedus_engine.cluster.pods import last_words, progress_file, read_progress
from foedus_engine.cluster.processes import PodProcess, build_environment
from foedus_workloads.inference.party import LISTENING

T = TypeVar("T")
LOOK_SECONDS = 0.1
START_SECONDS = 600.0  # until all listen; imports take a minute on a machine with far too much to do
GRACE_SECONDS = 5.0
WORDS_SECONDS = 1.0  # for a process that has just failed to end: its own words are better than what others saw
KILLED = 128  # exit codes above it are signals


class LocalParties:
    """A process for each member; `stop` ends them and all they have started."""

    def __init__(self, folder: Path, members: Collection[int], places: Places) -> None:
        self._folder, self._members, self._places = folder, members, places
        self._pipe = os.pipe()  # they end at once when its other end is gone, and it goes with this process
        self._processes: dict[int, PodProcess] = {}
        self._ends: dict[int, asyncio.Task[int]] = {}

    async def start(self, environ: Mapping[str, str]) -> None:
        """Start all; raises Unavailable when this machine starts no process."""
        spec = f"{paths.SPEC_FOLDER}/{paths.RUN_SPEC_KEY}"
        for party in self._members:
            pod = pod_folder(self._folder, party)
            environment = build_environment(
                environ, {}, root=pod / "root", endpoints=endpoints_path(self._folder), pipe=self._pipe[0]
            )
            arguments = ("-m", "foedus_workloads.entry", "--spec", spec)
            try:
                self._processes[party] = await PodProcess.start(
                    pod, arguments, environment, pipe=self._pipe[0], entering=self._places.entering(party)
                )
            except OSError as error:
                raise Unavailable(f"cannot start a process ({error.strerror})", where=member_name(party)) from None
            self._ends[party] = asyncio.create_task(self._processes[party].wait())

    @property
    def processes(self) -> Mapping[int, int]:
        """The number of each member's process."""
        return {member: process.pid for member, process in self._processes.items()}

    async def listening(self) -> None:
        """Wait until all listen: they have read their shares; raises JobFailed when they take too long."""
        for party in self._members:
            deadline = asyncio.get_running_loop().time() + START_SECONDS
            while not self._listens(party):
                if asyncio.get_running_loop().time() > deadline:
                    raise JobFailed("does not begin", where=member_name(party), code=ExitCode.DEADLINE_EXCEEDED)
                await asyncio.sleep(LOOK_SECONDS)

    def drop_shares(self) -> None:
        """Remove the files of shares, which all processes have read: what a killed call leaves holds none."""
        for party in self._members:
            for file in inside(self._folder, party, paths.WEIGHTS_FOLDER).iterdir():
                file.unlink()

    async def watched(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work; raises JobFailed with a party's own words when its process ends before."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, *self._ends.values()}, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and task.exception() is not None:
                await asyncio.wait(self._ends.values(), timeout=WORDS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() or task.exception() is not None:
                self._raise_death()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, FoedusError):
                await task
        return task.result()

    async def stop(self) -> None:
        """End all processes; those that stay are killed."""
        for process in self._processes.values():
            process.signal(signal.SIGTERM)
        if self._ends:
            _, staying = await asyncio.wait(self._ends.values(), timeout=GRACE_SECONDS)
            if staying:
                for process in self._processes.values():
                    process.signal(signal.SIGKILL)
                await asyncio.wait(staying)
        for descriptor in self._pipe:
            os.close(descriptor)

    def _listens(self, party: int) -> bool:
        events, _ = read_progress(progress_file(pod_folder(self._folder, party)), 0)
        return any(isinstance(event, Preparing) and event.what == LISTENING for event in events)

    def _raise_death(self) -> None:
        for party, end in self._ends.items():
            if end.done():
                raise self._death(party, end.result())

    def _death(self, party: int, code: int) -> FoedusError:
        said = last_words(progress_file(pod_folder(self._folder, party)))
        ended = (
            f"its process was ended by signal {code - KILLED}"
            if code > KILLED
            else f"its process ended with exit code {code}"
        )
        known = ExitCode(code) if code in {int(each) for each in ExitCode} else ExitCode.QUORUM_LOST
        name = member_name(party)
        words = said if said.startswith(f"{name}: ") else f"{name}: {said or ended}"
        return JobFailed(words, code=known if said else ExitCode.QUORUM_LOST)

"""A job of real processes, each of which kills itself with SIGKILL right before the n-th effect of a name.

    outcome = run_processes(world, {"coordinator": [Kill("ApplySum", 2)], "silo-b": [Kill("DrawNoise")]})

A process that died by a signal is started again under the next incarnation, unless it is to stay away; its list of
kills goes on with the next one. What each one is about to do stands in its trace.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from foedus_contract.errors import FoedusError
from foedus_contract.progress import IdentityReady, TrainingResult
from foedus_contract.run_spec import CoordinatorRunSpec, SiloPolicy, parse_run_spec
from foedus_workloads.privacy.noise import OpenDpSampler
from foedus_workloads.secagg.effects import Send, SendTo
from foedus_workloads.training import client, coordinator
from foedus_workloads.training.coordinator_entries import Closed, Opened
from foedus_workloads.training.job_effects import ChargeLedger, JournalCoordinator, JournalSilo
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.transport.server import ServerSettings
from support.forked import forked
from support.training_world import QUICK, World

COORDINATOR = "coordinator"
LIMIT_SECONDS = 900.0  # a job that hangs fails its test


@dataclass(frozen=True)
class Kill:
    """Right before the n-th effect of this name in one process; `lost` is a folder that goes with it."""

    effect: str
    count: int = 1
    lost: str = ""


@dataclass(frozen=True)
class Traced:
    """One effect that a process was about to execute."""

    role: str
    incarnation: int
    name: str
    attempt: int | None
    release: bool


@dataclass
class Outcome:
    """How the processes ended: exit codes (negative: a signal) of each start, and the coordinator's result."""

    codes: dict[str, list[int]]
    result: TrainingResult | None
    errors: dict[str, str] = field(default_factory=dict)


def effect_name(effect: object) -> str:
    """Return an effect's name with what it sends or journals, e.g. `Send MaskedVector`, `JournalSilo Charging`."""
    match effect:
        case Send(message) | SendTo(_, message):
            return f"{type(effect).__name__} {message.kind}"
        case JournalSilo(entry):
            return f"JournalSilo {entry.stage}"
        case JournalCoordinator(entry):
            return f"JournalCoordinator {entry.entry}"
        case _:
            return type(effect).__name__


def attempt_of(effect: object) -> int | None:
    match effect:
        case Send(message) | SendTo(_, message):
            named = getattr(message, "id", None)
            return None if named is None else int(named.attempt)
        case JournalSilo(entry):
            return entry.attempt
        case ChargeLedger(named):
            return named.attempt
        case JournalCoordinator(Opened(attempt=number)):
            return number
        case JournalCoordinator(Closed(standing=standing)):
            return standing.attempts - 1
        case _:
            return None


def is_release(effect: object) -> bool:
    """Tell whether the effect makes a released sum the job's."""
    match effect:
        case JournalCoordinator(Closed(checkpoint=str())):
            return True
        case _:
            return False


class Watch:
    """Traces every effect, and ends the process before the one that it is to die at."""

    def __init__(self, path: Path, role: str, incarnation: int, kill: Kill | None) -> None:
        self._path, self._role, self._incarnation = path, role, incarnation
        self._kill, self._seen = kill, 0

    def __call__(self, effect: object) -> None:
        name = effect_name(effect)
        if self._kill is not None and name == self._kill.effect:
            self._seen += 1
            if self._seen == self._kill.count:
                os.kill(os.getpid(), signal.SIGKILL)
        line = json.dumps([self._role, self._incarnation, name, attempt_of(effect), is_release(effect)])
        with self._path.open("a") as file:
            file.write(line + "\n")


def run_role(text: bytes, root: Path, endpoints: Path, role: str, kill: Kill | None, settings: ServerSettings) -> None:
    """Run one role in this process, as `entry` does."""
    spec = parse_run_spec(text)
    watch = Watch(root / f"{role}.trace", role, spec.incarnation, kill)
    around = Surroundings(root=root, endpoints=endpoints, watch=watch)
    try:
        if isinstance(spec, CoordinatorRunSpec):
            result = asyncio.run(coordinator.run_coordinator(spec, around, settings))
            (root / "result.json").write_bytes(result.to_json())
        else:
            asyncio.run(client.run_client(spec, around, OpenDpSampler()))
    except FoedusError as error:
        (root / f"{role}.error").write_text(str(error))
        sys.exit(int(error.code))


class Processes:
    """The roles of one job and their processes."""

    def __init__(
        self, world: World, kills: Mapping[str, Sequence[Kill]], away: frozenset[str], settings: ServerSettings
    ) -> None:
        self._world, self._kills, self._away, self._settings = world, kills, away, settings
        self.codes: dict[str, list[int]] = {role: [] for role in (COORDINATOR, *world.silos)}
        self.running: dict[str, BaseProcess] = {}

    def start(self, role: str) -> None:
        incarnation = len(self.codes[role])
        kills = self._kills.get(role, ())
        kill = kills[incarnation] if incarnation < len(kills) else None
        spec = self._world.coordinator_spec() if role == COORDINATOR else self._world.client_spec(role)
        text = spec.model_copy(update={"incarnation": incarnation + 1}).to_json()
        arguments = (text, self._world.root, self._world.around.endpoints, role, kill, self._settings)
        self.running[role] = forked(run_role, *arguments)
        self.running[role].daemon = True
        self.running[role].start()

    def look(self) -> None:
        """Start again what a signal ended."""
        for role, process in list(self.running.items()):
            if process.exitcode is None:
                continue
            del self.running[role]
            incarnation = len(self.codes[role])
            self.codes[role].append(process.exitcode)
            if process.exitcode >= 0 or role in self._away:
                continue
            lost = self._kills[role][incarnation].lost
            if lost:
                shutil.rmtree(self._world.root / lost)
            self.start(role)

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            process.join()


def run_processes(
    world: World,
    kills: Mapping[str, Sequence[Kill]],
    *,
    away: frozenset[str] = frozenset(),
    settings: ServerSettings = QUICK,
) -> Outcome:
    """Run the job to its end; `away` are roles that are not started again."""
    processes = Processes(world, kills, away, settings)
    deadline = time.monotonic() + LIMIT_SECONDS
    try:
        for role in (COORDINATOR, *world.silos):
            processes.start(role)
        while processes.running:
            assert time.monotonic() < deadline, (processes.codes, list(processes.running))
            pin_identities(world)
            processes.look()
            time.sleep(0.02)
    finally:
        processes.end()
    result = world.root / "result.json"
    errors = {path.stem: path.read_text() for path in world.root.glob("*.error")}
    return Outcome(processes.codes, TrainingResult.from_json(result.read_bytes()) if result.exists() else None, errors)


def pin_identities(world: World) -> None:
    """Do what the engine does: pin the silos' identities once all have shown one."""
    path = world.root / "policy.json"
    if path.exists():
        return
    pinned = {e.silo: e.public_key for silo in world.silos for e in world.events(silo) if isinstance(e, IdentityReady)}
    if len(pinned) == len(world.silos):
        draft = world.root / "policy.draft"
        draft.write_bytes(SiloPolicy(pinned=pinned).to_json())
        draft.rename(path)


def trace(world: World, role: str) -> list[Traced]:
    path = world.root / f"{role}.trace"
    return [Traced(*json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

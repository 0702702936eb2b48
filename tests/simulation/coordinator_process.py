"""The coordinator's process in virtual time: the loop of its driver, with a fault before, in and after every effect.

It mirrors `training.coordinator.Driver`. The model is a vector of integers to which a released sum is added, so that
whoever looks at the adapter sees which sums went into it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from foedus_contract.wire import AttemptId, JobOver, StartAttempt, Survivors, Welcome
from foedus_workloads.secagg.effects import SendTo, SetDeadline, Vector
from foedus_workloads.training import coordinator_job
from foedus_workloads.training.coordinator_entries import Closed, CoordinatorEntry, Restored
from foedus_workloads.training.job_effects import (
    ApplySum,
    CheckpointSaved,
    CoordinatorEffect,
    CoordinatorEvent,
    Fail,
    Finish,
    JournalCoordinator,
    ModelMoved,
    ReportAttempt,
    RestoreAdapter,
    SaveCheckpoint,
    TimedOut,
)
from foedus_workloads.transport.events import Joined, TransportEvent
from simulation.network import Door, Request
from simulation.silo_process import label
from simulation.storage import out_of_reach
from simulation.timeline import Crashed, Life, Wait

if TYPE_CHECKING:
    from simulation.world import World

NAME = "coordinator"
MOST_IDLE_STEPS = 1000  # deadlines in a row that change nothing: the real process would take a whole core


class CoordinatorProcess:
    """One start of the coordinator."""

    def __init__(self, world: World, incarnation: int) -> None:
        self.world = world
        self.incarnation = incarnation
        self.disk = world.coordinator_disk
        self.wake: Callable[[], None] = lambda: None
        self.door = Door(world, incarnation, self._woken)
        self.answers: deque[CoordinatorEvent] = deque()
        self.deadline = 0.0
        self.adapter = world.first_adapter
        self.attempt: AttemptId | None = None  # the one that was broadcast last
        self.result: JobOver | None = None
        self.awaited: frozenset[str] = frozenset()  # silos of the process before this one

    def _woken(self) -> None:
        self.wake()

    def note(self, what: str, attempt: AttemptId | None = None, data: object = None) -> None:
        """Add a fact."""
        self.world.note(NAME, what, self.incarnation, attempt, data)

    def life(self) -> Life:
        """Run as `run_coordinator` does: listen, load, go on from the journal, say goodbye."""
        world = self.world
        yield world.rng.uniform(0.5, 2.0)
        world.door = self.door
        yield world.rng.uniform(0.5, 8.0)
        recovered = self.disk.open()
        if recovered is not None:
            self.awaited = frozenset(world.silos)
        if recovered is not None and recovered.checkpoint is not None:
            self.adapter = self.disk.checkpoints[recovered.checkpoint]
        step = coordinator_job.start_coordinator_job(
            world.coordinator_rules(self.incarnation), recovered, self.adapter, world.timeline.now
        )
        idle = 0
        while True:
            for effect in step.effects:
                yield from self._execute(effect)
            if self.result is not None:
                break
            event = yield from self._next_event()
            before = step.state
            step = coordinator_job.coordinator_job_step(step.state, event, world.timeline.now)
            idle = idle + 1 if isinstance(event, TimedOut) and step.state is before else 0
            if idle > MOST_IDLE_STEPS:
                raise RuntimeError("the deadline has passed and nothing changes")
        yield from self._say_goodbye(self.result)

    def _next_event(self) -> Request:
        while True:
            arrived = self._arrived()
            if arrived is not None:
                return arrived
            if self.answers:
                return self.answers.popleft()
            if self.world.timeline.now >= self.deadline:
                return TimedOut()
            yield Wait(self.deadline)

    def _arrived(self) -> TransportEvent | None:
        return self.door.sessions.event_now()

    def _say_goodbye(self, message: JobOver) -> Request:
        timeline = self.world.timeline
        deadline = timeline.now + self.world.plan.deadlines.stage_seconds
        missing = self.awaited - self.door.sessions.present

        def tell(silo: str) -> None:
            self.door.send(silo, Welcome(incarnation=self.incarnation), b"")
            self.door.send(silo, message, b"")

        for silo in sorted(self.door.sessions.present):
            tell(silo)
        while (self.door.sessions.present or missing) and timeline.now < deadline:
            arrived = self._arrived()
            if isinstance(arrived, Joined):
                tell(arrived.silo)
                missing -= {arrived.silo}
            elif arrived is None:
                yield Wait(deadline)

    def _execute(self, effect: CoordinatorEffect) -> Request:
        point = f"{NAME} {label(effect)}"
        if isinstance(effect, ApplySum):  # the machine knows the sum, whether or not it comes to apply it
            self.note("releases", self.attempt, effect.total)
        self._may_crash(f"{point} before")
        yield from self._do(effect)
        self._may_crash(f"{point} after")

    def _may_crash(self, point: str) -> None:
        if self.world.crashes(point):
            raise Crashed(point)

    def _do(self, effect: CoordinatorEffect) -> Request:
        match effect:
            case SendTo(silo, message, payload):
                self._note_sent(silo, message)
                self.door.send(silo, message, payload)
            case SetDeadline(at):
                self.deadline = at
            case ReportAttempt(attempt):
                self.note("reports", attempt, (effect.applied, effect.survivors, effect.standing))
            case Finish(standing, reason):
                self.note("finishes", data=(reason, standing, self.adapter))
                self.result = JobOver(outcome="EndedEarly" if reason else "Complete", reason=reason)
            case Fail(error):
                self.note("fails", data=(error.code.name, error.what))
                yield from self._say_goodbye(JobOver(outcome="Failed", reason=str(error)[:512]))
                raise error
            case _:
                yield from self._work(effect)

    def _work(self, effect: CoordinatorEffect) -> Request:
        match effect:
            case JournalCoordinator(entry):
                yield self.world.rng.uniform(0.0, 0.05)
                self._journal(entry)
            case RestoreAdapter(payload):
                yield self.world.rng.uniform(0.1, 3.0)
                self.world.check_adapter(payload)
                self.adapter = payload
                self.answers.append(ModelMoved(self.adapter, None))
            case ApplySum(_, total):
                yield self.world.rng.uniform(0.1, 3.0)
                self.adapter = moved(self.adapter, total)
                self.answers.append(ModelMoved(self.adapter, None))
            case SaveCheckpoint():
                yield self.world.rng.uniform(0.0, 0.5)
                self.answers.append(CheckpointSaved(self._save()))

    def _note_sent(self, silo: str, message: object) -> None:
        if isinstance(message, StartAttempt):
            self.attempt = message.id
            self.note("broadcasts", message.id, silo)
        elif isinstance(message, Survivors):
            self.note("names survivors", message.id, message.survivors)

    def _journal(self, entry: CoordinatorEntry) -> None:
        line, world = entry.to_json() + b"\n", self.world
        if world.occurs("coordinator disk full"):
            raise out_of_reach("the volume is full")
        if world.occurs("coordinator journal torn"):
            self.disk.lines += line[: world.rng.randrange(len(line))]
            raise Crashed("coordinator journal torn")
        self.disk.append(entry)
        self.note(f"notes {entry.entry}", self.attempt if isinstance(entry, Closed) else None)
        if isinstance(entry, Closed | Restored) and entry.checkpoint is not None:
            if world.occurs("coordinator checkpoints kept"):
                raise Crashed("coordinator checkpoints kept")
            self.disk.checkpoints = {entry.checkpoint: self.disk.checkpoints[entry.checkpoint]}

    def _save(self) -> str:
        if self.world.occurs("coordinator checkpoint torn"):
            raise Crashed("coordinator checkpoint torn")
        return self.disk.save(self.adapter)


def moved(adapter: bytes, total: Vector) -> bytes:
    """Return the adapter with a round's sum added, mod 2^32."""
    model = np.frombuffer(adapter, np.uint32).copy()
    start = 0 if total.size == 2 else 2  # factor A has two coordinates, factor B three
    model[start : start + total.size] += total
    return model.tobytes()

"""A silo's process in virtual time: the loop of its driver, with a fault before, in and after every effect.

It mirrors `training.client.Participant`: effects in their order, what arrived meanwhile before an effect's answer, and
an effect that cannot be executed ends the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from foedus_contract.errors import FoedusError
from foedus_contract.wire import AttemptId, Join, Unmask, Welcome
from foedus_workloads.secagg.effects import Send
from foedus_workloads.training import silo_job
from foedus_workloads.training.job_effects import (
    ChargeLedger,
    ComputeSum,
    DrawNoise,
    Heard,
    JournalSilo,
    KeepBroadcast,
    Leave,
    LedgerAnswered,
    LoadAdapter,
    NobodyNewer,
    NoiseDrawn,
    Overdue,
    SeekNewer,
    SiloEffect,
    SiloEvent,
    Stop,
    SumComputed,
)
from foedus_workloads.training.silo_entries import Entry
from simulation.network import CODE, Link, Request
from simulation.storage import out_of_reach
from simulation.timeline import Crashed, Life, Wait
from support.heads import ANY_HEAD

if TYPE_CHECKING:
    from simulation.world import World


def label(effect: Any) -> str:
    """Return the name of an effect as the crash points spell it."""
    name = type(effect).__name__
    if name in {"Send", "SendTo"}:
        return f"{name} {effect.message.kind}"
    if name == "JournalSilo":
        return f"{name} {effect.entry.stage}"
    if name == "JournalCoordinator":
        return f"{name} {effect.entry.entry}"
    return name


class SiloProcess:
    """One start of a silo."""

    def __init__(self, world: World, name: str, incarnation: int) -> None:
        self.world = world
        self.name = name
        self.incarnation = incarnation
        self.disk = world.disks[name]
        self.link: Link | None = None
        self.over = False
        self.wake: Callable[[], None] = lambda: None
        self.answers: deque[SiloEvent] = deque()
        self.awaited: tuple[AttemptId, object] | None = None
        self.overdue_at = 0.0
        self.entropy = world.entropy(name, incarnation)

    def note(self, what: str, attempt: AttemptId | None = None, data: Any = None) -> None:
        """Add a fact."""
        self.world.note(self.name, what, self.incarnation, attempt, data)

    def life(self) -> Life:
        """Run as `run_client` does."""
        world = self.world
        yield world.rng.uniform(0.5, 5.0)
        last = self.disk.open()
        world.ledgers[self.name].follow()
        state = silo_job.start_silo_job(world.silo_rules[self.name], last, self.disk.kept)
        identity = world.silo_rules[self.name].identity.signing_key.public_key().public_bytes_raw()
        join = Join(
            silo=self.name,
            incarnation=self.incarnation,
            identity=identity,
            plan_digest=world.plan_digest,
            code_digest=CODE,
            head=ANY_HEAD,
        )
        self.link = Link(world, join, patience=world.plan.deadlines.join_seconds)
        yield from self.link.open(self.wake)
        while not self.over:
            event = yield from self._next_event()
            step = silo_job.silo_job_step(state, event, self.entropy)
            for effect in step.effects:
                yield from self._execute(effect)
            state = step.state
            self._note_awaited(silo_job.awaited_stage(state))
        yield from self.link.leave()

    def _note_awaited(self, awaited: tuple[AttemptId, object] | None) -> None:
        if awaited != self.awaited:
            patience = silo_job.patience_seconds(self.world.plan)
            self.awaited, self.overdue_at = awaited, self.world.timeline.now + patience

    def _next_event(self) -> Request:
        assert self.link is not None
        while True:
            arrived = self.link.receive_now()
            if arrived is not None:
                self._note_arrival(arrived)
                return arrived
            if self.answers:
                return self.answers.popleft()
            if self.awaited is None:
                yield Wait()
            elif self.world.timeline.now < self.overdue_at:
                yield Wait(self.overdue_at)
            else:
                self.note("gives the attempt up", self.awaited[0])
                return Overdue(self.awaited[0])

    def _note_arrival(self, event: SiloEvent) -> None:
        if isinstance(event, Heard) and isinstance(event.message, Welcome):
            self.note("heard Welcome", data=event.message.incarnation)
        elif isinstance(event, Heard):
            self.note(f"heard {event.message.kind}", getattr(event.message, "id", None))
        else:
            self.note("session renewed")

    def _execute(self, effect: SiloEffect) -> Request:
        point = f"silo {label(effect)}"
        self._may_crash(f"{point} before")
        yield from self._do(effect)
        self._may_crash(f"{point} after")

    def _may_crash(self, point: str) -> None:
        if self.world.crashes(point):
            raise Crashed(point)

    def _occurs(self, kind: str) -> bool:
        return self.world.occurs(kind)

    def _do(self, effect: SiloEffect) -> Request:
        match effect:
            case Send(message, payload):
                secret = message if isinstance(message, Unmask) else payload
                self.note(f"sends {message.kind}", getattr(message, "id", None), secret or None)
                assert self.link is not None
                yield from self.link.send(message, payload)
            case SeekNewer(coordinator):
                assert self.link is not None
                if not (yield from self.link.meets_newer(coordinator)):
                    self.answers.append(NobodyNewer())
            case Leave(over):
                self.note("leaves", data=over.outcome)
                self.over = True
            case Stop(error):
                raise error
            case _:
                yield from self._work(effect)

    def _work(self, effect: SiloEffect) -> Request:
        match effect:
            case JournalSilo(entry, payload):
                yield self.world.rng.uniform(0.0, 0.05)
                self._journal(entry, payload)
            case KeepBroadcast(start, payload):
                self._keep(start, payload)
            case LoadAdapter(payload):
                self.world.check_adapter(payload)
            case ComputeSum(attempt):
                yield from self._compute(attempt)
            case ChargeLedger(attempt):
                yield self.world.rng.uniform(0.0, 0.2)
                self.answers.append(LedgerAnswered(attempt, self._charge(attempt)))
            case DrawNoise(attempt, total):
                vector = (total + self.world.noise(total.size)).astype(np.uint32)
                self.note("draws noise", attempt, vector)
                self.answers.append(NoiseDrawn(attempt, vector))

    def _journal(self, entry: Entry, payload: bytes) -> None:
        line, disk = entry.to_json() + b"\n", self.disk
        if self._occurs("silo disk full"):
            raise out_of_reach("the volume is full")
        if entry.stage == "Uploaded":
            disk.uploads[entry.attempt] = payload
            if self._occurs("silo upload kept without its entry"):
                raise Crashed("silo upload kept without its entry")
        if self._occurs("silo journal torn"):
            disk.lines += line[: self.world.rng.randrange(len(line))]
            raise Crashed("silo journal torn")
        disk.append(entry)
        self.note(f"journals {entry.stage}", AttemptId(round=entry.round, attempt=entry.attempt))

    def _keep(self, start: Any, payload: bytes) -> None:
        if self._occurs("silo broadcast torn"):
            raise Crashed("silo broadcast torn")
        self.disk.kept = (start, payload)
        self.note("keeps the broadcast", start.id)

    def _compute(self, attempt: AttemptId) -> Request:
        world = self.world
        seconds = world.rng.uniform(1.0, 20.0)
        if self._occurs("gradients too late"):
            seconds += world.plan.deadlines.compute_seconds
        yield seconds
        self.answers.append(SumComputed(attempt, world.sum_of(self.name, attempt.round)))

    def _charge(self, attempt: AttemptId) -> FoedusError | None:
        if self._occurs("ledger unavailable"):
            self.note("gets no answer from the ledger", attempt)
            return out_of_reach("the ledger does not answer")
        try:
            self.world.ledgers[self.name].charge(attempt.attempt)
        except FoedusError as problem:
            self.note("is refused by the ledger", attempt, problem.what)
            return problem
        self.note("charges", attempt)
        if self._occurs("ledger times out after commit"):
            self.note("gets no answer from the ledger", attempt)
            return out_of_reach("the ledger does not answer")
        if self._occurs("silo charge without its line"):
            raise Crashed("silo charge without its line")
        self.world.ledgers[self.name].follow()
        self.note("logs the charge", attempt, self.world.ledgers[self.name].logged)
        return None

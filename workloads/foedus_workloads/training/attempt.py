"""The coordinator's driver of one attempt: transport events into the state machine, its effects back out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from foedus_contract.plan import Deadlines
from foedus_contract.wire import AttemptOver, DeliverShares, StartAttempt, Welcome
from foedus_workloads.secagg.coordinator import (
    CoordinatorAttempt,
    CoordinatorStage,
    coordinator_loses,
    coordinator_receives,
    coordinator_times_out,
    start_coordinator,
)
from foedus_workloads.secagg.effects import Aborted, AttemptContext, Released, SendTo, SetDeadline, Step
from foedus_workloads.transport.events import Joined, Lost, Received, TransportEvent
from foedus_workloads.transport.server import SiloServer


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended; `charged` tells whether any silo may have charged its ledger for it.

    `began` tells when each stage after the first one began.
    """

    end: Released | Aborted
    charged: bool
    began: Mapping[CoordinatorStage, float]


class Attendance:
    """Who is here: welcomes silos, and keeps the identity key that each has shown."""

    def __init__(self, server: SiloServer, incarnation: int) -> None:
        self.server = server
        self._incarnation = incarnation
        self._identities: dict[str, bytes] = {}

    @property
    def present(self) -> frozenset[str]:
        """The silos that are connected now."""
        return self.server.present

    @property
    def identities(self) -> Mapping[str, bytes]:
        """The identity key that each silo has joined with."""
        return dict(self._identities)

    async def next_event(self, timeout: float) -> TransportEvent | None:
        """Return the transport's next event, None when there was none for `timeout` seconds."""
        event = await self.server.next_event(max(0.0, timeout))
        if isinstance(event, Joined):
            self._identities[event.silo] = event.join.identity
            self.server.send(event.silo, Welcome(incarnation=self._incarnation))
        return event


async def run_attempt(
    attendance: Attendance,
    context: AttemptContext,
    start: StartAttempt,
    payload: bytes,
    *,
    deadlines: Deadlines,
    clock: Callable[[], float],
) -> Outcome:
    """Run one attempt with the silos that are present, and tell them how it ended."""
    silos = attendance.present
    for silo in sorted(silos):
        attendance.server.send(silo, start, payload)
    driver = _Driver(attendance)
    await driver.execute(
        start_coordinator(
            context,
            silos,
            deadlines.stage_seconds,
            deadlines.compute_seconds,
            clock(),
            identities=attendance.identities,
        )
    )
    while driver.end is None:
        event = await attendance.next_event(driver.deadline - clock())
        # In a thread: taking the masks off is a long computation, and silos must be answered meanwhile.
        await driver.execute(await asyncio.to_thread(_next, driver.state, event, clock()))
    end = driver.end
    reason = end.reason if isinstance(end, Aborted) else ""
    over = AttemptOver(id=context.id, applied=isinstance(end, Released), reason=reason[:512])
    for silo in sorted(silos):
        attendance.server.send(silo, over)
    return Outcome(end, driver.charged, {} if driver.state is None else driver.state.began)


class _Driver:
    """Executes effects, and remembers what the loop needs."""

    def __init__(self, attendance: Attendance) -> None:
        self._attendance = attendance
        self.state: CoordinatorAttempt | None = None
        self.deadline = 0.0
        self.charged = False
        self.end: Released | Aborted | None = None

    async def execute(self, step: Step[CoordinatorAttempt]) -> None:
        self.state = step.state
        for effect in step.effects:
            match effect:
                case SendTo(silo, message, payload):
                    # The delivery of shares is what makes a silo charge its ledger.
                    self.charged = self.charged or isinstance(message, DeliverShares)
                    self._attendance.server.send(silo, message, payload)
                case SetDeadline(at):
                    self.deadline = at
                case Released() | Aborted():
                    self.end = effect


def _next(state: CoordinatorAttempt | None, event: TransportEvent | None, now: float) -> Step[CoordinatorAttempt]:
    assert state is not None
    match event:
        case None:
            return coordinator_times_out(state, now)
        case Received(_, message, payload):
            return coordinator_receives(state, message, payload, now)
        case Lost(silo):
            return coordinator_loses(state, silo, now)
        case _:
            return Step(state)  # a silo that joins now takes part in the next attempt

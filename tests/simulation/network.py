"""The network in virtual time: production's `Sessions` and mailboxes at the coordinator, a silo's link to them.

The link does what `transport.client` does (one poll open, one frame posted at a time, patience, rejoining), so what
holds there holds here: each frame once and in order within a session, and nothing of an old session after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from foedus_contract.errors import FoedusError, Unavailable
from foedus_contract.wire import Join, Message
from foedus_workloads.training.job_effects import Heard, SessionRenewed, SiloEvent
from foedus_workloads.transport.sessions import NoSession, Session, Sessions
from simulation import wire
from simulation.timeline import Process, Wait

if TYPE_CHECKING:
    from simulation.world import World

POLL_SECONDS = 20.0  # as in production: an empty poll is answered after this
SILENCE_SECONDS = 15.0  # a session without a request for so long is lost
PAUSE_SECONDS = 2.0  # between tries
CODE = "sha256:" + "c" * 64  # that all processes run

Request = Generator[float | Wait, None, Any]


class Door:
    """The coordinator's open port: its sessions, and the polls that wait at them."""

    def __init__(self, world: World, incarnation: int, owner: Callable[[], None]) -> None:
        timeline = world.timeline
        self.incarnation = incarnation
        self.sessions = Sessions(
            world.silos, plan_digest=world.plan_digest, code_digest=CODE, clock=lambda: timeline.now
        )
        self.is_open = True
        self._polls: dict[str, Process] = {}
        self._owner = owner

    def send(self, silo: str, message: Message, payload: bytes) -> None:
        """Queue a frame."""
        self.sessions.send(silo, message, payload)
        self._wake(silo)

    def lose(self, silo: str, session: str) -> bool:
        """End this very session; False when it is not open any more."""
        found = self.sessions._open.get(silo)
        if found is None or found.mailbox.session != session:
            return False
        self.sessions.lose(silo)
        self._wake(silo)
        self._owner()
        return True

    def close(self) -> None:
        """Break every connection: the process has died."""
        self.is_open = False
        for silo in tuple(self._polls):
            self._wake(silo)

    def park(self, silo: str, poll: Process) -> None:
        """Let a poll wait for news."""
        self._polls[silo] = poll

    def applied(self) -> None:
        """Tell the coordinator's process that something may have arrived."""
        self._owner()

    def _wake(self, silo: str) -> None:
        poll = self._polls.pop(silo, None)
        if poll is not None:
            poll.wake()


class Link:
    """One silo process's connection to the coordinator."""

    def __init__(self, world: World, join: Join, *, patience: float) -> None:
        self._world = world
        self._join = join
        self._patience = patience
        self._session = ""
        self._sent = self._seen = 0
        self._joining = self._closed = False
        self._cut_until = 0.0
        self._door: Door | None = None  # the session's; each request is to the one that the address leads to by then
        self._newest = 0  # the highest start of the coordinator that has answered
        self._parked = False  # a poll waits at the session's door
        self._reached = 0.0  # when a request came to the session's door last
        self._incoming: deque[SiloEvent | FoedusError] = deque()
        self._reader: Callable[[], None] = lambda: None
        self._poll_process: Process | None = None

    def open(self, reader: Callable[[], None]) -> Request:
        """Join, and keep a poll open from then on; `reader` is called when something has arrived."""
        self._reader = reader
        yield from self._open_session()
        self._poll_process = Process(self._world.timeline, self._keep_polling(), self._poll_ended)

    def receive_now(self) -> SiloEvent | None:
        """Return what has arrived, or None; raises when the link cannot be kept."""
        if not self._incoming:
            return None
        item = self._incoming.popleft()
        if isinstance(item, FoedusError):
            raise item
        return item

    def send(self, message: Message, payload: bytes) -> Request:
        """Deliver one frame exactly once; void when the session ends on the way."""
        session, number = self._session, self._sent + 1
        self._sent = number
        frame = wire.encode(message, payload)

        def post(door: Door) -> None:
            found = self._find(door, session)
            received, content = wire.decode(frame)
            door.sessions.take(self._join.silo, found, number, received, content)  # type: ignore[arg-type]

        try:
            yield from self._patiently(lambda: self._once(post))
        except NoSession:
            yield from self._rejoin(session)

    def meets_newer(self, incarnation: int) -> Request:
        """Ask once who is there now, and join a coordinator that is newer than `incarnation`."""
        with suppress(FoedusError):
            yield from self._once(lambda door: self._find(door, ""))
        if self._newest <= incarnation:
            return False
        if self._door is None or self._door.incarnation <= incarnation:
            yield from self._rejoin(self._session)
        return True

    def leave(self) -> Request:
        """Say goodbye; best effort."""
        session = self._session
        with suppress(FoedusError):
            yield from self._once(lambda door: door.lose(self._join.silo, session))

    def close(self) -> None:
        """End with the process; the coordinator notices the silence after a while."""
        self._closed = True
        if self._poll_process is not None:
            self._poll_process.kill()
        self._notice_silence()

    def cut(self, seconds: float) -> None:
        """Let nothing through for so long."""
        self._cut_until = self._world.timeline.now + seconds
        if self._poll_process is not None:
            self._poll_process.wake()
        self._notice_silence()

    def lose_session(self) -> None:
        """Let the coordinator forget this session."""
        if self._door is not None and self._door.is_open:
            self._door.lose(self._join.silo, self._session)

    def _notice_silence(self) -> None:
        """Let the session's coordinator miss this silo, should it hear nothing for so long."""
        world, session, door = self._world, self._session, self._door

        def notice() -> None:
            same = not self._closed and self._door is door and self._session == session
            heard = self._parked or world.timeline.now - self._reached < SILENCE_SECONDS
            if door is not None and not (same and heard) and door.lose(self._join.silo, session):
                world.note(self._join.silo, "session lost in silence")

        world.timeline.at(world.timeline.now + world.rng.uniform(0.0, 1.0) + SILENCE_SECONDS, notice)

    @property
    def _is_cut(self) -> bool:
        return self._world.timeline.now < self._cut_until

    def _find(self, door: Door, session: str) -> Session:
        return door.sessions.find(self._join.silo, session=session, incarnation=self._join.incarnation)

    def _reach(self) -> Door:
        """Dial: whoever the address leads to answers, and an older coordinator than before is passed over."""
        door = self._world.dial()
        if door is None or not door.is_open or self._is_cut:
            self._notice_silence()
            raise Unavailable("the coordinator does not answer", where=self._join.silo)
        self._check_newest(door)
        if door is self._door:
            self._reached = self._world.timeline.now
        return door

    def _once(self, apply: Callable[[Door], Any]) -> Request:
        """One request: it may get lost on the way there, or its answer on the way back."""
        yield self._world.delay()
        door = self._reach()
        try:
            answer = apply(door)
        finally:
            door.applied()
        yield self._world.delay()
        return self._answered(door, answer)

    def _check_newest(self, door: Door) -> None:
        if door.incarnation < self._newest:
            self._notice_silence()
            raise Unavailable("an older coordinator answers", where=self._join.silo)
        self._newest = door.incarnation

    def _answered(self, door: Door, answer: Any) -> Any:
        if not door.is_open or self._is_cut or self._world.occurs("answer lost"):
            self._notice_silence()
            raise Unavailable("the connection broke", where=self._join.silo)
        return answer

    def _patiently(self, request: Callable[[], Request]) -> Request:
        patience = self._new_patience()
        while True:
            try:
                return (yield from request())
            except NoSession:
                raise
            except Unavailable as error:
                yield patience(error)

    def _new_patience(self) -> Callable[[Unavailable], float]:
        """Return what tells the pause before the next try; it raises when there have been failures for too long."""
        timeline, failed = self._world.timeline, []

        def pause_after(error: Unavailable) -> float:
            failed.append(timeline.now)
            if timeline.now - failed[0] > self._patience:
                raise error
            return PAUSE_SECONDS

        return pause_after

    def _open_session(self) -> Request:
        world, patience = self._world, self._new_patience()
        session = f"{self._join.silo}-{self._join.incarnation}-{world.next_number()}"
        self._notice_silence()
        opened: list[Door] = []

        def join(door: Door) -> None:
            door.sessions.join(self._join.silo, self._join, session=session)
            opened.append(door)

        while True:
            try:
                yield from self._once(join)
                break
            except Unavailable as error:
                yield patience(error)
        self._session, self._sent, self._seen = session, 0, 0
        self._door, self._reached = opened[-1], world.timeline.now

    def _rejoin(self, ended: str) -> Request:
        while self._joining:
            yield PAUSE_SECONDS
        if self._session != ended:
            return
        self._joining = True
        try:
            yield from self._open_session()
        finally:
            self._joining = False
        self._arrived(SessionRenewed())

    def _keep_polling(self) -> Generator[float | Wait, None, None]:
        while True:
            session = self._session
            try:
                answer = yield from self._patiently(self._poll)
            except NoSession:
                yield from self._rejoin(session)
                continue
            if answer is None or session != self._session:
                continue
            sequence, frame = answer
            if sequence == self._seen + 1:
                self._seen = sequence
                self._arrived(Heard(*wire.decode(frame)))  # type: ignore[arg-type]

    def _poll(self) -> Request:
        world, silo, session = self._world, self._join.silo, self._session
        yield world.delay()
        door = self._reach()
        found = self._find(door, session)
        found.mailbox = found.mailbox.acknowledge(self._seen)
        until = world.timeline.now + POLL_SECONDS
        while found.mailbox.first is None and door.sessions.is_open(silo, found) and world.timeline.now < until:
            assert self._poll_process is not None
            door.park(silo, self._poll_process)
            self._parked = True
            yield Wait(until)
            self._parked, self._reached = False, world.timeline.now
            if not door.is_open or self._is_cut:
                self._notice_silence()
                raise Unavailable("the connection broke", where=silo)
        first = found.mailbox.first
        if first is not None:
            yield world.delay()
        return self._answered(door, first)

    def _poll_ended(self, error: Exception | None) -> None:
        assert error is not None
        self._arrived(error if isinstance(error, FoedusError) else FoedusError(f"{type(error).__name__}: {error}"))

    def _arrived(self, item: SiloEvent | FoedusError) -> None:
        self._incoming.append(item)
        self._reader()

"""Who is connected: every silo's session, its incarnation fence, and when silence counts as gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foedus_contract.errors import Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.models import DIGEST_SHOWN
from foedus_contract.wire import PROTOCOL_VERSION, Join, Message, SiloMessage, encode_frame
from foedus_workloads.transport.events import Joined, Lost, Received, TransportEvent
from foedus_workloads.transport.mailbox import Mailbox

if TYPE_CHECKING:
    from collections.abc import Iterator


# A silo's messages that the driver has not taken yet; an honest silo has one on its way in each stage.
MAX_UNDELIVERED = 8


class NoSession(Unavailable):
    """The request belongs to no open session; the silo joins (again)."""


class Busy(Unavailable):
    """The driver has not taken the silo's earlier messages yet; the silo sends this one again later."""


@dataclass
class Session:
    """One silo's open session: its mailbox, and what tells whether the process is still there."""

    mailbox: Mailbox
    silent_seconds: float = 0.0  # since a request was open
    open_requests: int = 0
    polls: int = 0  # a newer poll ends an older one
    posting: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Sessions:
    """All sessions of one job; `next_event` gives Joined, Received and Lost in the order they happened."""

    def __init__(
        self, silos: Collection[str], *, plan_digest: str, code_digest: str, clock: Callable[[], float]
    ) -> None:
        # Bounded by `check_room`: what a silo puts in at will is counted, and each Lost belongs to a counted Joined.
        self._events: asyncio.Queue[TransportEvent] = asyncio.Queue()
        self._undelivered: Counter[str] = Counter()
        self._silos = frozenset(silos)
        self._plan_digest = plan_digest
        self._code_digest = code_digest
        self._clock = clock
        self._looked = clock()  # for silent silos
        self._open: dict[str, Session] = {}
        self._fences: dict[str, int] = {}  # the highest incarnation that each silo has shown

    @property
    def present(self) -> frozenset[str]:
        """The silos with an open session."""
        return frozenset(self._open)

    async def next_event(self) -> TransportEvent:
        """Wait for what happened next."""
        return self._handed_over(await self._events.get())

    def event_now(self) -> TransportEvent | None:
        """Return what happened next, None when nothing has."""
        return None if self._events.empty() else self._handed_over(self._events.get_nowait())

    def check_room(self, silo: str) -> None:
        """Raise Busy while the driver has not taken enough of the silo's earlier messages."""
        if self._undelivered[silo] >= MAX_UNDELIVERED:
            raise Busy("earlier messages are still waiting", where=silo)

    def check_silo(self, silo: str) -> None:
        """Raise Refused unless the job has this silo."""
        if silo not in self._silos:
            raise Refused("the job has no such silo", where=silo, code=ExitCode.IDENTITY_REFUSED)

    def find(self, silo: str, *, session: str, incarnation: int) -> Session:
        """Return the open session of this very process; raises Refused when superseded, NoSession when not open."""
        self._check_fence(silo, incarnation)
        found = self._open.get(silo)
        if found is None or (found.mailbox.session, found.mailbox.incarnation) != (session, incarnation):
            raise NoSession("no session is open", where=silo)
        return found

    def is_open(self, silo: str, session: Session) -> bool:
        """Tell whether this very session is still the silo's."""
        return self._open.get(silo) is session

    def join(self, silo: str, message: Join, *, session: str) -> None:
        """Open a session; a repeat of the same Join changes nothing. Raises Refused or NoSession (try again)."""
        self._check_join(silo, message)
        current = self._open.get(silo)
        if current is not None and message.incarnation == current.mailbox.incarnation:
            if current.mailbox.session == session:
                return
            # Two processes with one incarnation: the first keeps its session until it has fallen silent.
            raise NoSession("another process of this silo is connected", where=silo)
        self.check_room(silo)
        self.lose(silo)
        self._fences[silo] = message.incarnation
        self._open[silo] = Session(Mailbox(session, message.incarnation))
        self._put(Joined(silo, message))

    def take(self, silo: str, session: Session, sequence: int, message: SiloMessage, payload: bytes) -> None:
        """Hand the message to the driver unless it is a repeat."""
        if not self.is_open(silo, session):
            raise NoSession("the session has ended", where=silo)
        mailbox = session.mailbox.take(sequence)
        if mailbox is not None:
            session.mailbox = mailbox
            self._put(Received(silo, message, payload))

    def send(self, silo: str, message: Message, payload: bytes = b"") -> None:
        """Queue a frame for the silo; one that is not connected, or reads nothing, gets none and counts as lost."""
        session = self._open.get(silo)
        if session is None:
            return
        try:
            session.mailbox = session.mailbox.push(encode_frame(message, payload))
        except Unavailable:
            self.lose(silo)
            return
        session.news.set()

    def lose(self, silo: str) -> None:
        """End the silo's session, if it has one."""
        session = self._open.pop(silo, None)
        if session is not None:
            session.news.set()
            self._events.put_nowait(Lost(silo))

    def lose_silent(self, seconds: float, *, pause: float) -> None:
        """End the sessions of the silos that have had no open request for `seconds`; to be called `pause` apart.

        What lies between two calls beyond twice that was this process's own standstill: it has heard nobody then, so it
        is no silo's silence.
        """
        now = self._clock()
        heard = min(now - self._looked, 2 * pause)
        self._looked = now
        for silo, session in list(self._open.items()):
            session.silent_seconds = 0.0 if session.open_requests else session.silent_seconds + heard
            if session.silent_seconds > seconds:
                self.lose(silo)

    @contextmanager
    def request(self, session: Session) -> Iterator[None]:
        """Count a request of the silo as a sign of life while it is open; silence counts from its end."""
        session.open_requests += 1
        try:
            yield
        finally:
            session.open_requests -= 1
            session.silent_seconds = 0.0

    def _handed_over(self, event: TransportEvent) -> TransportEvent:
        if not isinstance(event, Lost):
            self._undelivered[event.silo] -= 1
        return event

    def _put(self, event: Joined | Received) -> None:
        self._undelivered[event.silo] += 1
        self._events.put_nowait(event)

    def _check_join(self, silo: str, message: Join) -> None:
        self._check_fence(silo, message.incarnation)
        if message.protocol != PROTOCOL_VERSION:
            cure = f"run the same release on both sides (this side speaks {PROTOCOL_VERSION})"
            raise Refused(
                f"protocol {message.protocol} is not spoken here", where=silo, cure=cure, code=ExitCode.IDENTITY_REFUSED
            )
        if message.plan_digest != self._plan_digest:
            cure = "start silo and coordinator from the same job"
            raise Refused("the silo was given another plan", where=silo, cure=cure, code=ExitCode.IDENTITY_REFUSED)
        if message.code_digest != self._code_digest:
            # Noise and sums are what the code makes of a plan.
            raise Refused(
                f"the silo runs other code ({message.code_digest[:DIGEST_SHOWN]}) than the coordinator"
                f" ({self._code_digest[:DIGEST_SHOWN]})",
                where=silo,
                cure="install the same release on both sides, in a cluster by an image's digest",
                code=ExitCode.IDENTITY_REFUSED,
            )

    def _check_fence(self, silo: str, incarnation: int) -> None:
        if incarnation < self._fences.get(silo, 0):
            raise Refused("a newer process of this silo exists", where=silo, code=ExitCode.SUPERSEDED)

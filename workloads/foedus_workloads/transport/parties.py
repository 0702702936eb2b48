"""Connections between the members of an inference, over mutual TLS 1.3, and the driver of a session.

Each member dials all others to send and accepts all to receive: each connection is used in one direction by one
thread, for OpenSSL's connections are not made to be read and written at once. Every session has connections of
its own, so nothing of one that was cut off can come into the next.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TypeVar

from foedus_contract.errors import JobFailed, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import member_name
from foedus_workloads.mpc.session import MemberSession, Send
from foedus_workloads.transport.frames import Clock, Connection, Opened, framed, left
from foedus_workloads.transport.reception import Cluster, PartyPlace, Reception, absent, party_behind
from foedus_workloads.transport.tls import party_contexts
from foedus_workloads.transport.tls_faults import identity_refused

T = TypeVar("T")
_Frame = tuple[bytes | memoryview, ...]
Watch = Callable[[int], None]
RETRY_SECONDS = 0.1  # between two attempts to dial a party that does not listen yet
AT_ONCE = 1 << 16  # bytes of a message that is sent without waking a thread for it; most rounds have fewer
UNSENT = 8  # messages to one neighbour that wait for its connection; a party that runs ahead waits


class Links:
    """The open connections of one party; `close` ends all of them."""

    def __init__(self, incoming: Mapping[int, ssl.SSLSocket], outgoing: Mapping[int, ssl.SSLSocket]) -> None:
        self._incoming = {party: Connection(tls) for party, tls in incoming.items()}
        self._senders = {party: _Sender(connection) for party, connection in outgoing.items()}

    def send(self, message: Send, *, until: float, clock: Clock) -> None:
        """Queue a message for its neighbour; raises TimeoutError when earlier ones do not leave."""
        self._senders[message.party].put(message, seconds=until - clock())

    def broken(self) -> int | None:
        """Return a neighbour to whom nothing can be sent any more."""
        return next((party for party, sender in self._senders.items() if sender.broken), None)

    def incoming(self, party: int) -> Connection:
        """Return what a neighbour's messages are read from."""
        return self._incoming[party]

    def finish(self, *, until: float, clock: Clock) -> None:
        """Wait until everything queued has left."""
        for sender in self._senders.values():
            sender.finish(seconds=until - clock())

    def close(self) -> None:
        """Close every connection."""
        for sender in self._senders.values():
            sender.close()
        for connection in self._incoming.values():
            connection.close()


class _Sender:
    """Sends to one neighbour: a short message at once, if it can leave, all others in a thread of its own.

    The connection is used by one thread at a time: by who puts only while nothing is queued or being sent.
    """

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        # The session's deadlines are kept by who waits for room here; closing ends a send that does not.
        self._connection.settimeout(None)
        self._queue: queue.Queue[_Frame | None] = queue.Queue(UNSENT)
        self.broken = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, message: Send, *, seconds: float) -> None:
        self._check()
        frame: _Frame = (framed(message.header), *message.payload)
        if message.size <= AT_ONCE and self._queue.unfinished_tasks == 0:
            frame = self._unsent(memoryview(b"".join(frame)))
        if frame:
            self._queue_up(frame, seconds)

    def finish(self, *, seconds: float) -> None:
        self._check()
        self._queue_up(None, seconds)
        self._thread.join(max(seconds, 0.001))
        if self._thread.is_alive() or self.broken:
            raise ConnectionError("a neighbour did not take what was sent")

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # what is being sent ends with an error
        with suppress(queue.Full):  # a full queue belongs to a thread that is sending
            self._queue.put_nowait(None)
        self._thread.join()
        self._connection.close()

    def _check(self) -> None:
        if self.broken:
            raise ConnectionError("the connection has ended")

    def _queue_up(self, frame: _Frame | None, seconds: float) -> None:
        try:
            self._queue.put(frame, timeout=max(seconds, 0.001))
        except queue.Full:
            raise TimeoutError from None

    def _unsent(self, frame: memoryview) -> _Frame:
        """Send what the system takes without waiting; return what is left."""
        self._connection.settimeout(0)
        try:
            sent = self._connection.send(frame)
        except ssl.SSLWantWriteError:  # OpenSSL wants the same bytes again then
            sent = 0
        except OSError:
            self.broken = True
            raise
        finally:
            self._connection.settimeout(None)
        return (frame[sent:],) if sent < frame.nbytes else ()

    def _run(self) -> None:
        while (frame := self._queue.get()) is not None:
            try:
                for part in frame:
                    self._connection.sendall(part)
            except OSError:
                self.broken = True
                return
            self._queue.task_done()


def meet(place: PartyPlace, reception: Reception, *, seconds: float, clock: Clock = time.monotonic) -> Links:
    """Connect a member with all others for a session within `seconds`.

    Raises Unavailable when one of them is not there, Refused when a dialled party shows another's certificate.
    """
    until = clock() + seconds
    dialling = Dialling(place, party_contexts(place.files)[1], until, clock, wanted=lambda: not reception.closed)
    try:
        with ThreadPoolExecutor(len(place.neighbours)) as pool:
            dials = {each: pool.submit(dialling.dial, each) for each in place.neighbours}
            try:
                # The first failure is the one to tell: a refused neighbour makes the others end, and be absent later.
                done, _ = wait(dials.values(), return_when=FIRST_EXCEPTION)
                for dial in done:
                    dial.result()
                outgoing = {party: dial.result() for party, dial in dials.items()}
            except BaseException:
                dialling.stop()  # or the other one would be dialled until the deadline
                raise
        incoming = reception.neighbours(until)
        for connection in outgoing.values():
            dialling.opened.hand_on(connection)
    finally:
        dialling.stop()
    return Links(incoming, outgoing)


class Dialling:
    """Dials parties of a cluster until they answer, the deadline passes, or it is stopped."""

    def __init__(
        self,
        place: Cluster,
        context: ssl.SSLContext,
        until: float,
        clock: Clock,
        *,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._place, self._context, self._until, self._clock, self._wanted = place, context, until, clock, wanted
        self._stopped = threading.Event()
        self.opened = Opened()

    def stop(self) -> None:
        """End every dial and every connection that was not handed on."""
        self._stopped.set()
        self.opened.close()

    def take(self, party: int) -> ssl.SSLSocket:
        """Return a connection to the party that its new owner closes."""
        connection = self.dial(party)
        self.opened.hand_on(connection)
        return connection

    def dial(self, party: int) -> ssl.SSLSocket:
        """Return a connection to the party; raises Unavailable or Refused."""
        while True:
            try:
                seconds = left(self._until, self._clock)
                raw = socket.create_connection(self._place.addresses[party], timeout=seconds)
                connection = self.opened.handshake(
                    self._context, raw, server=False, until=self._until, clock=self._clock
                )
            except TimeoutError:
                raise absent(party) from None
            except OSError as error:
                if identity_refused(error):
                    raise _refused(party, "the certificate is refused") from None
                late = self._clock() + RETRY_SECONDS > self._until
                if late or self._stopped.wait(RETRY_SECONDS) or not self._wanted():
                    raise absent(party) from None
                continue
            if party_behind(connection, self._place) != party:
                raise _refused(party, "another party answers there")
            return connection


def _refused(party: int, what: str) -> Refused:
    cure = "check addresses and certificates of the cluster"
    return Refused(what, where=member_name(party), cure=cure, code=ExitCode.IDENTITY_REFUSED)


def _unwatched(_rounds: int) -> None:
    """Let the session go on."""


def run_session(
    session: MemberSession[T],
    links: Links,
    *,
    round_seconds: float,
    clock: Clock = time.monotonic,
    watch: Watch = _unwatched,
) -> T:
    """Run a session to its end and return its result; the links are closed whatever happens.

    Each message has `round_seconds` from when it is waited for. `watch` is told of each round that has begun; what it
    raises, other than an OSError, ends the session. Raises JobFailed naming the party that was late, that
    is gone, or that sent something else than what was expected.
    """
    until = clock() + round_seconds
    waiting: int | None = None
    try:
        for message in session.start():
            links.send(message, until=until, clock=clock)
        while (waiting := session.waiting_for) is not None:
            until = clock() + round_seconds
            connection = links.incoming(waiting)
            for view in session.announce(waiting, connection.read_header(until=until, clock=clock)):
                connection.fill(view, until=until, clock=clock)
            for message in session.arrived(waiting):
                until = clock() + round_seconds  # a dealer sends all that it deals at once
                links.send(message, until=until, clock=clock)
                watch(session.totals.rounds)
        links.finish(until=until, clock=clock)
    except OSError as error:
        raise _failed(session, links, waiting, late=isinstance(error, TimeoutError)) from None
    finally:
        links.close()
    return session.result


def _failed(session: MemberSession[T], links: Links, waiting: int | None, *, late: bool) -> JobFailed:
    broken = links.broken()
    if broken is not None:
        return session.lose(broken)
    if late or waiting is None:
        return session.time_out()
    return session.lose(waiting)

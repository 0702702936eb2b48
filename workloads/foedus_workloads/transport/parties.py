"""Connections between the three parties of an inference, over mutual TLS 1.3, and the driver of a session.

Each party dials both others to send and accepts both to receive: four connections a party, each used in one direction
by one thread, for OpenSSL's connections are not made to be read and written at once. A frame is
`uint32 header length || header || payload`; the payload's size follows from what the session expects.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from foedus_contract import limits
from foedus_contract.errors import FoedusError, JobFailed, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import PARTIES
from foedus_workloads.mpc.session import Send, Session
from foedus_workloads.transport.tls import TlsPaths, party_contexts, party_of
from foedus_workloads.transport.tls_faults import identity_refused

T = TypeVar("T")
Clock = Callable[[], float]
HANDSHAKE_SECONDS = 10.0  # a stranger that says nothing occupies one of the few handshakes for so long
HANDSHAKES = 8  # at once; more connections wait in the listener's queue
RETRY_SECONDS = 0.1  # between two attempts to dial a party that does not listen yet
UNSENT = 8  # messages to one neighbour that wait for its connection; a party that runs ahead waits


@dataclass(frozen=True)
class PartyPlace:
    """Who a party is: its number, its cluster, where all parties listen, and its TLS files."""

    party: int
    namespace: str
    cluster: str
    addresses: Sequence[tuple[str, int]]
    files: TlsPaths

    @property
    def neighbours(self) -> tuple[int, ...]:
        """The numbers of the two others."""
        return tuple(each for each in range(PARTIES) if each != self.party)


class Links:
    """The open connections of one party; `close` ends all of them."""

    def __init__(self, incoming: Mapping[int, ssl.SSLSocket], outgoing: Mapping[int, ssl.SSLSocket]) -> None:
        self._incoming = incoming
        self._senders = {party: _Sender(connection) for party, connection in outgoing.items()}

    def send(self, message: Send, *, until: float, clock: Clock) -> None:
        """Queue a message for its neighbour; raises TimeoutError when earlier ones do not leave."""
        self._senders[message.party].put(message, seconds=until - clock())

    def broken(self) -> int | None:
        """Return a neighbour to whom nothing can be sent any more."""
        return next((party for party, sender in self._senders.items() if sender.broken), None)

    def read_header(self, party: int, *, until: float, clock: Clock) -> bytes:
        """Read the next header of a neighbour; raises OSError when the connection is gone or the length is wrong."""
        prefix = bytearray(4)
        self.fill(party, memoryview(prefix), until=until, clock=clock)
        length = int.from_bytes(prefix, "big")
        if length > limits.MAX_HEADER_BYTES:
            raise ConnectionError("the header length is wrong")
        header = bytearray(length)
        self.fill(party, memoryview(header), until=until, clock=clock)
        return bytes(header)

    def fill(self, party: int, view: memoryview, *, until: float, clock: Clock) -> None:
        """Fill `view` with what a neighbour sends; raises TimeoutError at `until`, OSError when it is gone."""
        connection = self._incoming[party]
        while view.nbytes:
            connection.settimeout(_left(until, clock))
            count = connection.recv_into(view)
            if count == 0:
                raise ConnectionError("the connection has ended")
            view = view[count:]

    def finish(self, *, until: float, clock: Clock) -> None:
        """Wait until everything queued has left."""
        for sender in self._senders.values():
            sender.finish(seconds=until - clock())

    def close(self) -> None:
        """Close every connection."""
        for sender in self._senders.values():
            sender.close()
        for connection in self._incoming.values():
            _end(connection)


class _Sender:
    """Sends what is queued for one neighbour, in a thread of its own."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        # The session's deadlines are kept by who waits for room here; closing ends a send that does not.
        self._connection.settimeout(None)
        self._queue: queue.Queue[Send | None] = queue.Queue(UNSENT)
        self.broken = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, message: Send | None, *, seconds: float) -> None:
        if self.broken:
            raise ConnectionError("the connection has ended")
        try:
            self._queue.put(message, timeout=max(seconds, 0.001))
        except queue.Full:
            raise TimeoutError from None

    def finish(self, *, seconds: float) -> None:
        self.put(None, seconds=seconds)
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

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            try:
                self._connection.sendall(len(message.header).to_bytes(4, "big") + message.header)
                for part in message.payload:
                    self._connection.sendall(part)
            except OSError:
                self.broken = True
                return


class _Opened:
    """Every connection that was begun, so that none outlives `connect` but the ones that are used."""

    def __init__(self) -> None:
        self._all: list[ssl.SSLSocket] = []

    def handshake(
        self, context: ssl.SSLContext, raw: socket.socket, *, server: bool, until: float, clock: Clock
    ) -> ssl.SSLSocket:
        """Return the connection after its handshake; raises OSError."""
        with raw:  # wrapping takes the descriptor over
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.settimeout(_left(until, clock))
            connection = context.wrap_socket(raw, server_side=server, do_handshake_on_connect=False)
        self._all.append(connection)
        connection.do_handshake()
        return connection

    def close_all_but(self, kept: Collection[ssl.SSLSocket]) -> None:
        """Close the others; a handshake in another thread ends with it."""
        for connection in self._all:
            if connection not in kept:
                _end(connection)


def connect(place: PartyPlace, *, seconds: float, clock: Clock = time.monotonic) -> Links:
    """Connect a party with both neighbours within `seconds`.

    Raises Unavailable when one of them is not there, Refused when a dialled party shows another's certificate.
    """
    contexts = party_contexts(place.files)
    until = clock() + seconds
    opened = _Opened()
    kept: list[ssl.SSLSocket] = []
    try:
        with (
            socket.create_server(place.addresses[place.party], backlog=HANDSHAKES) as listener,
            ThreadPoolExecutor(HANDSHAKES) as handshakes,
            ThreadPoolExecutor(PARTIES) as pool,
        ):
            admission = _Admission(listener, contexts[0], place, opened, handshakes)
            accepting = pool.submit(admission.run, until, clock)
            dials = {
                each: pool.submit(_dial, each, contexts[1], place, opened, until, clock) for each in place.neighbours
            }
            try:
                # The first failure is the one to tell: a refused neighbour makes the others end, and be absent later.
                done, _ = wait(dials.values(), return_when=FIRST_EXCEPTION)
                for dial in done:
                    dial.result()
                outgoing = {party: dial.result() for party, dial in dials.items()}
                incoming = accepting.result()
                kept += [*outgoing.values(), *incoming.values()]
            finally:
                listener.close()  # ends the accepting
                opened.close_all_but(kept)
    finally:
        opened.close_all_but(kept)
    return Links(incoming, outgoing)


def _dial(
    party: int, context: ssl.SSLContext, place: PartyPlace, opened: _Opened, until: float, clock: Clock
) -> ssl.SSLSocket:
    while True:
        try:
            raw = socket.create_connection(place.addresses[party], timeout=_left(until, clock))
            connection = opened.handshake(context, raw, server=False, until=until, clock=clock)
        except TimeoutError:
            raise _absent(party) from None
        except OSError as error:
            if identity_refused(error):
                raise _refused(party, "the certificate is refused") from None
            if clock() + RETRY_SECONDS > until:
                raise _absent(party) from None
            time.sleep(RETRY_SECONDS)
            continue
        if _party_behind(connection, place) != party:
            raise _refused(party, "another party answers there")
        return connection


@dataclass(frozen=True)
class _Admission:
    """Accepts until both neighbours have a connection; strangers, and who says nothing, are dropped."""

    listener: socket.socket
    context: ssl.SSLContext
    place: PartyPlace
    opened: _Opened
    handshakes: ThreadPoolExecutor
    found: queue.Queue[tuple[int, ssl.SSLSocket]] = field(default_factory=queue.Queue)

    def run(self, until: float, clock: Clock) -> dict[int, ssl.SSLSocket]:
        """Return each neighbour's first connection; raises Unavailable at `until`."""
        incoming: dict[int, ssl.SSLSocket] = {}
        while True:
            with suppress(queue.Empty):
                party, connection = self.found.get_nowait()
                incoming.setdefault(party, connection)
            if len(incoming) == len(self.place.neighbours):
                return incoming
            if clock() >= until:
                raise _absent(next(each for each in self.place.neighbours if each not in incoming))
            self._accept_one(until, clock)

    def _accept_one(self, until: float, clock: Clock) -> None:
        try:
            self.listener.settimeout(RETRY_SECONDS)
            raw, _ = self.listener.accept()
        except TimeoutError:
            return
        except OSError:
            raise Unavailable("the listener was closed", where=f"party {self.place.party}") from None
        try:
            self.handshakes.submit(self._admit, raw, min(until, clock() + HANDSHAKE_SECONDS), clock)
        except RuntimeError:  # the pool is closing
            raw.close()

    def _admit(self, raw: socket.socket, until: float, clock: Clock) -> None:
        with suppress(OSError):
            connection = self.opened.handshake(self.context, raw, server=True, until=until, clock=clock)
            party = _party_behind(connection, self.place)
            if party in self.place.neighbours:
                self.found.put((party, connection))


def _party_behind(connection: ssl.SSLSocket, place: PartyPlace) -> int:
    """Return the party that the certificate names, -1 for none of this cluster."""
    try:
        return party_of(connection.getpeercert(), namespace=place.namespace, cluster=place.cluster, parties=PARTIES)
    except FoedusError:
        return -1


def _left(until: float, clock: Clock) -> float:
    left = until - clock()
    if left <= 0:
        raise TimeoutError
    return left


def _end(connection: ssl.SSLSocket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _refused(party: int, what: str) -> Refused:
    cure = "check addresses and certificates of the cluster"
    return Refused(what, where=f"party {party}", cure=cure, code=ExitCode.IDENTITY_REFUSED)


def _absent(party: int) -> Unavailable:
    return Unavailable("the party is not there", where=f"party {party}", cure="start all three parties")


def run_session(session: Session[T], links: Links, *, round_seconds: float, clock: Clock = time.monotonic) -> T:
    """Run a session to its end and return its result; the links are closed whatever happens.

    Each message has `round_seconds` from when it is waited for. Raises JobFailed naming the party that was late, that
    is gone, or that sent something else than what was expected.
    """
    until = clock() + round_seconds
    waiting: int | None = None
    try:
        for message in session.start():
            links.send(message, until=until, clock=clock)
        while (waiting := session.waiting_for) is not None:
            until = clock() + round_seconds
            header = links.read_header(waiting, until=until, clock=clock)
            for view in session.announce(waiting, header):
                links.fill(waiting, view, until=until, clock=clock)
            for message in session.arrived(waiting):
                links.send(message, until=until, clock=clock)
        links.finish(until=until, clock=clock)
    except OSError as error:
        raise _failed(session, links, waiting, late=isinstance(error, TimeoutError)) from None
    finally:
        links.close()
    return session.result


def _failed(session: Session[T], links: Links, waiting: int | None, *, late: bool) -> JobFailed:
    broken = links.broken()
    if broken is not None:
        return session.lose(broken)
    if late or waiting is None:
        return session.time_out()
    return session.lose(waiting)

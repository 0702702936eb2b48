"""A party's listener: it accepts for as long as the party lives, and knows each connection by its certificate.

Neighbours' connections wait for the session that they are for, clients' in a line. Strangers, and who says nothing,
are dropped: a handshake has a deadline, few run at once, and the line is short.
"""

from __future__ import annotations

import errno
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from foedus_contract.errors import FoedusError, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.inference_wire import Failure
from foedus_contract.mpc_wire import member_name
from foedus_workloads.transport.frames import LINGER_SECONDS, Clock, Connection, Opened, linger
from foedus_workloads.transport.tls import TlsPaths, is_caller, party_contexts, party_of

HANDSHAKE_SECONDS = 10.0  # a stranger that says nothing occupies one of the few handshakes for so long
HANDSHAKES = 8  # at once; more connections wait in the listener's queue
WAITING_CLIENTS = 16  # beyond that a client is turned away: it would wait for minutes


class Cluster(Protocol):
    """Members that belong together: how their certificates name them, and where they listen."""

    @property
    def namespace(self) -> str:
        """The first part of their names."""
        ...

    @property
    def cluster(self) -> str:
        """The second."""
        ...

    @property
    def addresses(self) -> Mapping[int, tuple[str, int]]:
        """Host and port of each member, by its number."""
        ...


@dataclass(frozen=True)
class PartyPlace:
    """Who a member is: its number, its cluster, where all members listen, and its TLS files."""

    party: int
    namespace: str
    cluster: str
    addresses: Mapping[int, tuple[str, int]]
    files: TlsPaths

    @property
    def neighbours(self) -> tuple[int, ...]:
        """The numbers of the others."""
        return tuple(each for each in self.addresses if each != self.party)


class Reception:
    """The open listener of one party; `close` ends it and every connection that nobody has taken."""

    def __init__(self, place: PartyPlace, clock: Clock = time.monotonic) -> None:
        self._place, self._clock = place, clock
        self._context = party_contexts(place.files)[0]
        self._listener = _listen(place.addresses[place.party])
        self._opened = Opened()
        self._changed = threading.Condition()
        self._neighbours: dict[int, ssl.SSLSocket] = {}
        self._clients: queue.Queue[ssl.SSLSocket | None] = queue.Queue(WAITING_CLIENTS)
        self._free = threading.Semaphore(HANDSHAKES)
        self._handshakes = ThreadPoolExecutor(HANDSHAKES)
        self._closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether it has ended: then nobody waits for neighbours any more."""
        return self._closed

    def client(self) -> Connection | None:
        """Wait for the next client; None once the reception is closed."""
        connection = self._clients.get()
        if connection is None or self._closed:
            return None
        self._opened.hand_on(connection)
        return Connection(connection)

    def forget_neighbours(self) -> None:
        """Drop connections of an earlier session that nobody took."""
        with self._changed:
            stale, self._neighbours = self._neighbours, {}
        for connection in stale.values():
            self._opened.drop(connection)

    def neighbours(self, until: float) -> dict[int, ssl.SSLSocket]:
        """Return each neighbour's connection; raises Unavailable at `until`, naming who has not come."""
        with self._changed:
            while (
                missing := [each for each in self._place.neighbours if each not in self._neighbours]
            ) or self._closed:
                seconds = until - self._clock()
                if self._closed or seconds <= 0:
                    raise absent((missing or [self._place.party])[0])
                self._changed.wait(seconds)
            found, self._neighbours = self._neighbours, {}
        for connection in found.values():
            self._opened.hand_on(connection)
        return found

    def close(self) -> None:
        """Stop listening and end what was not taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends an accept in the other thread
        self._listener.close()
        self._opened.close()
        with suppress(queue.Full):  # a full line is looked at by who is woken by it
            self._clients.put_nowait(None)
        self._thread.join()
        self._handshakes.shutdown()

    def _accept(self) -> None:
        while not self._closed:
            self._free.acquire()
            try:
                raw, _ = self._listener.accept()
            except OSError as error:
                self._free.release()
                if not self._closed and error.errno in _PASSING:
                    time.sleep(_PASSING_SECONDS)
                    continue
                return
            try:
                self._handshakes.submit(self._admit, raw)
            except RuntimeError:  # the pool is closing
                raw.close()
                return

    def _admit(self, raw: socket.socket) -> None:
        try:
            until = self._clock() + HANDSHAKE_SECONDS
            with suppress(OSError):
                self._seat(self._opened.handshake(self._context, raw, server=True, until=until, clock=self._clock))
        finally:
            self._free.release()

    def _seat(self, connection: ssl.SSLSocket) -> None:
        party = party_behind(connection, self._place)
        if party in self._place.neighbours:
            with self._changed:
                before = self._neighbours.pop(party, None)
                self._neighbours[party] = connection  # the newest: an older one is of a session that was given up
                self._changed.notify_all()
            if before is not None:
                self._opened.drop(before)
        elif is_caller(connection.getpeercert(), namespace=self._place.namespace, cluster=self._place.cluster):
            try:
                self._clients.put_nowait(connection)
            except queue.Full:
                self._opened.drop(connection)
        else:
            self._refuse(connection)

    def _refuse(self, connection: ssl.SSLSocket) -> None:
        with suppress(OSError):
            until = self._clock() + LINGER_SECONDS
            Connection(connection).send(_stranger(self._place.party), until=until, clock=self._clock)
            linger(connection, self._clock)
        self._opened.drop(connection)


def _stranger(party: int) -> bytes:
    words = f"{member_name(party)}: the certificate names no client of this cluster; use the one that was issued for it"
    return Failure(blames=party, code=int(ExitCode.IDENTITY_REFUSED), message=words).to_json()


# What an accept may meet without the listener being broken: a peer that went, and no descriptors for a moment.
_PASSING = frozenset({errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.EINTR})
_PASSING_SECONDS = 0.1


def party_behind(connection: ssl.SSLSocket, place: Cluster) -> int:
    """Return the party that the certificate names, -1 for none of this cluster."""
    try:
        certificate = connection.getpeercert()
        return party_of(certificate, namespace=place.namespace, cluster=place.cluster, parties=place.addresses)
    except FoedusError:
        return -1


def absent(party: int) -> Unavailable:
    """Return the error of a member that is not there."""
    return Unavailable("is not there", where=member_name(party), cure="start all members")


def _listen(address: tuple[str, int]) -> socket.socket:
    try:
        return socket.create_server(address, backlog=HANDSHAKES)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise Unavailable(
            f"cannot listen ({os.strerror(error.errno or errno.EIO)})",  # Python's own words repeat the address
            where=f"{address[0]}:{address[1]}",
            cure="try again; end what listens there if it lasts",
            code=ExitCode.ADDRESS_IN_USE if taken else ExitCode.UNAVAILABLE,
        ) from None

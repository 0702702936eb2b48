"""Frames over one TLS connection: `uint32 header length || header || payload`, each read and written by a deadline.

The header's length is bounded before it is read; what its payload may be is known to who reads it, so no length of a
payload travels. A connection is used by one thread at a time.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from foedus_contract import limits

Clock = Callable[[], float]
LINGER_SECONDS = 1.0  # for what a refused peer has sent meanwhile, and for its end
_LENGTH_BYTES = 4
_PIECE = 1 << 20  # bytes handed to OpenSSL at once: between two pieces the deadline is looked at


class Connection:
    """One end of a connection after its handshake."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls

    @property
    def tls(self) -> ssl.SSLSocket:
        """The socket."""
        return self._tls

    def read_header(self, *, until: float, clock: Clock) -> bytes:
        """Read the next header; raises TimeoutError at `until`, OSError when the peer is gone or a length is wrong."""
        prefix = bytearray(_LENGTH_BYTES)
        self.fill(memoryview(prefix), until=until, clock=clock)
        length = int.from_bytes(prefix, "big")
        if length > limits.MAX_HEADER_BYTES:
            raise ConnectionError("the header length is wrong")
        header = bytearray(length)
        self.fill(memoryview(header), until=until, clock=clock)
        return bytes(header)

    def fill(self, view: memoryview, *, until: float, clock: Clock) -> None:
        """Fill `view` with what the peer sends; raises TimeoutError at `until`, OSError when it is gone."""
        while view.nbytes:
            self._tls.settimeout(left(until, clock))
            count = self._tls.recv_into(view)
            if count == 0:
                raise ConnectionError("the connection has ended")
            view = view[count:]

    def send(self, header: bytes, payload: Sequence[memoryview] = (), *, until: float, clock: Clock) -> None:
        """Send a frame; raises TimeoutError at `until`, OSError when the peer is gone."""
        for part in (memoryview(framed(header)), *payload):
            for start in range(0, part.nbytes, _PIECE):
                self._tls.settimeout(left(until, clock))
                self._tls.sendall(part[start : start + _PIECE])

    def stirs(self) -> bool:
        """Tell whether the peer has sent anything or has gone, without waiting.

        For where it has nothing to say: then either is the end. A peer that has gone without a word is not noticed.
        """
        self._tls.settimeout(0)
        try:
            self._tls.recv(1)
        except ssl.SSLWantReadError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """End the connection; another thread that uses it gets an OSError."""
        end(self._tls)


class Opened:
    """Every connection that was begun and not handed on, so that none outlives its owner."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: set[ssl.SSLSocket] = set()
        self._closed = False

    def handshake(
        self, context: ssl.SSLContext, raw: socket.socket, *, server: bool, until: float, clock: Clock
    ) -> ssl.SSLSocket:
        """Return the connection after its handshake; raises OSError."""
        with raw:  # wrapping takes the descriptor over
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.settimeout(left(until, clock))
            connection = context.wrap_socket(raw, server_side=server, do_handshake_on_connect=False)
        with self._lock:
            closed = self._closed
            self._all.add(connection)
        if closed:
            self.drop(connection)
            raise ConnectionAbortedError("nobody wants connections any more")
        try:
            connection.do_handshake()
        except OSError:
            if server:
                linger(connection, clock)
            self.drop(connection)
            raise
        return connection

    def hand_on(self, connection: ssl.SSLSocket) -> None:
        """Leave the connection to somebody else, who closes it."""
        with self._lock:
            self._all.discard(connection)

    def drop(self, connection: ssl.SSLSocket) -> None:
        """End one connection."""
        self.hand_on(connection)
        end(connection)

    def close(self) -> None:
        """End all that are left, and any that is still to come; a handshake in another thread ends with it."""
        with self._lock:
            self._closed = True
            remaining = tuple(self._all)
        for connection in remaining:
            self.drop(connection)


def framed(header: bytes) -> bytes:
    """Return the header behind its length."""
    return len(header).to_bytes(_LENGTH_BYTES, "big") + header


def left(until: float, clock: Clock) -> float:
    """Return the seconds that are left; raises TimeoutError when none are."""
    seconds = until - clock()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def linger(connection: ssl.SSLSocket, clock: Clock) -> None:
    """Let the peer read why it is refused: closed with something unread, a connection is reset and the reason lost."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)  # from here on the bytes that come are not looked at as TLS
        until = clock() + LINGER_SECONDS
        connection.settimeout(left(until, clock))
        while connection.recv(4096):  # whoever goes on sending keeps nobody for longer
            connection.settimeout(left(until, clock))


def end(connection: ssl.SSLSocket) -> None:
    """Close a connection; whoever reads or writes it in another thread gets an error first."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

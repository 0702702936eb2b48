"""The coordinator's side: HTTPS with mutual TLS 1.3; silos connect out, nothing connects to them.

The operator reads pages, and nothing else is open to it.

    POST   /v1/messages   one frame from the silo            204
    GET    /v1/messages   long poll: the next frame          200, or 204 when there was none for a while
    DELETE /v1/messages   the silo leaves                    204
    GET    one of `pages` what the coordinator says of itself 200

403 the identity is refused, 410 superseded, 409 no session (join again), 400 malformed, 408 too slow, 411 no length,
413 too large, 415 encoded, 429 later: a frame of this silo is being read, or too many wait.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web

from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.wire import Join, Message
from foedus_workloads.transport.events import TransportEvent
from foedus_workloads.transport.framing import (
    ACKNOWLEDGE_HEADER,
    COORDINATOR_HEADER,
    INCARNATION_HEADER,
    PATH,
    SEQUENCE_HEADER,
    SESSION_HEADER,
    TooLarge,
    read_frame,
)
from foedus_workloads.transport.sessions import Busy, NoSession, Session, Sessions
from foedus_workloads.transport.tls import is_operator, silo_of

END_SECONDS = 1.0  # an answer that is on its way takes less
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Page = Callable[[], tuple[str, bytes]]  # its content type, and what it says now


@dataclass(frozen=True)
class ServerSettings:
    """Seconds; each bounds what one peer can hold up."""

    poll_seconds: float = 20.0  # below the idle limit of common proxies (30 s and more)
    body_seconds: float = 60.0  # a 64 MiB vector then needs 1.1 MB/s
    # A silo always has a poll open, and dials anew for each: its event loop pauses, a name server answers late.
    silence_seconds: float = 30.0
    handshake_seconds: float = 10.0
    idle_seconds: float = 15.0  # a connection on which no request is under way; headers come in one piece


# A silo's: a poll and a frame, each dialled anew, and those that they replace while these are closing.
MAX_CONNECTIONS = 8


class SiloServer:
    """Receives from and sends to the silos of one job; what happens comes out of `next_event`."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        namespace: str,
        job: str,
        incarnation: int,
        settings: ServerSettings | None = None,
        pages: Mapping[str, Page] | None = None,
    ) -> None:
        self._sessions = sessions
        self._incarnation = incarnation
        self._namespace = namespace
        self._job = job
        self._settings = settings or ServerSettings()
        self._pages = pages or {}
        self._payload_limit = 0
        self._joining: set[str] = set()

    @property
    def present(self) -> frozenset[str]:
        """The silos that are connected now."""
        return self._sessions.present

    def expect_payloads(self, most_bytes: int) -> None:
        """Accept payloads of up to `most_bytes`; until then none is read."""
        self._payload_limit = most_bytes

    def send(self, silo: str, message: Message, payload: bytes = b"") -> None:
        """Queue a frame for the silo; dropped when it is not connected."""
        self._sessions.send(silo, message, payload)

    async def next_event(self, timeout: float | None) -> TransportEvent | None:
        """Return what happened next, or None when nothing did for `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self._sessions.next_event()
        except TimeoutError:
            return None

    @asynccontextmanager
    async def listening(self, host: str, port: int, context: ssl.SSLContext) -> AsyncIterator[tuple[str, int]]:
        """Serve on `host:port` while the block runs; gives the address that was bound."""
        app = web.Application(middlewares=[_answer_errors], client_max_size=1)
        app.on_response_prepare.append(self._sign)
        app.router.add_post(PATH, self._post)
        app.router.add_get(PATH, self._get, allow_head=False)
        app.router.add_delete(PATH, self._delete)
        for path, page in self._pages.items():
            app.router.add_get(path, self._showing(page), allow_head=False)
        # handler_cancellation: a poll whose connection breaks is over, so a dead silo is noticed.
        # shutdown_timeout: who still polls a coordinator that ends is cut off, so that its next process starts soon.
        # keepalive_timeout: it counts from the handshake on, so it also bounds the first request's headers.
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            shutdown_timeout=END_SECONDS,
            keepalive_timeout=self._settings.idle_seconds,
        )
        await runner.setup()
        assert runner.server is not None
        sweeper = asyncio.create_task(self._sweep(runner.server))
        try:
            listener = await self._bind(runner.server, host, port, context)
            try:
                yield listener.sockets[0].getsockname()[:2]
            finally:
                listener.close()
        finally:
            sweeper.cancel()
            await runner.cleanup()

    async def _bind(self, server: web.Server, host: str, port: int, context: ssl.SSLContext) -> asyncio.Server:
        try:
            return await asyncio.get_running_loop().create_server(
                server, host, port, ssl=context, ssl_handshake_timeout=self._settings.handshake_seconds
            )
        except OSError as error:
            code = ExitCode.ADDRESS_IN_USE if error.errno == errno.EADDRINUSE else ExitCode.UNAVAILABLE
            raise Unavailable(
                "the address cannot be bound", where=f"{host}:{port}", cure="free the port or choose another", code=code
            ) from error

    async def _sweep(self, server: web.Server) -> None:
        pause = min(1.0, self._settings.silence_seconds / 4)
        while True:
            await asyncio.sleep(pause)
            self._sessions.lose_silent(self._settings.silence_seconds, pause=pause)
            self._close_surplus(server)

    def _close_surplus(self, server: web.Server) -> None:
        """Close the connections that are too many for one silo, the oldest first: the newest is the live one."""
        count: Counter[str] = Counter()
        for connection in reversed(server.connections):
            if connection.transport is None:
                continue
            try:
                silo = self._silo_of(connection.transport)
            except Refused:  # its request is answered so; such connections count together
                silo = ""
            count[silo] += 1
            if count[silo] > MAX_CONNECTIONS:
                connection.force_close()

    async def _sign(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers[COORDINATOR_HEADER] = str(self._incarnation)

    def _silo(self, request: web.Request) -> str:
        return self._silo_of(request.transport)

    def _silo_of(self, transport: asyncio.BaseTransport | None) -> str:
        silo = silo_of(_certificate(transport), namespace=self._namespace, job=self._job)
        self._sessions.check_silo(silo)
        return silo

    def _session(self, request: web.Request, silo: str) -> Session:
        return self._sessions.find(
            silo,
            session=request.headers.get(SESSION_HEADER, ""),
            incarnation=_number(request, INCARNATION_HEADER),
        )

    async def _post(self, request: web.Request) -> web.StreamResponse:
        silo = self._silo(request)
        sequence = _number(request, SEQUENCE_HEADER)
        if sequence == 0:
            return await self._join(request, silo)
        session = self._session(request, silo)
        if session.posting:
            raise web.HTTPTooManyRequests(text="another frame of this silo is being read")
        self._sessions.check_room(silo)  # before the body takes memory; one body a silo is read at a time
        session.posting = True
        try:
            with self._sessions.request(session):
                message, payload = await self._body(request, payload_limit=self._payload_limit)
        finally:
            session.posting = False
        if isinstance(message, Join) or getattr(message, "silo", None) != silo:
            raise _not_own(silo)
        # Only silo messages carry `silo`, so what passes the check above is one.
        self._sessions.take(silo, session, sequence, message, payload)  # type: ignore[arg-type]
        return web.Response(status=204)

    async def _join(self, request: web.Request, silo: str) -> web.StreamResponse:
        if silo in self._joining:
            raise web.HTTPTooManyRequests(text="another Join of this silo is being read")
        self._sessions.check_room(silo)
        self._joining.add(silo)
        try:
            message, _ = await self._body(request, payload_limit=0)
        finally:
            self._joining.discard(silo)
        if not isinstance(message, Join) or message.silo != silo:
            raise _not_own(silo)
        self._sessions.join(silo, message, session=_session_name(request))
        return web.Response(status=204)

    async def _body(self, request: web.Request, *, payload_limit: int) -> tuple[Message, bytes]:
        if request.headers.get(hdrs.CONTENT_ENCODING):
            raise web.HTTPUnsupportedMediaType(text="a body is sent as it is, without encoding")
        if request.content_length is None:
            raise web.HTTPLengthRequired(text="a body names its length")
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                return await read_frame(
                    request.content.readexactly, request.content_length, payload_limit=payload_limit
                )
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="the body came too slowly") from None
        except asyncio.IncompleteReadError:
            raise InvalidInput("the body ended early", where="frame") from None

    async def _get(self, request: web.Request) -> web.StreamResponse:
        silo = self._silo(request)
        session = self._session(request, silo)
        session.mailbox = session.mailbox.acknowledge(_number(request, ACKNOWLEDGE_HEADER))
        session.polls += 1
        poll = session.polls
        session.news.set()
        with self._sessions.request(session):
            try:
                async with asyncio.timeout(self._settings.poll_seconds):
                    while self._idle(silo, session, poll):
                        session.news.clear()
                        await session.news.wait()
            except TimeoutError:
                pass
        if session.mailbox.first is None or session.polls != poll:
            return web.Response(status=204)
        sequence, frame = session.mailbox.first
        return web.Response(body=frame, headers={SEQUENCE_HEADER: str(sequence)})

    def _idle(self, silo: str, session: Session, poll: int) -> bool:
        return session.mailbox.first is None and session.polls == poll and self._sessions.is_open(silo, session)

    def _showing(self, page: Page) -> Handler:
        async def show(request: web.Request) -> web.StreamResponse:
            if not is_operator(_certificate(request.transport), namespace=self._namespace, job=self._job):
                self._silo(request)
            kind, content = page()
            return web.Response(body=content, headers={hdrs.CONTENT_TYPE: kind})

        return show

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        silo = self._silo(request)
        self._session(request, silo)
        self._sessions.lose(silo)
        return web.Response(status=204)


def _certificate(transport: asyncio.BaseTransport | None) -> Mapping[str, Any] | None:
    return None if transport is None else transport.get_extra_info("peercert")


def _number(request: web.Request, header: str) -> int:
    text = request.headers.get(header, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidInput("a whole number is needed", where=header)
    return int(text)


def _session_name(request: web.Request) -> str:
    name = request.headers.get(SESSION_HEADER, "")
    if not (16 <= len(name) <= 64 and name.isascii() and name.isalnum()):
        raise InvalidInput("16 to 64 letters and digits are needed", where=SESSION_HEADER)
    return name


def _not_own(silo: str) -> Refused:
    return Refused("the frame is not the certificate's own message", where=silo, code=ExitCode.IDENTITY_REFUSED)


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn our errors into status codes with one line of text; everything else is aiohttp's 500."""
    try:
        return await handler(request)
    except FoedusError as error:
        return web.Response(status=_status(error), text=str(error))


def _status(error: FoedusError) -> int:
    if isinstance(error, NoSession):
        return 409
    if isinstance(error, Busy):
        return 429
    if isinstance(error, TooLarge):
        return 413
    if isinstance(error, Refused):
        return 410 if error.code is ExitCode.SUPERSEDED else 403
    return 400 if isinstance(error, InvalidInput) else 500

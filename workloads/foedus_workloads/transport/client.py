"""A silo's side: it connects out, keeps one long poll open as its heartbeat, and posts one frame at a time."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp

from foedus_contract.errors import FoedusError, Unavailable
from foedus_contract.wire import Join, SiloMessage, encode_frame
from foedus_workloads.transport.exchange import Answer, Exchange, Frame
from foedus_workloads.transport.framing import (
    ACKNOWLEDGE_HEADER,
    INCARNATION_HEADER,
    SEQUENCE_HEADER,
    SESSION_HEADER,
)
from foedus_workloads.transport.sessions import NoSession

MAX_WAITING_FRAMES = 32  # frames read ahead of the driver: more than two attempts' worth

TURNED_AWAY_TIMES = 3  # in a row; once may be a coordinator that is just ending


@dataclass(frozen=True)
class LinkSettings:
    """Seconds: how long a coordinator may be out of reach on end, one request, pause between tries."""

    patience_seconds: float = 300.0
    request_seconds: float = 90.0  # above the server's bounds on a poll and a body
    pause_seconds: float = 0.5


@dataclass(frozen=True)
class Rejoined:
    """The session had ended and a new one is open: whatever was under way is void."""


Incoming = Frame | Rejoined


class Patience:
    """How long one request is tried. The time counts from its first failure: a poll may have been open for long."""

    def __init__(self, seconds: float, pause_seconds: float) -> None:
        self._seconds = seconds
        self._pause_seconds = pause_seconds
        self._failing_since: float | None = None

    async def try_again_after(self, error: Unavailable) -> None:
        """Wait before the next try, or raise the error when there have been failures for too long."""
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since > self._seconds:
            raise error
        await asyncio.sleep(self._pause_seconds)


class CoordinatorLink:
    """One silo's connection to its coordinator; `connect` opens it."""

    def __init__(
        self, exchange: Exchange, join: Join, *, entropy: Callable[[int], bytes], settings: LinkSettings
    ) -> None:
        self._exchange = exchange
        self._join = join
        self._entropy = entropy
        self._settings = settings
        self._session = ""
        self._coordinator = 0  # the incarnation that the session is with
        self._sent = 0
        self._seen = 0
        self._joining = asyncio.Lock()
        self._incoming: asyncio.Queue[Incoming | FoedusError] = asyncio.Queue(MAX_WAITING_FRAMES)

    async def receive(self) -> Incoming:
        """Return the next frame, or Rejoined; raises Unavailable or Refused when the link cannot be kept."""
        return _opened(await self._incoming.get())

    def receive_now(self) -> Incoming | None:
        """Return what has already arrived, or None; raises as `receive` does."""
        return None if self._incoming.empty() else _opened(self._incoming.get_nowait())

    async def send(self, message: SiloMessage, payload: bytes = b"") -> None:
        """Deliver one frame exactly once; when the session ends on the way, the frame is void and dropped."""
        session = self._session
        self._sent += 1
        headers = {SEQUENCE_HEADER: str(self._sent)}
        try:
            await self._patiently(session, "POST", headers, encode_frame(message, payload))
        except NoSession:
            await self._rejoin(session)

    async def leave(self) -> None:
        """Say goodbye so that the coordinator need not wait; best effort."""
        with suppress(FoedusError):
            await self._once(self._session, "DELETE", {}, None)

    async def meets_newer(self, incarnation: int) -> bool:
        """Ask once who is at the address now, and join there when it is a newer coordinator than `incarnation`."""
        with suppress(FoedusError):  # without a session there is none to be found: only who answers counts
            await self._once("", "GET", {ACKNOWLEDGE_HEADER: "0"}, None)
        if self._exchange.newest <= incarnation:
            return False
        if self._coordinator <= incarnation:
            await self._rejoin(self._session)
        return True

    async def join(self) -> None:
        """Open the session, waiting for a coordinator that is not up yet."""
        await self._open_session()

    async def keep_polling(self) -> None:
        """Keep a poll open for as long as the link lives; a fault comes out of `receive`."""
        try:
            while True:
                await self._poll()
        except FoedusError as error:
            await self._incoming.put(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, a reader waits and would wait for ever
            await self._incoming.put(FoedusError(f"{type(error).__name__} while polling; please report it"))

    async def _poll(self) -> None:
        session = self._session
        try:
            answer = await self._patiently(session, "GET", {ACKNOWLEDGE_HEADER: str(self._seen)}, None)
        except NoSession:
            await self._rejoin(session)
            return
        if answer is None or session != self._session:
            return
        sequence, frame = answer
        if sequence == self._seen + 1:
            self._seen = sequence
            await self._incoming.put(frame)

    async def _rejoin(self, ended: str) -> None:
        """Open a new session, unless that has happened since `ended` was in use."""
        async with self._joining:
            if self._session != ended:
                return
            await self._open_session()
        await self._incoming.put(Rejoined())

    async def _open_session(self) -> None:
        session = self._entropy(16).hex()
        body = encode_frame(self._join)
        patience = self._patience()
        turned_away = 0
        while True:
            try:
                await self._once(session, "POST", {SEQUENCE_HEADER: "0"}, body)
                break
            except Unavailable as error:
                turned_away = turned_away + 1 if await self._is_turned_away(error) else 0
                if turned_away == TURNED_AWAY_TIMES:
                    raise self._exchange.turned_away() from None
                await patience.try_again_after(error)
        self._session, self._coordinator = session, self._exchange.newest
        self._sent = self._seen = 0

    async def _is_turned_away(self, error: Unavailable) -> bool:
        if isinstance(error, NoSession):  # the coordinator has answered: an earlier process is still connected
            return False
        try:
            return await self._exchange.is_turned_away()
        except Unavailable:
            return False

    async def _patiently(self, session: str, method: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        patience = self._patience()
        while True:
            try:
                return await self._once(session, method, headers, body)
            except NoSession:
                raise
            except Unavailable as error:
                await patience.try_again_after(error)

    def _patience(self) -> Patience:
        return Patience(self._settings.patience_seconds, self._settings.pause_seconds)

    async def _once(self, session: str, method: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        identity = {SESSION_HEADER: session, INCARNATION_HEADER: str(self._join.incarnation)}
        return await self._exchange.request(method, {**identity, **headers}, body)


@asynccontextmanager
async def connect(
    address: Callable[[], tuple[str, int]],
    join: Join,
    *,
    hostname: str,
    context: ssl.SSLContext,
    entropy: Callable[[int], bytes],
    settings: LinkSettings | None = None,
) -> AsyncIterator[CoordinatorLink]:
    """Join the coordinator and keep polling it while the block runs; leaves at the end."""
    settings = settings or LinkSettings()
    # auto_decompress off: nothing is compressed here, and a small body must not become a large one.
    # force_close: each request dials anew, so it reaches the coordinator that the address leads to now, not an old one.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as http:
        exchange = Exchange(http, address, hostname, context, settings.request_seconds)
        link = CoordinatorLink(exchange, join, entropy=entropy, settings=settings)
        await link.join()
        polling = asyncio.create_task(link.keep_polling())
        try:
            yield link
        finally:
            polling.cancel()
            await asyncio.wait([polling])
            await link.leave()


def _opened(item: Incoming | FoedusError) -> Incoming:
    if isinstance(item, FoedusError):
        raise item
    return item

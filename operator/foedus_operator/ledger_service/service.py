"""The service's HTTPS: TLS 1.3, bounded requests, a deadline for each answer, faults as typed bodies.

Nothing of a request is logged but what was asked for and how it ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from foedus_contract.errors import FoedusError, InvalidInput, Unavailable, describe_defect
from foedus_contract.exit_codes import ExitCode
from foedus_contract.ledger_wire import (
    BUDGET_PATH,
    CHARGES_PATH,
    INCARNATIONS_PATH,
    MAX_REQUEST_BYTES,
    SERVICE_SECONDS,
    ChargeRequest,
    Fault,
)
from foedus_contract.models import ContractModel
from foedus_contract.pages import HEALTH, METRICS, READY
from foedus_operator.api_server import ApiServer
from foedus_operator.ledger_service.config import Config
from foedus_operator.ledger_service.desk import Desk
from foedus_operator.serving import Readers, bearer_token, reviewed_by, server_context

AT_ONCE = 64  # requests that are worked on; each costs the API server a token review and some reads
Work = Callable[[str, bytes], Awaitable[ContractModel]]  # of a token and a body

_logger = logging.getLogger(__name__)


class Service:
    """The handlers around a desk, and what they count."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._desk = Desk(server)
        self._places = asyncio.Semaphore(AT_ONCE)
        self.registry = CollectorRegistry()
        self._ended = Counter(
            "foedus_ledger_requests", "Requests by how they ended", ["what", "outcome"], registry=self.registry
        )
        self._seconds = Histogram(
            "foedus_ledger_request_seconds", "How long requests took", ["what"], registry=self.registry
        )

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_get(BUDGET_PATH, self._answering("read", self._read))
        app.router.add_post(CHARGES_PATH, self._answering("charge", self._charge))
        app.router.add_post(INCARNATIONS_PATH, self._answering("claim", self._claim))
        app.router.add_get(HEALTH, _healthy)
        app.router.add_get(READY, self._ready)
        app.router.add_get(METRICS, Readers(reviewed_by(self._server)).only(self._metrics))
        return app

    async def _read(self, token: str, _: bytes) -> ContractModel:
        return await self._desk.read(token)

    async def _charge(self, token: str, body: bytes) -> ContractModel:
        return await self._desk.charge(token, ChargeRequest.from_json(body))

    async def _claim(self, token: str, _: bytes) -> ContractModel:
        return await self._desk.claim(token)

    def _answering(self, what: str, work: Work) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Return the handler that answers with what `work` returns, or with the fault that it ends in."""

        async def answer(request: web.Request) -> web.Response:
            with self._seconds.labels(what).time():
                try:
                    async with asyncio.timeout(SERVICE_SECONDS):
                        body = await _body(request)  # before a place is taken: who sends slowly keeps nobody waiting
                        async with self._places:
                            made, outcome, status = await work(bearer_token(request), body), "OK", 200
                except FoedusError as error:
                    made, outcome, status = Fault.of(error), error.code.name, _status(error)
                except TimeoutError:
                    late = Unavailable("the API server takes too long", where="ledger service", cure="try again")
                    made, outcome, status = Fault.of(late), late.code.name, 503
                except Exception as error:  # noqa: BLE001 - the process's border: a defect becomes a typed answer
                    _logger.error("%s: %s", what, describe_defect(error))
                    defect = Fault(code=ExitCode.INTERNAL, what="internal error", where="ledger service")
                    made, outcome, status = defect, defect.code.name, 500
            self._ended.labels(what, outcome).inc()
            return web.Response(status=status, body=made.to_json(), content_type="application/json")

        return answer

    async def _ready(self, _: web.Request) -> web.Response:
        try:
            await self._server.text("GET", "/readyz")
        except FoedusError:
            return web.Response(status=503, text="the API server does not answer")
        return web.Response(text="ok")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise InvalidInput(f"the request is larger than {MAX_REQUEST_BYTES} bytes") from None


def _status(error: FoedusError) -> int:
    if error.code.retryable:
        return 503
    if error.code is ExitCode.IDENTITY_REFUSED:
        return 403
    return 400 if isinstance(error, InvalidInput) else 409


@asynccontextmanager
async def serve(server: ApiServer, config: Config) -> AsyncIterator[int]:
    """Answer meanwhile on the port (0: any), which is yielded. Who asks shows a token, not a certificate."""
    async with server_context(config.files) as context:
        runner = web.AppRunner(Service(server).app(), access_log=None, keepalive_timeout=SERVICE_SECONDS)
        await runner.setup()
        try:
            # Every address: the pods of all jobs ask, and the kubelet.
            await web.TCPSite(runner, "0.0.0.0", config.port, ssl_context=context).start()  # noqa: S104
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

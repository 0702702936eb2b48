"""What a kubelet asks of a pod: over TLS 1.3 without a certificate of its own, answered with one word."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from foedus_contract.pages import HEALTH, READY

IDLE_SECONDS = 15.0  # a connection on which no request comes
END_SECONDS = 1.0


@asynccontextmanager
async def answering_probes(
    host: str, port: int, context: ssl.SSLContext, is_well: Callable[[], bool]
) -> AsyncIterator[int]:
    """Answer on the port (0: any) meanwhile; yields the port."""

    async def answer(_: web.Request) -> web.Response:
        well = is_well()
        return web.Response(status=200 if well else 503, text="ok" if well else "not healthy")

    app = web.Application(client_max_size=0)
    app.router.add_get(HEALTH, answer)
    app.router.add_get(READY, answer)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=IDLE_SECONDS, shutdown_timeout=END_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()

"""kopf's watches as this operator runs them: what it may hold in memory, and how a dead one is found out.

Nothing else of kopf is used; `handlers` says what becomes of an event.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import kopf
from kubernetes.aio import client as kubernetes

from foedus_contract.errors import Unavailable
from foedus_engine import names
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import Busy, NotFound
from foedus_operator.api_server import ApiServer
from foedus_operator.census import Census
from foedus_operator.handlers import JOBS, Watched, build_registry
from foedus_operator.listed import Listed

# A session is made anew long before a projected ServiceAccount token, which lives for an hour, has to be exchanged.
LOGIN_SECONDS = 600.0
# Peers are not looked for, but without a name kopf asks who the user is, and the user of a pod has no name.
PEER: Any = names.OPERATOR
FINALIZER = f"{names.API_GROUP}/finalizer"  # never set; pinned, since a change later would touch every object
# kopf gives each object a task that waits so long for its next event, and the task holds the object's body: with kopf's
# 5 s, a list of ten thousand jobs is in memory as a whole. An event that comes later starts a task again.
IDLE_SECONDS = 0.05
# A page of a list is held as text, as JSON and as bodies until each has its task; at 2 KiB an object a list of ten
# thousand takes a hundred requests.
LIST_PAGE = 100
# An API server that is away is asked again for a day: kopf would give up within a minute, and who stands by would be
# gone when it comes back. Who leads has lost the lease long before.
ERROR_BACKOFFS = (1, 1, 2, 3, *[5] * (24 * 3600 // 5))
ASK_AGAIN_SECONDS = 2.0
WATCH_SECONDS = 120  # then a watch goes on with a new request: a dozen of those in two minutes cost nothing

_logger = logging.getLogger(__name__)


class _Stateless(kopf.DiffBaseStorage):
    """Nothing of an object is remembered: kopf would copy each body, to compare it with what no handler asks for."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass


async def check_kinds(server: ApiServer, watched: Sequence[Watched]) -> None:
    """Raise Unavailable unless the API server serves every kind: kopf passes over one that it does not find.

    One that does not answer is asked again.
    """
    for place in sorted({kind.path.rpartition("/")[0] for kind in watched}):
        found = await _served(server, place)
        for kind in watched:
            root, _, plural = kind.path.rpartition("/")
            if root == place and plural not in found:
                cure = "install the chart, which brings the kinds of Foedus; the operator starts again by itself"
                raise Unavailable("the API server does not serve this kind", where=kind.path, cure=cure)


async def _served(server: ApiServer, place: str) -> set[str]:
    """Return the plurals of the kinds that the API server has in a group."""
    while True:
        try:
            return {each["name"] for each in (await server.request("GET", place)).get("resources", ())}
        except NotFound:
            return set()
        except Busy as error:
            _logger.warning("%s; again in %.0f s", error, ASK_AGAIN_SECONDS)
            await asyncio.sleep(ASK_AGAIN_SECONDS)


async def run_watches(
    feed: KeyFeed,
    watched: Sequence[Watched],
    configuration: kubernetes.Configuration,
    *,
    pulse: Callable[[], None] = lambda: None,
    answered: Callable[[str], None] = lambda _path: None,
    started: Callable[[], None] = lambda: None,
    listed: Listed | None = None,
    census: Census | None = None,
    namespaces: Sequence[str] = (),
) -> None:
    """Tell `feed` of every event until cancelled, in all namespaces or in these.

    `pulse` hears that events arrive, `answered` the path of each list and watch that the API server has granted: every
    watch is asked for again after WATCH_SECONDS, so one that is not heard of for long is dead. Bodies of jobs that
    need not be read again go into `listed`, and pages of a list are asked for as fast as it has room.

    `started` is called once kopf runs: it has taken SIGTERM and SIGINT, and this is the time to take them back.

    Raises Unavailable when kopf ends by itself. kopf's own `operator()` is not used: at its end it cancels every task
    of the event loop, ours too.
    """
    listed, census = listed or Listed(), census or Census()
    async with AsyncExitStack() as sessions:

        async def log_in(**_: Any) -> kopf.AiohttpSession:
            made = await make_session(configuration, _trace(answered, listed))
            await sessions.enter_async_context(made.aiohttp_session)
            return made

        tasks = await kopf.spawn_tasks(
            registry=build_registry(feed, watched, log_in, pulse, listed, census),
            settings=build_settings(watched),
            identity=PEER,
            clusterwide=not namespaces,
            namespaces=list(namespaces),
        )
        started()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = next((task.exception() for task in done if not task.cancelled()), None)
            raise Unavailable("the watches have ended", cure="see the log before") from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def build_settings(watched: Sequence[Watched]) -> kopf.OperatorSettings:
    """Return kopf's settings; what is not said is kopf's default."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # the Lease decides who leads; peering has no fencing
    settings.scanning.disabled = True  # our CRDs come with the chart: no right to list CRDs and namespaces is needed
    settings.posting.enabled = False  # Events are ours, from a closed list
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 60  # belt and braces beside the inactivity timeout of 70 s
    settings.watching.chunk_size = LIST_PAGE
    settings.queueing.idle_timeout = IDLE_SECONDS
    settings.networking.error_backoffs = ERROR_BACKOFFS
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.persistence.consistency_timeout = 10
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.API_GROUP)
    settings.persistence.diffbase_storage = _Stateless()
    settings.execution.max_workers = 64  # handlers are asynchronous; a safety net
    settings.execution.default_backoff = 15
    settings.posting.level = logging.WARNING
    settings.process.ultimate_exiting_timeout = 45
    settings.admission.managed = None  # the chart owns admission
    for kind in watched:
        selector = (kind.group, kind.version, kind.plural)
        if kind.label:
            settings.watching.label_selectors[selector] = kind.label
        if kind.only:
            settings.watching.field_selectors[selector] = f"metadata.name={kind.only}"
    return settings


async def make_session(configuration: kubernetes.Configuration, trace: aiohttp.TraceConfig) -> kopf.AiohttpSession:
    """Return a session with the credentials as they are now, over TLS 1.3."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    token = await configuration.get_api_key_with_prefix("BearerToken")
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=0),
        headers={"Authorization": token} if token else {},
        trace_configs=[trace],
    )
    return kopf.AiohttpSession(
        server=configuration.host,
        aiohttp_session=session,
        expiration=datetime.now(UTC) + timedelta(seconds=LOGIN_SECONDS),
    )


def _trace(answered: Callable[[str], None], listed: Listed) -> aiohttp.TraceConfig:
    """Return what stands between kopf and the network."""

    async def wait_for_room(_session: Any, _context: Any, asked: aiohttp.TraceRequestStartParams) -> None:
        if asked.url.path == JOBS.path and "continue" in asked.url.query:
            await listed.room()

    async def tell(_session: Any, _context: Any, done: aiohttp.TraceRequestEndParams) -> None:
        if done.response.status < 400:
            answered(done.url.path)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(wait_for_room)
    trace.on_request_end.append(tell)
    return trace

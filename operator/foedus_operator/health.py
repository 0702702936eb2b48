"""What a kubelet and a monitoring system ask: `/health`, `/ready`, `/metrics`, `/privacy/status`, `/security/status`.

Whoever reaches the port learns from the first two whether all is well; the other three are for whom RBAC lets `get`
their paths. Even so nothing here names a job, a budget, a silo or a person.

Health fails when a restart helps: this process leads and its watches are dead, or its election is stuck; or it stands
by and one of its watches is dead while others live. One that stands by during an outage is healthy: it has nothing that
a new one would have sooner.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from foedus_contract.pages import HEALTH, METRICS, PRIVACY, READY, SECURITY
from foedus_operator.census import Census, PrivacyStatus, SecurityStatus
from foedus_operator.serving import Readers, Review, ServerFiles, server_context

# The lease that this process renews every 2 s is watched, too: its news are the canary of all watches. kopf gives a
# silent stream up after 70 s.
SILENCE_SECONDS = 180.0
WATCH_SECONDS = 360.0  # each watch is asked for anew every 120 s; a list of ten thousand jobs before it takes a minute

_logger = logging.getLogger(__name__)


@dataclass
class Health:
    """What this process knows of itself. Times are the clock's."""

    clock: Callable[[], float]
    leads: Callable[[], bool]
    led: bool = False  # it has the lease and acts, from then to its end
    transitions_seen: int = 0  # of the lease
    last_news: float = 0.0
    watches: dict[str, float] = field(default_factory=dict)  # by path: when it was last granted
    census: Census = field(default_factory=Census)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.leader = Gauge("foedus_operator_leader", "1 while this process holds the lease", registry=self.registry)
        self.leader.set_function(lambda: float(self.leads()))
        self.transitions = Gauge(
            "foedus_operator_lease_transitions", "How often the lease has changed hands", registry=self.registry
        )
        self.transitions.set_function(lambda: float(self.transitions_seen))
        self.news = Counter("foedus_operator_watch_events", "Events that the watches brought", registry=self.registry)
        self.faults = Counter(
            "foedus_operator_reconcile_faults", "Passes that ended in an error", ["error"], registry=self.registry
        )
        self.pages = Counter(
            "foedus_operator_coordinator_pages",
            "Coordinators asked how far they are, and whether they answered",
            ["answered"],
            registry=self.registry,
        )

    def start(self, watches: Iterable[str]) -> None:
        """Begin to watch: from now on one watch that is not granted again, as others are, is a fault."""
        self.watches = dict.fromkeys(watches, self.clock())

    def lead(self, transitions: int) -> None:
        """Begin to lead: from now on silence, that of any one of the watches, and a lost lease are faults."""
        self.led = True
        self.transitions_seen = transitions
        self.last_news = self.clock()
        self.start(self.watches)

    def answered(self, watch: str) -> None:
        """Take note that the API server has granted a watch, or a page of the list before it."""
        if watch in self.watches:
            self.watches[watch] = self.clock()

    def pulse(self) -> None:
        """Take note of an event from a watch."""
        self.last_news = self.clock()
        self.news.inc()

    def heard(self, answered: bool) -> None:
        """Take note that a coordinator was asked, and whether it answered; else its log is read."""
        self.pages.labels(str(answered).lower()).inc()

    def privacy(self) -> PrivacyStatus:
        """Return how many jobs and budgets are in which state; of two processes one counts them."""
        if not self.leads():
            return PrivacyStatus(leads=False, jobs={}, budgets={})
        return PrivacyStatus(leads=True, jobs=self.census.jobs(), budgets=self.census.budgets())

    def security(self) -> SecurityStatus:
        """Return what tells whether this process acts alone, and hears of everything."""
        faults = {
            sample.labels["error"]: int(sample.value)
            for sample in next(iter(self.faults.collect())).samples
            if sample.name.endswith("_total")
        }
        return SecurityStatus(
            leads=self.leads(),
            lease_transitions=self.transitions_seen,
            least_tls="1.3",
            watches=len(self.watches),
            dead_watches=tuple(watch for watch, silent in self._silences() if silent > WATCH_SECONDS),
            faults=faults,
        )

    def _silences(self) -> Iterator[tuple[str, float]]:
        # Who stands by hears nothing for long when the API server is away, which is no fault of a watch.
        now = self.clock() if self.led else max(self.watches.values(), default=0.0)
        return ((watch, now - last) for watch, last in self.watches.items())

    def problem(self) -> str:
        """Return why this process should be started anew; empty when it should not."""
        if self.led and not self.leads():
            return "the lease is lost"
        silent = self.clock() - self.last_news
        if self.led and silent > SILENCE_SECONDS:
            return f"the watches have been silent for {silent:.0f} s"
        for watch, silent in self._silences():
            if silent > WATCH_SECONDS:
                return f"the watch of {watch} has been dead for {silent:.0f} s"
        return ""


@asynccontextmanager
async def serve(health: Health, port: int, review: Review, files: ServerFiles | None = None) -> AsyncIterator[int]:
    """Answer on `port` (0: any) meanwhile; yields the port. Without a certificate only this machine is answered."""
    runner = web.AppRunner(_app(health, Readers(review)), access_log=None)
    await runner.setup()
    try:
        async with AsyncExitStack() as stack:
            if files is None:
                site = web.TCPSite(runner, "127.0.0.1", port)
            else:
                context = await stack.enter_async_context(server_context(files))
                site = web.TCPSite(runner, "0.0.0.0", port, ssl_context=context)  # noqa: S104 - the kubelet asks
            await site.start()
            yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _app(health: Health, readers: Readers) -> web.Application:
    async def check(_: web.Request) -> web.Response:
        if problem := health.problem():
            _logger.warning("not healthy: %s", problem)  # whoever asks learns that it is so, and no more
        return web.Response(status=503 if problem else 200, text="not healthy" if problem else "ok")

    async def privacy(_: web.Request) -> web.Response:
        return _page(health.privacy())

    async def security(_: web.Request) -> web.Response:
        return _page(health.security())

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(health.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(client_max_size=0)
    app.router.add_get(HEALTH, check)
    app.router.add_get(READY, check)
    app.router.add_get(METRICS, readers.only(metrics))
    app.router.add_get(PRIVACY, readers.only(privacy))
    app.router.add_get(SECURITY, readers.only(security))
    return app


def _page(page: PrivacyStatus | SecurityStatus) -> web.Response:
    return web.Response(text=page.model_dump_json(by_alias=True), content_type="application/json")

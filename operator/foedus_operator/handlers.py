"""kopf watches, and puts the keys of what changed into the feed: nothing else of kopf is used.

`on.event` keeps no state in the objects: no finalizer, no annotation, no patch. What is to be done is decided by the
loop from what it reads, so an event that comes twice, late or never costs nothing but time.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import kopf
from kubernetes.aio import client as kubernetes

from foedus_contract.errors import Unavailable
from foedus_engine import names
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.ending import is_at_rest
from foedus_engine.decide.plan import ObjectKey

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


@dataclass(frozen=True)
class Watched:
    """One kind whose changes are news: those of its objects that bear `label`, or the one of the name `only`."""

    group: str
    version: str
    plural: str
    label: str = ""
    only: str = ""


GROUP, _, VERSION = names.API_VERSION.partition("/")
JOBS = Watched(GROUP, VERSION, "federatedtrainingjobs")
# Children are watched by their label, so that the cluster's other pods and Secrets are never read.
WATCHED: Sequence[Watched] = (
    JOBS,
    Watched("batch", "v1", "jobs", names.JOB_LABEL),
    Watched("", "v1", "pods", names.JOB_LABEL),
    Watched("", "v1", "configmaps", names.JOB_LABEL),
    Watched("", "v1", "services", names.JOB_LABEL),
    Watched("", "v1", "persistentvolumeclaims", names.JOB_LABEL),
    Watched("", "v1", "serviceaccounts", names.JOB_LABEL),
    Watched("networking.k8s.io", "v1", "networkpolicies", names.JOB_LABEL),
    Watched("policy", "v1", "poddisruptionbudgets", names.JOB_LABEL),
    Watched(GROUP, VERSION, "privacybudgets"),
)


async def run_watches(
    feed: KeyFeed,
    watched: Sequence[Watched],
    configuration: kubernetes.Configuration,
    *,
    pulse: Callable[[], None] = lambda: None,
    started: Callable[[], None] = lambda: None,
    namespaces: Sequence[str] = (),
) -> None:
    """Tell `feed` of every event until cancelled, in all namespaces or in these; `pulse` hears that events arrive.

    `started` is called once kopf runs: it has taken SIGTERM and SIGINT, and this is the time to take them back.

    Raises Unavailable when kopf ends by itself. kopf's own `operator()` is not used: at its end it cancels every task
    of the event loop, ours too.
    """
    async with AsyncExitStack() as sessions:

        async def log_in(**_: Any) -> kopf.AiohttpSession:
            made = await make_session(configuration)
            await sessions.enter_async_context(made.aiohttp_session)
            return made

        tasks = await kopf.spawn_tasks(
            registry=build_registry(feed, watched, log_in, pulse),
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


def build_registry(
    feed: KeyFeed,
    watched: Sequence[Watched],
    log_in: Callable[..., Awaitable[kopf.AiohttpSession]],
    pulse: Callable[[], None],
) -> kopf.OperatorRegistry:
    """Return one handler a kind, and the login."""
    registry = kopf.OperatorRegistry()

    async def notice(body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002 - kopf names it so
        pulse()
        if type != "DELETED" and is_at_rest(body):
            return  # ten thousand suspended jobs would be read at each start, and once more after each status
        feed.notice(body)
        for key in (*keys_of_job(body), *(keys_of_budgets(body) if type == "DELETED" else ())):
            feed.add(key)

    for kind in watched:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(notice)
    kopf.on.login(registry=registry)(log_in)
    return registry


def keys_of_job(body: Object) -> Sequence[ObjectKey]:
    """Return the training job that an object's label names; a pod's owner is a Job, so the label is what leads on."""
    meta = body["metadata"]
    job = meta.get("labels", {}).get(names.JOB_LABEL)
    return [ObjectKey(names.API_VERSION, names.TRAINING_KIND, meta["namespace"], job)] if job else []


def keys_of_budgets(body: Object) -> Sequence[ObjectKey]:
    """Return the budgets of a training job: when it is gone, what it had reserved is given back."""
    clients = body.get("spec", {}).get("clients", ())
    budgets = {client.get("budgetRef", {}).get("name", "") for client in clients} - {""}
    place = body["metadata"]["namespace"]
    return [ObjectKey(names.API_VERSION, names.BUDGET_KIND, place, budget) for budget in sorted(budgets)]


def build_settings(watched: Sequence[Watched]) -> kopf.OperatorSettings:
    """Return kopf's settings; what is not said is kopf's default."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # the Lease decides who leads; peering has no fencing
    settings.scanning.disabled = True  # our CRDs come with the chart: no right to list CRDs and namespaces is needed
    settings.posting.enabled = False  # Events are ours, from a closed list
    settings.watching.client_timeout = 600  # belt and braces beside the inactivity timeout of 70 s
    settings.watching.chunk_size = LIST_PAGE
    settings.queueing.idle_timeout = IDLE_SECONDS
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.persistence.consistency_timeout = 10
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.API_GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=names.API_GROUP)
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


async def make_session(configuration: kubernetes.Configuration) -> kopf.AiohttpSession:
    """Return a session with the credentials as they are now, over TLS 1.3."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    token = await configuration.get_api_key_with_prefix("BearerToken")
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=0), headers={"Authorization": token} if token else {}
    )
    return kopf.AiohttpSession(
        server=configuration.host,
        aiohttp_session=session,
        expiration=datetime.now(UTC) + timedelta(seconds=LOGIN_SECONDS),
    )

"""What a coordinator says of its job on its own page, over mutual TLS; the pod's log where the page is not to be had.

Adversary: whoever answers at the pod's address, or stands in between. The operator shows the certificate that the
job's authority made for it, and listens only to who shows the coordinator's of the same authority. What it learns is
public (`foedus_contract.progress`), has a size limit and a deadline, and is read as the lines of a log are.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import aiohttp

from foedus_contract.errors import FoedusError
from foedus_contract.pages import PROGRESS
from foedus_engine import names
from foedus_engine.cluster.pods import MAX_PROGRESS_LINE, decode_content
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.observed import Progress
from foedus_engine.decide.plan import ObjectKey
from foedus_engine.decide.pod_state import has_started, is_live
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import Reports, path_of
from foedus_operator.pod_logs import PodLogs, event_of
from foedus_operator.silence import Silence

PAGE_SECONDS = 3.0  # a coordinator answers in milliseconds, also while it computes
SILENT_SECONDS = 60.0  # one that does not answer is asked again after this
MAX_PAGE_BYTES = 8 * MAX_PROGRESS_LINE  # there are six kinds of events
MAX_PAGES = 16  # read at a time
MAX_CONTEXTS = 1024  # of the coordinators that run; one more costs the reading of a Secret a pass
IDLE_SECONDS = 10.0  # below the 15 s after which a coordinator closes an idle connection


class CoordinatorPages:
    """Reads the progress of coordinators from them, of other pods and where that fails from their logs."""

    def __init__(
        self,
        server: ApiServer,
        session: aiohttp.ClientSession,
        logs: Reports,
        heard: Callable[[bool], None],
        *,
        port: int = names.COORDINATOR_PORT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._session = session
        self._logs = logs
        self._heard = heard
        self._port = port
        self._contexts: OrderedDict[str, ssl.SSLContext] = OrderedDict()  # by the pod's UID
        self._silence = Silence(SILENT_SECONDS, clock)  # of pods
        self._reads = asyncio.Semaphore(MAX_PAGES)

    async def read(self, pod: Object) -> tuple[Progress, ...]:
        """Return what the pod has reported so far, as far as it or its node answers."""
        told = None
        if _is_coordinator(pod) and not self._silence.covers(pod["metadata"]["uid"]):
            told = await self._ask(pod)
            self._heard(told is not None)
        return await self._logs.read(pod) if told is None else told

    async def _ask(self, pod: Object) -> tuple[Progress, ...] | None:
        """Return what a coordinator's page says; None when there is no page to be had."""
        uid = pod["metadata"]["uid"]
        try:
            async with self._reads, asyncio.timeout(PAGE_SECONDS):
                page = await self._page(pod, await self._context(pod))
        except TimeoutError:
            self._silence.begin(uid)
            return None
        except (aiohttp.ClientError, OSError, FoedusError, ValueError):
            self._contexts.pop(uid, None)  # it may have been made of a Secret that is mended
            return None
        if page is None:
            return None
        return tuple(event for event in map(event_of, page.splitlines()) if event is not None)

    async def _page(self, pod: Object, context: ssl.SSLContext) -> bytes | None:
        """Return what the page holds; None when the coordinator has none: it may be older than this operator."""
        address, meta = pod["status"]["podIP"], pod["metadata"]
        host = f"[{address}]" if ":" in address else address
        name = names.coordinator_dns_names(meta["namespace"], meta["labels"][names.JOB_LABEL])[-1]
        async with self._session.get(
            f"https://{host}:{self._port}{PROGRESS}", ssl=context, server_hostname=name, allow_redirects=False
        ) as answer:
            if answer.status != 200:
                return None
            content = bytearray()
            async for block in answer.content.iter_any():
                content += block
                if len(content) > MAX_PAGE_BYTES:
                    raise ValueError("too long")
        return bytes(content)

    async def _context(self, pod: Object) -> ssl.SSLContext:
        """Return how to speak to the pod. It has read its own certificate at its start, and keeps to it."""
        uid, meta = pod["metadata"]["uid"], pod["metadata"]
        if uid in self._contexts:
            self._contexts.move_to_end(uid)
            return self._contexts[uid]
        secret = ObjectKey("v1", "Secret", meta["namespace"], names.operator_secret(meta["labels"][names.JOB_LABEL]))
        context = client_context(decode_content(await self._server.request("GET", path_of(secret))))
        self._contexts[uid] = context
        while len(self._contexts) > MAX_CONTEXTS:
            self._contexts.popitem(last=False)
        return context


@asynccontextmanager
async def hearing_coordinators(server: ApiServer, heard: Callable[[bool], None]) -> AsyncIterator[CoordinatorPages]:
    """Yield what reads the pages of coordinators, and the logs of other pods through `server`.

    `heard` is told of each coordinator that is asked whether it has answered.
    """
    connector = aiohttp.TCPConnector(keepalive_timeout=IDLE_SECONDS)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, cookie_jar=jar) as session:
        yield CoordinatorPages(server, session, PodLogs(server), heard)


def client_context(secret: Mapping[str, bytes]) -> ssl.SSLContext:
    """Return the context of a leaf: TLS 1.3 at least, its authority alone, and the server's name is checked.

    Raises ValueError for a Secret that holds no certificate and key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it asks for a certificate, and checks its name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=secret[names.CA_CERTIFICATE_KEY].decode("ascii"))
        with _in_memory(secret[names.CERTIFICATE_KEY] + secret[names.PRIVATE_KEY_KEY]) as path:
            context.load_cert_chain(path, password="")
    except (KeyError, ssl.SSLError) as error:
        raise ValueError(type(error).__name__) from None
    return context


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Yield the path of a file that lies on no volume: OpenSSL reads keys from files only."""
    file = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(content)
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)


def _is_coordinator(pod: Object) -> bool:
    """Tell whether the pod is a coordinator that may answer by now; one that is over has left its log."""
    labels, status = pod["metadata"].get("labels", {}), pod.get("status", {})
    role, known = labels.get(names.COMPONENT_LABEL), names.JOB_LABEL in labels and "podIP" in status
    return role == names.COORDINATOR_ROLE and known and is_live(pod) and has_started(pod)

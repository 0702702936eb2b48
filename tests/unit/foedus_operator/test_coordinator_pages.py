"""A coordinator's page, read over real TLS from the coordinator's own server; where it does not answer, the log."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from foedus_contract.identities import operator_uri
from foedus_contract.progress import Preparing
from foedus_engine.cluster.protocol import NotFound
from foedus_engine.decide.plan import ContentRequest, ObjectKey
from foedus_engine.pki import make_authority, make_leaf
from foedus_operator import coordinator_pages
from foedus_operator.coordinator_pages import MAX_PAGE_BYTES, CoordinatorPages
from foedus_workloads.transport.server import SiloServer
from foedus_workloads.transport.sessions import Sessions
from foedus_workloads.transport.tls import TlsPaths, server_context

ISSUER = ObjectKey("v1", "Secret", "team", "demo-ca")
DAY = 86_400
PLAN, CODE = "sha256:" + "a" * 64, "sha256:" + "c" * 64
LINES = b'{"event":"Preparing","what":"loading"}\n{"event":"Unknown"}\nno event\n'
PAGE = (Preparing(what="loading"),)
LOG = (Preparing(what="as the log says"),)

Files = dict[str, bytes]


def entropy(size: int) -> bytes:
    return b"\x05" * size


def authority() -> Files:
    request = ContentRequest("Authority", "test", valid_seconds=DAY)
    return make_authority(request, None, now=datetime.now(UTC), entropy=entropy)


def leaf(issuer: Files, kind: Any, *, name: str = "", uri: str = "") -> Files:
    asked = ContentRequest(kind, "leaf", (name,) if name else (), (uri,) if uri else (), ISSUER, DAY)
    return make_leaf(asked, issuer, now=datetime.now(UTC), entropy=entropy)


JOB = authority()
SERVER = leaf(JOB, "ServerLeaf", name="demo-coordinator.team.svc")
OPERATOR = leaf(JOB, "ClientLeaf", uri=operator_uri("team", "demo"))


def pod(**changes: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": "coordinator", "foedus.dev/job": "demo"}
    status = {"phase": "Running", "podIP": "127.0.0.1", "containerStatuses": [{"started": True}]}
    meta = {"uid": "u", "name": "demo-coordinator-x", "namespace": "team", "labels": labels}
    return {"metadata": meta | changes.pop("metadata", {}), "status": status | changes}


class Secrets:
    """The API server, of which one Secret is read."""

    def __init__(self, files: Files | None) -> None:
        self.files = files
        self.asked: list[str] = []

    async def request(self, verb: str, path: str) -> dict[str, Any]:
        self.asked.append(f"{verb} {path}")
        if self.files is None:
            raise NotFound("there is none")
        return {"kind": "Secret", "data": {key: base64.b64encode(file).decode() for key, file in self.files.items()}}


class Logs:
    async def read(self, _pod: Any) -> tuple[Any, ...]:
        return LOG


def written(folder: Path, files: Files) -> TlsPaths:
    for key, content in files.items():
        (folder / key).write_bytes(content)
    return TlsPaths(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


@asynccontextmanager
async def coordinator(
    folder: Path, page: bytes = LINES, files: Files = SERVER, *, old: bool = False
) -> AsyncIterator[int]:
    sessions = Sessions(["a"], plan_digest=PLAN, code_digest=CODE, clock=asyncio.get_running_loop().time)
    pages = {"/progress": lambda: ("application/jsonl", page)}
    server = SiloServer(sessions, namespace="team", job="demo", incarnation=1, pages=pages)
    context = server_context(written(folder, files))
    if old:
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    async with server.listening("127.0.0.1", 0, context) as (_, port):
        yield port


@asynccontextmanager
async def reader(
    port: int, files: Files | None = OPERATOR, **options: Any
) -> AsyncIterator[tuple[CoordinatorPages, Any]]:
    secrets, heard = Secrets(files), list[bool]()
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        pages = CoordinatorPages(secrets, session, Logs(), heard.append, port=port, **options)  # type: ignore[arg-type]
        yield pages, (secrets, heard)


async def test_a_coordinator_is_asked_under_the_operators_name_and_its_secret_is_read_once(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as port, reader(port) as (pages, (secrets, heard)):
        assert [await pages.read(pod()) for _ in range(2)] == [PAGE, PAGE]
        assert secrets.asked == ["GET /api/v1/namespaces/team/secrets/demo-operator"]
        assert heard == [True, True]


NAME = "demo-coordinator.team.svc"
OTHERS = {
    "the certificate names another coordinator": leaf(JOB, "ServerLeaf", name="other.team.svc"),
    "a silo's certificate cannot serve": leaf(JOB, "ClientLeaf", name=NAME),
    "somebody else's authority has signed it": leaf(authority(), "ServerLeaf", name=NAME),
}


@pytest.mark.parametrize(
    ("what", "served", "asking"),
    [
        *((what, {"files": files}, OPERATOR) for what, files in OTHERS.items()),
        ("TLS 1.2", {"old": True}, OPERATOR),
        ("a page without end", {"page": LINES * (MAX_PAGE_BYTES // len(LINES) + 1)}, OPERATOR),
        ("another job's operator", {}, leaf(JOB, "ClientLeaf", uri=operator_uri("team", "other"))),
        ("the Secret is not there", {}, None),
        ("the Secret is empty", {}, {}),
        ("the Secret holds no certificate", {}, OPERATOR | {"tls.crt": b"none"}),
    ],
)
async def test_otherwise_the_log_is_read(tmp_path: Path, what: str, served: Any, asking: Files | None) -> None:
    async with coordinator(tmp_path, **served) as port, reader(port, asking) as (pages, (_, heard)):
        assert await pages.read(pod()) == LOG, what
        assert heard == [False]


@pytest.mark.parametrize(
    "asked",
    [
        pod(metadata={"labels": {"app.kubernetes.io/component": "client", "foedus.dev/job": "demo"}}),
        pod(metadata={"labels": {"app.kubernetes.io/component": "coordinator"}}),
        pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        pod(phase="Succeeded"),
        pod(containerStatuses=[{"started": False}]),
        {"metadata": pod()["metadata"]},
    ],
)
async def test_nobody_is_asked_who_is_no_coordinator_that_runs(asked: Any) -> None:
    async with reader(1) as (pages, (secrets, heard)):
        assert await pages.read(asked) == LOG
        assert (secrets.asked, heard) == ([], [])


async def test_a_secret_that_is_mended_counts_in_the_next_pass(tmp_path: Path) -> None:
    stranger = leaf(authority(), "ClientLeaf", uri=operator_uri("team", "demo"))
    async with coordinator(tmp_path) as port, reader(port, stranger) as (pages, (secrets, _)):
        assert await pages.read(pod()) == LOG
        secrets.files = OPERATOR
        assert await pages.read(pod()) == PAGE


async def test_who_does_not_answer_is_left_alone_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_pages, "PAGE_SECONDS", 0.05)
    now = [0.0]
    writers: list[asyncio.StreamWriter] = []

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, reader(port, clock=lambda: now[0]) as (pages, (_, heard)):
        for moment, expected in ((0.0, 1), (59.0, 1), (60.0, 2)):
            now[0] = moment
            assert await pages.read(pod()) == LOG
            assert (len(writers), heard) == (expected, [False] * expected)
        for writer in writers:
            writer.close()
            await writer.wait_closed()


async def test_a_redirection_leads_nowhere(tmp_path: Path) -> None:
    async def elsewhere(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/other")

    async def other(_request: web.Request) -> web.Response:
        return web.Response(body=LINES)

    app = web.Application()
    app.router.add_get("/progress", elsewhere)
    app.router.add_get("/other", other)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(written(tmp_path, SERVER)))
    await site.start()
    try:
        async with reader(runner.addresses[0][1]) as (pages, _):
            assert await pages.read(pod()) == LOG
    finally:
        await runner.cleanup()

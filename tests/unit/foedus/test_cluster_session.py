"""What a person is told of a cluster's faults, and what is made of its streams: answers as an API server gives them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client as kubernetes

from foedus.cluster import fetch
from foedus.cluster.session import Session
from foedus_contract.canonical import bytes_digest
from foedus_contract.delivery import DeliveredFile, Delivery
from foedus_contract.errors import FoedusError, InvalidInput, Unavailable
from foedus_engine.cluster.protocol import Forbidden, Unauthenticated
from foedus_engine.decide.plan import ObjectKey
from foedus_operator.api_server import connect

KIND = ("foedus.dev/v1alpha1", "FederatedTrainingJob")
JOBS = "/apis/foedus.dev/v1alpha1/namespaces/team/federatedtrainingjobs"
POD = "/api/v1/namespaces/team/pods/reader"
FORBIDDEN = 'federatedtrainingjobs.foedus.dev is forbidden: User "ann" cannot list resource "federatedtrainingjobs"'
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def session(**routes: Handler) -> AsyncIterator[Session]:
    """Yield a session with a server that answers these paths."""
    app = web.Application()
    for path, handler in routes.items():
        app.router.add_route("*", path, handler)
    async with TestServer(app) as server:
        host = str(server.make_url("")).rstrip("/")
        async with connect(kubernetes.Configuration(host=host)) as api:
            yield Session(api, "https://cluster", "team")


def says(status: int, **body: Any) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", **body}, status=status)

    return handler


async def not_found(_request: web.Request) -> web.Response:
    return web.Response(text="404 page not found\n", status=404)


@pytest.mark.parametrize(
    ("handler", "want", "line"),
    [
        (says(401, message="Unauthorized"), Unauthenticated,
         "https://cluster: the API server does not know who asks; log in to the cluster again"),
        (says(403, message='pods is forbidden: User "system:anonymous" cannot list'), Unauthenticated, "log in"),
        (says(403, message=FORBIDDEN), Forbidden, f"https://cluster: {FORBIDDEN}; ask whoever administers"),
        (not_found, Unavailable, "this cluster has no kind FederatedTrainingJob: Foedus is not installed; install"),
        (says(503, message="etcd is away"), Unavailable, "https://cluster: etcd is away; see that this is the cluster"),
    ],
    ids=["credentials", "anonymous", "forbidden", "not installed", "busy"],
)  # fmt: skip
async def test_a_fault_is_one_line_with_its_cure(handler: Handler, want: type[FoedusError], line: str) -> None:
    async with session(**{JOBS: handler}) as cluster:
        with pytest.raises(want) as caught:
            await cluster.list(*KIND)
        with pytest.raises(want):
            await anext(aiter(cluster.watch(*KIND)))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == 40


@pytest.mark.parametrize(
    ("discovery", "want", "line"),
    [
        (says(200, resources=[{"kind": "FederatedTrainingJob"}]), InvalidInput,
         "FederatedTrainingJob team/news: does not exist; `foedus get jobs -n team` lists what is there"),
        (says(200, resources=[{"kind": "PrivacyBudget"}]), Unavailable, "Foedus is not installed"),
        (not_found, Unavailable, "Foedus is not installed"),
    ],
    ids=["no such job", "no such kind", "no such group"],
)  # fmt: skip
async def test_what_is_not_there_is_told_from_what_is_not_installed(
    discovery: Handler, want: type[FoedusError], line: str
) -> None:
    absent = says(404, message="not found")
    async with session(**{f"{JOBS}/news": absent, "/apis/foedus.dev/v1alpha1": discovery}) as cluster:
        with pytest.raises(want, match=r".") as caught:
            await cluster.get(ObjectKey(*KIND, "team", "news"))
    assert line in str(caught.value)


def event(kind: str, version: str, **more: Any) -> bytes:
    obj = {"metadata": {"name": "news", "resourceVersion": version}, **more}
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def test_a_watch_goes_on_where_it_was_cut_and_begins_anew_where_that_is_forgotten() -> None:
    lists = iter("59")
    watches = iter(
        [
            event("MODIFIED", "6") + event("BOOKMARK", "8"),
            event("ERROR", "", code=410),
            event("DELETED", "10"),
        ]
    )
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") != "true":
            meta = {"resourceVersion": next(lists)}
            return web.json_response({"metadata": meta, "items": [{"metadata": {"name": "news"}}]})
        asked.append(request.query["resourceVersion"])
        return web.Response(body=next(watches))

    seen = []
    async with session(**{JOBS: handler}) as cluster, aclosing(cluster.watch(*KIND)) as changes:
        async for change in changes:
            seen.append((change.kind, change.object["metadata"].get("resourceVersion")))
            if change.kind == "DELETED":
                break
    assert seen == [("ADDED", None), ("MODIFIED", "6"), ("ADDED", None), ("DELETED", "10")]
    assert asked == ["5", "8", "9"]


async def test_a_log_comes_line_by_line() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert dict(request.query) == {"container": "workload", "follow": "true"}
        answer = web.StreamResponse()
        await answer.prepare(request)
        for part in (b"one\ntw", b"o\n", b"\nlast"):
            await answer.write(part)
        return answer

    async with session(**{f"{POD}/log": handler}) as cluster:
        pod = ObjectKey("v1", "Pod", "team", "reader")
        assert [line async for line in cluster.log(pod, "workload", follow=True)] == [b"one", b"two", b"", b"last"]


CONTENT = bytes(range(256)) * 2000
DELIVERY = Delivery(files=(DeliveredFile(name="a", size=len(CONTENT), digest=bytes_digest(CONTENT)),))
LISTENING = [{"started": True, "state": {"running": {}}}]


async def test_a_pod_is_made_read_and_deleted_although_nothing_listens_at_first(tmp_path: Path) -> None:
    methods: list[str] = []
    dials = iter([False, False, True])

    async def pod(request: web.Request) -> web.Response:
        methods.append(request.method)
        status = (
            {"phase": "Running", "containerStatuses": LISTENING} if methods.count("GET") > 1 else {"phase": "Pending"}
        )
        return web.json_response({"metadata": {"name": "reader"}, "spec": {}, "status": status})

    async def forward(request: web.Request) -> web.WebSocketResponse:
        assert request.query["ports"] == "8444"
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        for channel in (b"\0", b"\1"):
            await socket.send_bytes(channel + (8444).to_bytes(2, "little"))
        if next(dials):
            for block in (DELIVERY.to_json() + b"\n", CONTENT[:100_000], CONTENT[100_000:]):
                await socket.send_bytes(b"\0" + block)
        else:
            await socket.send_bytes(b"\1connect: connection refused")
        await socket.close()
        return socket

    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader", "namespace": "team"}}
    routes = {POD: pod, f"{POD}/portforward": forward, POD.rpartition("/")[0]: says(201)}
    notes: list[str] = []
    async with session(**routes) as cluster:
        await fetch.fetch(cluster, manifest, tmp_path, expected=DELIVERY.digest(), note=notes.append)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert methods[-1] == "DELETE"
    assert notes[0] == "waiting for the pod reader: no node has taken it yet"
    assert notes[-1] == "512,000 of 512,000 bytes"


@pytest.mark.parametrize("ends", ["starts not", "dies", "is interrupted"])
async def test_the_pod_goes_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    monkeypatch.setattr(fetch, "START_SECONDS", 3600.0 if ends == "is interrupted" else 0.0)
    methods: list[str] = []

    async def pod(request: web.Request) -> web.Response:
        methods.append(request.method)
        waiting = [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]
        dead = [{"state": {"terminated": {"exitCode": 40}}}]
        status = {"phase": "Pending", "containerStatuses": waiting}
        if ends == "dies":
            status = {"phase": "Failed", "containerStatuses": dead}
        return web.json_response({"metadata": {"name": "reader"}, "spec": {}, "status": status})

    async def log(_request: web.Request) -> web.Response:
        return web.Response(text="/foedus/output/adapter: cannot be read\n")

    routes = {
        POD: pod,
        f"{POD}/log": log,
        f"{POD}/portforward": says(500, message="the pod is not running"),
        POD.rpartition("/")[0]: says(201),
    }
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader", "namespace": "team"}}
    async with session(**routes) as cluster:
        work = asyncio.create_task(fetch.fetch(cluster, manifest, tmp_path, expected="", note=lambda _text: None))
        if ends == "is interrupted":
            while "GET" not in methods:
                await asyncio.sleep(0.01)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
        else:
            match = "ErrImagePull: no such image" if ends == "starts not" else "adapter: cannot be read"
            with pytest.raises(Unavailable, match=match):
                await work
    assert methods[-1] == "DELETE"

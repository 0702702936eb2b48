"""An API server as watches see it: it tells which kinds it has, lists objects page by page, and then says nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from kubernetes.aio import client as kubernetes

from foedus_operator.handlers import Watched

VERBS = ["get", "list", "watch", "patch"]
NAMESPACES = Watched("", "v1", "namespaces")  # kopf does not begin before it has found them


@dataclass
class ListingServer:
    """What is served. `paged` is called when a page is asked for, and may be awaited; `asked` counts by path."""

    kinds: Sequence[Watched]
    objects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by plural
    refused: set[str] = field(default_factory=set)  # plurals whose lists and watches are forbidden
    paged: Callable[[], Any] = lambda: None
    asked: Counter[str] = field(default_factory=Counter)
    largest_page: int = 0
    away: int = 0  # so many requests are not answered

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        if self.away > 0:
            self.away -= 1
            return web.json_response({"kind": "Status", "code": 503, "message": "away"}, status=503)
        groups = sorted({(kind.group, kind.version) for kind in self.kinds if kind.group})
        if request.path == "/api":
            return web.json_response({"versions": ["v1"]})
        if request.path == "/apis":
            return web.json_response({"groups": [_group(*each) for each in groups]})
        group, _, version = request.path.removeprefix("/apis/").removeprefix("/api/").rpartition("/")
        if (group, version) in [*groups, ("", "v1")]:
            served = [kind for kind in (NAMESPACES, *self.kinds) if kind.group == group]
            return web.json_response({"resources": [*map(_resource, served)]})
        plural = request.path.rpartition("/")[2]
        code = 403 if plural in self.refused else 200 if any(kind.plural == plural for kind in self.kinds) else 404
        if code != 200:
            return web.json_response({"kind": "Status", "code": code, "message": "no"}, status=code)
        if "watch" in request.query:
            return await self._watch(request)
        return await self._page(request, self.objects.get(plural, []))

    async def _page(self, request: web.Request, objects: list[dict[str, Any]]) -> web.Response:
        found = self.paged()
        if found is not None:
            await found
        since = int(request.query.get("continue") or 0)
        end = since + int(request.query.get("limit", len(objects)))
        self.largest_page = max(self.largest_page, len(objects[since:end]))
        rest = str(end) if end < len(objects) else ""
        return web.json_response(
            {"kind": "List", "metadata": {"resourceVersion": "1", "continue": rest}, "items": objects[since:end]}
        )

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        # As a real one: it ends the answer when the time asked for is over.
        await asyncio.sleep(float(request.query.get("timeoutSeconds", 3600)))
        return response


def _group(group: str, version: str) -> dict[str, Any]:
    named = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [named], "preferredVersion": named}


def _resource(kind: Watched) -> dict[str, Any]:
    return {"name": kind.plural, "singularName": "", "namespaced": True, "kind": kind.plural, "verbs": VERBS}


@asynccontextmanager
async def listing(server: ListingServer) -> AsyncIterator[kubernetes.Configuration]:
    """Serve meanwhile; yields how it is reached."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield kubernetes.Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()

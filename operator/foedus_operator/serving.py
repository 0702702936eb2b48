"""What operator and ledger service have in common where they answer: TLS 1.3, and who may read the pages of numbers.

Whoever reaches `/health` and `/ready` may ask: the kubelet's probes show neither certificate nor token, and learn one
bit. The other pages are for whom RBAC lets `get` their path, as those of Kubernetes' own components are:

1. TokenReview: whose token it is.
2. SubjectAccessReview: whether that user may `get` the path.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from foedus_contract.errors import FoedusError, InvalidInput
from foedus_operator.api_server import ApiServer

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a place, no secret
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
MAX_TOKEN = 8192  # characters; a projected token has about 1,000
BEARER = "Bearer "
READERS_AT_ONCE = 4  # each costs the API server two reviews; a monitoring system asks twice a minute
READER_SECONDS = 10.0  # for both
LOOK_SECONDS = 60.0  # between looks whether the certificate was renewed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Review = Callable[[str, str], Awaitable[bool | None]]  # of a token and a path: may it be read; None: whose token?

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerFiles:
    """Where a server's certificate chain and its private key lie (PEM)."""

    certificate: Path
    key: Path

    def load(self, context: ssl.SSLContext) -> None:
        """Take the certificate as its files are now; raises InvalidInput."""
        try:
            # An empty password keeps OpenSSL from asking on the terminal when the key is encrypted.
            context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, OSError):
            cure = "mount the Secret with the service's certificate and key"
            what = f"certificate and key ({self.key}) do not fit or are not PEM"
            raise InvalidInput(what, where=str(self.certificate), cure=cure) from None

    def stamps(self) -> tuple[int, ...]:
        """Return what changes when a file does."""
        return tuple(path.stat().st_mtime_ns for path in (self.certificate, self.key) if path.exists())


@asynccontextmanager
async def server_context(files: ServerFiles) -> AsyncIterator[ssl.SSLContext]:
    """Yield a server's context: TLS 1.3 at least; a renewed certificate is taken by itself. Raises InvalidInput."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION
    files.load(context)
    renewal = asyncio.create_task(_renew(context, files))
    try:
        yield context
    finally:
        renewal.cancel()


async def _renew(context: ssl.SSLContext, files: ServerFiles) -> None:
    """Take the certificate anew when its files have changed; half a renewal is tried again."""
    seen = files.stamps()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if (now := files.stamps()) == seen:
            continue
        try:
            files.load(context)
            seen = now
            _logger.info("the certificate was renewed")
        except InvalidInput as error:
            _logger.warning("the certificate was not renewed: %s", error)


def bearer_token(request: web.Request) -> str:
    """Return the token that a request shows, empty when it shows none."""
    header = request.headers.get("Authorization", "")
    return header.removeprefix(BEARER) if header.startswith(BEARER) else ""


def reviewed_by(server: ApiServer) -> Review:
    """Return what has the API server say who may read; raises as it does when it does not answer."""

    async def review(token: str, path: str) -> bool | None:
        asked: dict[str, Any] = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
        status = (await server.request("POST", TOKEN_REVIEWS, body={**asked, "spec": {"token": token}})).get("status")
        if not status or status.get("authenticated") is not True:
            return None
        user = status.get("user") or {}
        spec = {
            "user": user.get("username", ""),
            "uid": user.get("uid", ""),
            "groups": user.get("groups") or [],
            "extra": user.get("extra") or {},
            "nonResourceAttributes": {"path": path, "verb": "get"},
        }
        asked = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        found = (await server.request("POST", ACCESS_REVIEWS, body=asked)).get("status") or {}
        return found.get("allowed") is True

    return review


class Readers:
    """Lets a page be read by whom the review allows; a few at a time, so that strangers cost little."""

    def __init__(self, review: Review) -> None:
        self._review = review
        self._places = asyncio.Semaphore(READERS_AT_ONCE)

    def only(self, page: Handler) -> Handler:
        """Return the handler of a page that is not for everybody."""

        async def answer(request: web.Request) -> web.StreamResponse:
            token = bearer_token(request)
            try:
                async with asyncio.timeout(READER_SECONDS), self._places:
                    allowed = await self._review(token, request.path) if is_token(token) else None
            except (FoedusError, TimeoutError):
                return web.Response(status=503, text="the API server does not answer")
            if allowed is None:
                return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"}, text="show a token")
            return await page(request) if allowed else web.Response(status=403, text="not for you")

        return answer


def is_token(text: str) -> bool:
    """Say whether a text may be shown to the API server as a token."""
    return 0 < len(text) <= MAX_TOKEN and text.isascii()

"""One request to the API server: with a deadline, and with faults whose class says whether to try again.

Of all files this one alone knows the Kubernetes client. It takes and returns plain JSON objects: the client's generated
models would drop what they do not know.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
from kubernetes.aio import client as kubernetes
from kubernetes.aio import config as kubernetes_config

from foedus_contract.errors import FoedusError, InvalidInput
from foedus_engine.cluster.protocol import AlreadyExists, Busy, Conflict, Forbidden, NotFound, Unauthenticated

DEADLINE_SECONDS = 30.0  # an API server answers in milliseconds, a loaded one in seconds
MAX_ANSWER_BYTES = 256 * 1024 * 1024  # a page of 500 objects at etcd's limit of 1.5 MiB is the most there can be
MAX_LINE_BYTES = 2 * 1024 * 1024  # an event of a watch holds one object, below etcd's limit of 1.5 MiB
SERVER_SIDE_APPLY = "application/apply-patch+yaml"
CHANNELS = "v4.channel.k8s.io"
USER_KUBECONFIG = "~/.kube/config"  # where kubectl looks, too

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"

Verb = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Answer = dict[str, Any]
Body = Mapping[str, Any] | Sequence[Mapping[str, Any]]  # the latter: a JSON patch
Patience = Callable[[], float]  # for how many seconds a write may still take effect; raises when it may not at all


def _patient() -> float:
    return DEADLINE_SECONDS


@dataclass(frozen=True)
class _Request:
    """What is asked of the API server."""

    verb: Verb
    path: str
    query: Mapping[str, str]
    body: Body | None = None
    content_type: str = JSON
    accept: str = JSON  # what streams answers 406 to it


class ApiServer:
    """The API server of one cluster.

    `patience` bounds every write, not reads: whoever leads by a lease writes only while the lease is certainly its own.
    """

    def __init__(self, client: kubernetes.ApiClient, *, patience: Patience = _patient) -> None:
        self._client = client
        self._patience = patience

    async def request(
        self,
        verb: Verb,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        content_type: str = JSON,
    ) -> Answer:
        """Return the answer's object; raises ClusterFault or InvalidInput. After Busy the change may have happened."""
        return _parse(path, await self.text(verb, path, query=query, body=body, content_type=content_type))

    async def text(
        self,
        verb: Verb,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        content_type: str = JSON,
        seconds: float | None = None,
    ) -> bytes:
        """Return the answer as it came, within `seconds` if they are said."""
        seconds = DEADLINE_SECONDS if seconds is None else seconds
        seconds = seconds if verb == "GET" else min(seconds, self._patience())
        try:
            async with asyncio.timeout(seconds):
                asked = _Request(verb, path, query or {}, body, content_type)
                status, content = await self._send(asked, seconds)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            # Not the error's text: it may hold the request.
            raise Busy(f"the API server does not answer ({type(error).__name__})", where=path) from None
        if status >= 400:
            raise _fault(status, content, path)
        return content

    async def lines(self, path: str, query: Mapping[str, str], *, silence: float | None = None) -> AsyncIterator[bytes]:
        """Yield the lines of an answer that goes on, as they come; one that is too long comes in pieces.

        Raises as `request` does, and Busy when the server says nothing for `silence` seconds.
        """
        limit = aiohttp.ClientTimeout(total=None, connect=DEADLINE_SECONDS, sock_read=silence)
        try:
            async with await self._call(_Request("GET", path, query), limit) as response:
                if response.status >= 400:
                    raise _fault(response.status, await response.content.read(MAX_LINE_BYTES), path)
                async for line in _lines(response.content):
                    yield line
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Busy(f"the API server does not answer ({type(error).__name__})", where=path) from None

    @asynccontextmanager
    async def channels(self, path: str, query: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Yield the WebSocket of a subresource that streams, in the protocol `v4.channel.k8s.io`; raises as `request`.

        Each message is binary: the number of its channel in the first byte, then what was said there.
        """
        asked = _Request("GET", path, query, accept="*/*")
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                socket = await self._session.ws_connect(
                    protocols=(CHANNELS,), max_msg_size=MAX_LINE_BYTES, **await self._address(asked)
                )
        except aiohttp.WSServerHandshakeError as error:
            raise _fault(error.status, b"", path) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Busy(f"the API server does not answer ({type(error).__name__})", where=path) from None
        async with socket:
            yield socket

    async def _send(self, asked: _Request, seconds: float) -> tuple[int, bytes]:
        async with await self._call(asked, aiohttp.ClientTimeout(total=seconds)) as response:
            content = bytearray()
            async for block in response.content.iter_any():
                content += block
                if len(content) > MAX_ANSWER_BYTES:
                    response.close()
                    raise Busy("the answer is too large", where=asked.path)
            return response.status, bytes(content)

    async def _call(self, asked: _Request, limit: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        # Not the client's own way: its walk through every value of a body takes longer than everything else of it.
        body = None if asked.body is None else json.dumps(asked.body, separators=(",", ":"), allow_nan=False)
        return await self._session.request(asked.verb, data=body, timeout=limit, **await self._address(asked))

    @property
    def _session(self) -> aiohttp.ClientSession:
        """The client's connections, over TLS as its configuration says."""
        rest = self._client.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()
        session: aiohttp.ClientSession = rest.pool_manager
        return session

    async def _address(self, asked: _Request) -> dict[str, Any]:
        """Return where a request goes and how it says who asks."""
        configuration = self._client.configuration
        headers = {**self._client.default_headers, "Accept": asked.accept, "Content-Type": asked.content_type}
        if (token := await configuration.get_api_key_with_prefix("BearerToken")) is not None:
            headers["Authorization"] = token
        found = {"url": configuration.host + asked.path, "params": asked.query, "headers": headers}
        if self._client.rest_client.proxy:
            found |= {"proxy": self._client.rest_client.proxy}
        if configuration.tls_server_name:
            found |= {"server_hostname": configuration.tls_server_name}
        return found


@asynccontextmanager
async def connect(
    configuration: kubernetes.Configuration, *, patience: Patience = _patient
) -> AsyncIterator[ApiServer]:
    """Yield the API server that `configuration` names, over TLS 1.3."""
    async with kubernetes.ApiClient(configuration) as client:
        client.rest_client.ssl_context.minimum_version = ssl.TLSVersion.TLSv1_3
        yield ApiServer(client, patience=patience)


async def load_configuration(kubeconfig: Path | None) -> kubernetes.Configuration:
    """Return how to reach the cluster: by a kubeconfig file, or as a pod of it. Raises InvalidInput when it cannot."""
    configuration = kubernetes.Configuration()
    try:
        if kubeconfig is None:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
        else:
            await kubernetes_config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    except kubernetes_config.ConfigException as error:
        cure = "run it as a pod with a ServiceAccount, or set KUBECONFIG"
        raise InvalidInput(f"no access to a cluster ({error})", where=str(kubeconfig or "pod"), cure=cure) from None
    return configuration


async def load_user_configuration(
    kubeconfig: str, context: str | None, *, environ: Mapping[str, str]
) -> tuple[kubernetes.Configuration, str]:
    """Return how a person reaches a cluster, and the namespace that the context names, as kubectl would find them.

    `kubeconfig` may be empty: then KUBECONFIG names one or several files, or ~/.kube/config is read. Raises
    InvalidInput when there is none, when it has no such context, and for a server that could be anybody.
    """
    named = kubeconfig or environ.get("KUBECONFIG", "") or USER_KUBECONFIG
    files = [Path(name).expanduser() for name in named.split(os.pathsep) if name]
    if not any(file.is_file() for file in files):
        cure = "name one with --kubeconfig or KUBECONFIG"
        raise InvalidInput("there is no kubeconfig", where=named, cure=cure)
    configuration = kubernetes.Configuration()
    try:
        loader = await kubernetes_config.load_kube_config(
            named, context, client_configuration=configuration, persist_config=False
        )
        chosen = loader.current_context["context"]
    except Exception as error:  # noqa: BLE001 - the library raises whatever a file that is not one leads to
        cure = "`kubectl config get-contexts` lists what it has; choose with --context"
        raise InvalidInput(f"names no cluster that can be used ({_words(error)})", where=named, cure=cure) from None
    if not configuration.host.startswith("https://") or not configuration.verify_ssl:
        cure = "name its certificate authority and an https:// address in the kubeconfig"
        raise InvalidInput("its server is not verified, so anybody could answer", where=named, cure=cure)
    return configuration, str(chosen.get("namespace") or "default")


def _words(error: Exception) -> str:
    """Return what the library says of a kubeconfig; it names keys and files, never what they hold."""
    said = str(error) if isinstance(error, kubernetes_config.ConfigException) else ""
    return " ".join(said.rstrip(".").split())[:512] or type(error).__name__


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for block in content.iter_any():
        *whole, tail = bytes(rest + block).split(b"\n")
        for line in whole:
            yield line
        rest = bytearray(tail)
        if len(rest) > MAX_LINE_BYTES:
            yield bytes(rest)
            rest.clear()
    if rest:
        yield bytes(rest)


def _parse(path: str, content: bytes) -> Answer:
    try:
        answer = json.loads(content)
    except ValueError:
        raise Busy("the API server's answer is cut off", where=path) from None
    if not isinstance(answer, dict):
        raise Busy("the API server's answer is no object", where=path)
    return answer


def _fault(status: int, content: bytes, path: str) -> FoedusError:
    """Return what an HTTP status and the Status object behind it mean for the caller."""
    said = _status(content)
    message = str(said.get("message") or f"HTTP {status}")[:4096]
    if status == 404:
        return NotFound(message, where=path)
    if status == 422 and _blames(said, "metadata.uid"):
        return Conflict("the object has another uid", where=path, cure="read it again")
    if status == 409:
        kind = AlreadyExists if said.get("reason") == "AlreadyExists" else Conflict
        return kind(message, where=path, cure="read it again")
    if status == 401 or 'User "system:anonymous"' in message:
        cure = "see whether the credentials have expired"
        return Unauthenticated("the API server does not know who asks", where=path, cure=cure)
    if status == 403:
        return Forbidden(message, where=path, cure="see whether rights, quota and namespace allow it")
    if status in {408, 410, 429} or status >= 500:
        return Busy(message, where=path)
    return InvalidInput(message, where=path)


def _blames(said: Mapping[str, Any], field: str) -> bool:
    return any(cause.get("field") == field for cause in (said.get("details") or {}).get("causes") or ())


def _status(content: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(content)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}

"""One request to the API server: with a deadline, and with faults whose class says whether to try again.

Of all files this one alone knows the Kubernetes client. It takes and returns plain JSON objects: the client's generated
models would drop what they do not know.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import aiohttp
from kubernetes.aio import client as kubernetes
from kubernetes.aio import config as kubernetes_config

from foedus_contract.errors import FoedusError, InvalidInput
from foedus_engine.cluster.protocol import AlreadyExists, Busy, Conflict, Forbidden, NotFound

DEADLINE_SECONDS = 30.0  # an API server answers in milliseconds, a loaded one in seconds
MAX_ANSWER_BYTES = 256 * 1024 * 1024  # a page of 500 objects at etcd's limit of 1.5 MiB is the most there can be
SERVER_SIDE_APPLY = "application/apply-patch+yaml"

Verb = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Answer = dict[str, Any]
Patience = Callable[[], float]  # for how many seconds a write may still take effect; raises when it may not at all


def _patient() -> float:
    return DEADLINE_SECONDS


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
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Return the answer's object; raises ClusterFault or InvalidInput. After Busy the change may have happened."""
        return _parse(path, await self.text(verb, path, query=query, body=body, content_type=content_type))

    async def text(
        self,
        verb: Verb,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Return the answer as it came."""
        seconds = DEADLINE_SECONDS if verb == "GET" else min(DEADLINE_SECONDS, self._patience())
        try:
            async with asyncio.timeout(seconds):
                status, content = await self._send(verb, path, dict(query or {}), body, content_type, seconds)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            # Not the error's text: it may hold the request.
            raise Busy(f"the API server does not answer ({type(error).__name__})", where=path) from None
        if status >= 400:
            raise _fault(status, content, path)
        return content

    async def _send(
        self, verb: Verb, path: str, query: dict[str, str], body: Any, content_type: str, seconds: float
    ) -> tuple[int, bytes]:
        serialized = await self._client.param_serialize(
            verb,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=None if body is None else dict(body),
            auth_settings=["BearerToken"],
        )
        answer = await self._client.call_api(*serialized, _request_timeout=seconds)
        content = bytearray()
        async for block in answer.response.content.iter_any():
            content += block
            if len(content) > MAX_ANSWER_BYTES:
                answer.response.close()
                raise Busy("the answer is too large", where=path)
        return answer.status, bytes(content)


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
    if status in {401, 403}:
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

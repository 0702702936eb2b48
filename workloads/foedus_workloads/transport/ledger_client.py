"""A pod's requests to the ledger service: HTTPS, TLS 1.3, the service's authority pinned by the run spec.

Only a request that certainly changed nothing is tried again: one that found no connection, and what reads or claims.
A charge that was sent is never repeated: without an answer its attempt counts as charged.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import aiohttp

from foedus_contract import ledger_wire
from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.ledger_wire import ChargeRequest, Fault, Incarnation
from foedus_contract.models import ContractModel
from foedus_contract.run_spec import LedgerService
from foedus_ledger.records import BudgetRecord
from foedus_workloads.transport.client import Patience
from foedus_workloads.transport.tls_faults import dates_refused, identity_refused, version_refused

M = TypeVar("M", bound=ContractModel)
MAX_TOKEN_BYTES = 8192


class NotSent(Unavailable):
    """There was no connection, so nothing was asked."""


@dataclass(frozen=True)
class ClientSettings:
    """Seconds: how long a service may be out of reach on end, one request, pause between tries."""

    patience_seconds: float = 60.0  # what a silo waits for a ledger file, too; a new replica takes less
    request_seconds: float = ledger_wire.ANSWER_SECONDS
    pause_seconds: float = 1.0


class LedgerClient:
    """The ledger service as one pod sees it. Every request is a connection of its own: replicas come and go."""

    def __init__(self, service: LedgerService, token: Path, settings: ClientSettings | None = None) -> None:
        self._service = service
        self._token = token
        self._settings = settings or ClientSettings()
        self.where = f"ledger service at {service.host}:{service.port}"

    async def read(self) -> BudgetRecord:
        """Return this silo's ledger as last committed; raises Refused, or Unavailable after trying for a while."""
        return _parsed(BudgetRecord, await self._patiently("GET", ledger_wire.BUDGET_PATH, Unavailable))

    async def charge(self, attempt: int, noise_multiplier: float) -> BudgetRecord:
        """Charge one release and return the ledger as it is then. After any error the attempt counts as charged."""
        request = ChargeRequest(attempt=attempt, noise_multiplier=noise_multiplier)
        return _parsed(BudgetRecord, await self._patiently("POST", ledger_wire.CHARGES_PATH, NotSent, request))

    async def claim(self) -> int:
        """Return which start of its role this pod is; asked again, the answer is the same."""
        answer = await self._patiently("POST", ledger_wire.INCARNATIONS_PATH, Unavailable)
        return _parsed(Incarnation, answer).incarnation

    async def _patiently(
        self,
        method: Literal["GET", "POST"],
        path: str,
        again: type[Unavailable],
        body: ContractModel | None = None,
    ) -> bytes:
        """Return the answer; what raises `again` is tried again for a while."""
        patience = Patience(self._settings.patience_seconds, self._settings.pause_seconds)
        while True:
            try:
                return await self._once(method, path, body)
            except again as error:
                await patience.try_again_after(error)

    async def _once(self, method: str, path: str, body: ContractModel | None) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self._settings.request_seconds)
        context = _pinned(self._service.ca)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.request(
                    method,
                    f"https://{self._service.host}:{self._service.port}{path}",
                    headers=self._headers(),
                    data=None if body is None else body.to_json(),
                    ssl=context,
                    allow_redirects=False,
                ) as response,
            ):
                content = await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._fault(error) from None  # its text may hold the request
        if response.status != 200:
            raise self._refusal(response.status, content)
        return content

    def _headers(self) -> Mapping[str, str]:
        try:
            with self._token.open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, ValueError):
            cure = "start the pod through Foedus, which mounts it"
            raise Unavailable("the pod's token cannot be read", where=str(self._token), cure=cure) from None
        return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def _fault(self, error: BaseException) -> FoedusError:
        dates = dates_refused(error)
        if dates is not None or identity_refused(error) or version_refused(error):
            why = f"its certificate is refused ({dates})" if dates else "it does not prove to be the one that is pinned"
            cure = "see what stands between it and the pod, and whether the installation's authority was exchanged"
            return Refused(why, where=self.where, cure=cure, code=ExitCode.IDENTITY_REFUSED)
        kind = NotSent if isinstance(error, aiohttp.ClientConnectorError) else Unavailable
        cure = "see whether it runs, and whether the network lets this pod through"
        return kind(f"no answer ({type(error).__name__})", where=self.where, cure=cure)

    def _refusal(self, status: int, content: bytes) -> FoedusError:
        try:
            return Fault.from_json(content).error()
        except InvalidInput:
            # Something in between answered; whether the service did what was asked is not known.
            return Unavailable(f"status {status} without a reason", where=self.where, cure="see what stands in between")


def _parsed(kind: type[M], content: bytes) -> M:
    try:
        return kind.from_json(content)
    except InvalidInput as error:
        cure = "run the same release of Foedus on both sides"
        what = f"its answer cannot be used ({error.what})"
        raise InvalidInput(what, where="ledger service", cure=cure, code=ExitCode.INTERNAL) from None


def _pinned(ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION
    try:
        context.load_verify_locations(cadata=ca)
    except ssl.SSLError:
        cure = "start the job again"
        raise InvalidInput("this is not a PEM certificate", where="run spec: ledgerService.ca", cure=cure) from None
    return context


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for block in response.content.iter_any():
        content += block
        if len(content) > ledger_wire.MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError("too large")
    return bytes(content)

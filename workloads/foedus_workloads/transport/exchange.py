"""One HTTPS request of a silo, and what its answer means: a frame, nothing, a refusal, or try again."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import aiohttp

from foedus_contract import limits
from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.wire import CoordinatorMessage
from foedus_workloads.transport.framing import COORDINATOR_HEADER, PATH, SEQUENCE_HEADER, read_frame
from foedus_workloads.transport.sessions import NoSession
from foedus_workloads.transport.tls_faults import dates_refused, identity_refused, version_refused

Frame = tuple[CoordinatorMessage, bytes]
Answer = tuple[int, Frame] | None

MAX_ANSWER_TEXT = 300  # characters kept of a refusal's one line
PROBE_SECONDS = 1.0  # a refusal comes within a round trip; an accepted connection stays open far longer
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_COORDINATOR_KINDS = get_args(CoordinatorMessage)


@dataclass
class Exchange:
    """Where the coordinator is, as whom it must identify itself, and how long one request may take.

    `newest` is the highest start of it that has answered; an older one is out of date, whatever it says.
    """

    http: aiohttp.ClientSession
    address: Callable[[], tuple[str, int]]  # read at each request: a new coordinator may listen elsewhere
    hostname: str
    context: ssl.SSLContext
    request_seconds: float
    newest: int = 0

    async def request(self, method: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Return the frame that came back, or None; may raise NoSession, Refused, Unavailable (retry)."""
        host, port = self._locate()
        try:
            async with self.http.request(
                method,
                f"https://{host}:{port}{PATH}",
                headers=dict(headers),
                data=body,
                ssl=self.context,
                server_hostname=self.hostname,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self.request_seconds),
            ) as response:
                self._check_newest(response)
                return await _read(response)
        except InvalidInput as error:
            raise InvalidInput(
                f"the coordinator's answer cannot be used ({error})",
                where=f"{self.hostname} at {host}:{port}",
                cure="see what stands between it and the silo, and run the same release on both sides",
                code=ExitCode.INTERNAL,
            ) from None
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise self._fault(error, f"{host}:{port}") from error

    async def is_turned_away(self) -> bool:
        """Tell whether the coordinator closes the connection right after the handshake.

        In TLS 1.3 a certificate is refused after the client's half of the handshake, and asyncio's server closes
        without an alert; so this connects, says nothing, and sees whether the connection stays open.
        """
        host, port = self._locate()
        writer = None
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=self.context, server_hostname=self.hostname
                )
                return await reader.read(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return writer is not None
        finally:
            if writer is not None:
                writer.close()

    def turned_away(self) -> FoedusError:
        """Return the error of a silo whose certificate the coordinator does not accept."""
        return _certificate_refused(self.hostname)

    def _check_newest(self, response: aiohttp.ClientResponse) -> None:
        text = response.headers.get(COORDINATOR_HEADER, "")
        if not _is_number(text):
            return  # what stands in between answers too; the status says what that means
        if int(text) < self.newest:
            raise Unavailable("an older coordinator answers", where=self.hostname)  # the next try may reach the newer
        self.newest = int(text)

    def _locate(self) -> tuple[str, int]:
        try:
            return self.address()
        except (KeyError, OSError, ValueError):
            raise Unavailable("the coordinator has no address yet", where=self.hostname) from None

    def _fault(self, error: BaseException, where: str) -> FoedusError:
        if (dates := dates_refused(error)) is not None:
            return Refused(
                f"the coordinator's certificate is refused ({dates})",
                where=f"{self.hostname} at {where}",
                cure="compare both machines' clocks, or create the job again: each job has certificates of its own",
                code=ExitCode.IDENTITY_REFUSED,
            )
        if identity_refused(error):
            return _certificate_refused(f"{self.hostname} at {where}")
        if version_refused(error):
            return Refused(
                "the coordinator does not speak TLS 1.3",
                where=f"{self.hostname} at {where}",
                cure="see what stands between it and the silo; older TLS is never used",
                code=ExitCode.IDENTITY_REFUSED,
            )
        return Unavailable(
            "the coordinator does not answer",
            where=f"{self.hostname} at {where}",
            cure="see whether it runs, and whether the network lets this silo through",
        )


def _certificate_refused(where: str) -> Refused:
    return Refused(
        "one side does not accept the other's certificate",
        where=where,
        cure="mount certificates that this job's authority signed for these very names",
        code=ExitCode.IDENTITY_REFUSED,
    )


async def _read(response: aiohttp.ClientResponse) -> Answer:
    if response.status == 204:
        return None
    if response.status != 200:
        raise await _refusal(response)
    sequence = response.headers.get(SEQUENCE_HEADER, "")
    if response.content_length is None or not _is_number(sequence):
        raise InvalidInput("it has no length or number", where="frame")
    message, payload = await read_frame(
        response.content.readexactly, response.content_length, payload_limit=limits.MAX_PAYLOAD_BYTES
    )
    if not isinstance(message, _COORDINATOR_KINDS):
        raise InvalidInput("a coordinator does not send this kind", where=message.kind)
    return int(sequence), (message, payload)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


async def _refusal(response: aiohttp.ClientResponse) -> FoedusError:
    raw = await response.content.read(4 * MAX_ANSWER_TEXT)
    text = raw.decode("utf-8", "replace")[:MAX_ANSWER_TEXT].strip() or "no reason"
    if response.status == 409:
        return NoSession(text)
    if response.status == 410:
        return Refused(text, code=ExitCode.SUPERSEDED)
    if response.status == 403:
        return Refused(text, code=ExitCode.IDENTITY_REFUSED)
    if response.status in TRANSIENT:
        return Unavailable(text)
    return InvalidInput(f"status {response.status}, {text}")

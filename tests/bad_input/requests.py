"""What a misbehaving silo sends to a real coordinator's server, by hand, over real TLS."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509

from bad_input.cases import NOTHING, Case, Seen, exits
from foedus_contract.errors import FoedusError
from foedus_contract.exit_codes import ExitCode
from foedus_contract.identities import silo_uri
from foedus_contract.wire import AttemptId, JobOver, Join, MaskedVector, Message, Refuse, encode_frame
from foedus_workloads.transport.client import LinkSettings, connect
from foedus_workloads.transport.events import Joined, Received
from foedus_workloads.transport.framing import PATH
from foedus_workloads.transport.server import ServerSettings, SiloServer
from foedus_workloads.transport.sessions import Sessions
from foedus_workloads.transport.tls import TlsPaths, client_context, server_context
from support.certificates import Authority
from support.heads import ANY_HEAD

PLAN, CODE = "sha256:" + "a" * 64, "sha256:" + "c" * 64
ID = AttemptId(round=0, attempt=0)
SETTINGS = ServerSettings(poll_seconds=5, body_seconds=0.5, silence_seconds=30)
VECTOR = MaskedVector(id=ID, silo="silo-a", coordinates=2)
GOOD = encode_frame(VECTOR, b"12345678")
HEADERS = {"Foedus-Session": "s" * 16, "Foedus-Incarnation": "1"}
Body = bytes | Callable[[], AsyncIterator[bytes]]


def join_of(silo: str = "silo-a", **changes: Any) -> Join:
    digests = {"plan_digest": PLAN, "code_digest": CODE}
    fields = {"silo": silo, "incarnation": 1, "identity": b"k" * 32, "head": ANY_HEAD, **digests}
    return Join(**(fields | changes))


@dataclass(frozen=True)
class Coordinator:
    """A coordinator's server in which silo-a, silo-b and their certificates are known."""

    folder: Path
    authority: Authority
    server: SiloServer
    port: int

    def files(self, silo: str = "silo-a", job: str = "job", **how: Any) -> TlsPaths:
        name = x509.UniformResourceIdentifier(silo_uri("ns", job, silo))
        return how.pop("by", self.authority).issue(self.folder / "peer", name, trust=self.authority, **how)

    @asynccontextmanager
    async def peer(self, files: TlsPaths) -> AsyncIterator[Callable[..., Awaitable[tuple[int, str]]]]:
        """Give a function that posts one body with changed headers, and returns status and text."""
        tls = {"ssl": client_context(files), "server_hostname": "job-coordinator"}
        async with aiohttp.ClientSession() as http:

            async def post(body: Body, sequence: int, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
                data = body if isinstance(body, bytes) else body()
                named = HEADERS | {"Foedus-Sequence": str(sequence)} | dict(headers or {})
                url = f"https://127.0.0.1:{self.port}{PATH}"
                async with http.post(url, data=data, headers=named, **tls) as response:
                    return response.status, await response.text()

            yield post


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Coordinator]:
    authority = Authority.create()
    context = server_context(authority.issue(folder / "coordinator", x509.DNSName("job-coordinator")))
    sessions = Sessions(["silo-a", "silo-b"], plan_digest=PLAN, code_digest=CODE, clock=asyncio.get_running_loop().time)
    server = SiloServer(sessions, namespace="ns", job="job", incarnation=0, settings=SETTINGS)
    async with server.listening("127.0.0.1", 0, context) as (_, port):
        server.expect_payloads(8)
        yield Coordinator(folder, authority, server, port)


async def events(server: SiloServer) -> list[object]:
    """Return what the round was told of, up to now."""
    found: list[object] = []
    while (event := await server.next_event(0.02)) is not None:
        found.append(event)
    return found


async def slow() -> AsyncIterator[bytes]:
    yield b"\0"
    await asyncio.sleep(5)


def case(wrong: str, status: int, line: str, body: Body, **headers: str) -> Case:
    """Return the case of a silo that has joined and then posts `body`; afterwards it posts the right one."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def act(root: Path) -> Seen:
        async with serving(root) as coordinator, coordinator.peer(coordinator.files()) as post:
            await post(encode_frame(join_of()), 0)
            assert isinstance(await coordinator.server.next_event(5), Joined)
            answer, text = await post(body, 1, named)
            heard = await events(coordinator.server)
            good, _ = await post(GOOD, 1)
            assert await events(coordinator.server) == [Received("silo-a", VECTOR, b"12345678")]
        end = f"answered {answer}; the session goes on" if good == 204 else f"answered {answer}; the session is over"
        return Seen((text,), end, NOTHING if not heard else "the round heard of it", text)

    return Case(wrong, line, f"answered {status}; the session goes on", NOTHING, lambda root: asyncio.run(act(root)))


def joining(
    wrong: str, status: int, line: str, message: Message, prepare: Callable[[Coordinator], TlsPaths] | None = None
) -> Case:
    """Return the case of somebody who tries to join with `message` and a certificate."""

    async def act(root: Path) -> Seen:
        async with serving(root) as coordinator:
            files = prepare(coordinator) if prepare else coordinator.files()
            async with coordinator.peer(files) as post:
                answer, text = await post(encode_frame(message), 0)
            heard, present = await events(coordinator.server), coordinator.server.present
        end = f"answered {answer}; nobody has joined" if not present else "joined"
        return Seen((text,), end, NOTHING if not heard else "the round heard of it", text)

    return Case(wrong, line, f"answered {status}; nobody has joined", NOTHING, lambda root: asyncio.run(act(root)))


CLOSED = "the handshake or the first answer fails; nobody has joined"


def handshake(wrong: str, prepare: Callable[[Coordinator], ssl.SSLContext]) -> Case:
    """Return the case of a peer that does not get through the handshake."""

    async def act(root: Path) -> Seen:
        async with serving(root) as coordinator:
            context = prepare(coordinator)
            refused = await asyncio.to_thread(is_refused, coordinator.port, context)
            heard, present = await events(coordinator.server), coordinator.server.present
        return Seen(("",), CLOSED if refused and not present else "joined", NOTHING if not heard else "heard", "")

    return Case(wrong, "", CLOSED, NOTHING, lambda root: asyncio.run(act(root)))


def dialling(wrong: str, prepare: Callable[[Coordinator], ssl.SSLContext]) -> Case:
    """Return the case of a silo's own client whose certificate the coordinator does not take."""

    async def act(root: Path) -> Seen:
        async with serving(root) as coordinator:
            link = connect(
                lambda: ("127.0.0.1", coordinator.port),
                join_of(),
                hostname="job-coordinator",
                context=prepare(coordinator),
                entropy=os.urandom,
                settings=LinkSettings(pause_seconds=0.05),
            )
            problem: FoedusError | None = None
            try:
                async with link:
                    pass
            except FoedusError as error:
                problem = error
            heard = await events(coordinator.server)
        line, code = str(problem), ExitCode.OK if problem is None else problem.code
        return Seen((line,), f"the silo ends with {exits(code)}", NOTHING if not heard else "heard", line)

    end = f"the silo ends with {exits(ExitCode.IDENTITY_REFUSED)}"
    line = "job-coordinator: one side does not accept the other's certificate; mount certificates that this job's "
    return Case(
        wrong, line + "authority signed for these very names", end, NOTHING, lambda root: asyncio.run(act(root))
    )


def is_refused(port: int, context: ssl.SSLContext) -> bool:
    try:
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, server_hostname="job-coordinator") as tls,
        ):
            tls.sendall(b"GET /v1/messages HTTP/1.1\r\nHost: x\r\n\r\n")
            return not tls.recv(100)  # with TLS 1.3 the refusal arrives after the client's side of the handshake
    except (ssl.SSLError, ConnectionError):
        return True


def tls_1_2(coordinator: Coordinator) -> ssl.SSLContext:
    context = client_context(coordinator.files())
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def without_certificate(coordinator: Coordinator) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=coordinator.files().ca)


def expired(coordinator: Coordinator) -> ssl.SSLContext:
    return client_context(coordinator.files(years=(-2, -1)))


def not_yet(coordinator: Coordinator) -> ssl.SSLContext:
    return client_context(coordinator.files(years=(1, 2)))


def foreign(coordinator: Coordinator) -> ssl.SSLContext:
    return client_context(coordinator.files(by=Authority.create()))


HANDSHAKES = (
    handshake("TLS 1.2", tls_1_2),
    handshake("no certificate", without_certificate),
    dialling("another authority's certificate", foreign),
    dialling("an expired certificate, by the coordinator's clock", expired),
    dialling("a certificate that is not good yet: the coordinator's clock is set back", not_yet),
)
JOINS = (
    joining(
        "another job's certificate",
        403,
        "ns/job: the certificate names no silo of this job; use the certificate that was issued to the silo for this job",
        join_of(),
        lambda c: c.files(job="another"),
    ),
    joining(
        "a silo that the job does not have",
        403,
        "silo-c: the job has no such silo",
        join_of("silo-c"),
        lambda c: c.files("silo-c"),
    ),
    joining("another silo's name", 403, "silo-a: the frame is not the certificate's own message", join_of("silo-b")),
    joining(
        "another plan",
        403,
        "silo-a: the silo was given another plan; start silo and coordinator from the same job",
        join_of(plan_digest="sha256:" + "b" * 64),
    ),
    joining(
        "other code",
        403,
        "silo-a: the silo runs other code (sha256:bbbbbbbbbbbb) than the coordinator (sha256:cccccccccccc); install the same"
        " release on both sides, in a cluster by an image's digest",
        join_of(code_digest="sha256:" + "b" * 64),
    ),
    joining(
        "another version of the protocol",
        403,
        "silo-a: protocol 1 is not spoken here; run the same release on both sides (this side speaks …)",
        join_of(protocol=1),
    ),
)
BODIES = (
    case(
        "another silo's message",
        403,
        "silo-a: the frame is not the certificate's own message",
        encode_frame(Refuse(id=ID, silo="silo-b", reason="x")),
    ),
    case(
        "a coordinator's message",
        403,
        "silo-a: the frame is not the certificate's own message",
        encode_frame(JobOver(outcome="x")),
    ),
    case(
        "an older process of the silo", 410, "silo-a: a newer process of this silo exists", GOOD, Foedus_Incarnation="0"
    ),
    case("another session", 409, "silo-a: no session is open", GOOD, Foedus_Session="t" * 16),
    case("a frame is missing", 400, "session: a frame is missing before this one", GOOD, Foedus_Sequence="3"),
    case("a frame without a number", 400, "Foedus-Sequence: a whole number is needed", GOOD, Foedus_Sequence="-1"),
    case(
        "lying counts: fewer values than are named",
        400,
        "MaskedVector: the payload is not one uint32 a coordinate",
        encode_frame(VECTOR, b"1234"),
    ),
    case(
        "a payload where none belongs",
        400,
        "Refuse: this kind carries no payload",
        encode_frame(Refuse(id=ID, silo="silo-a", reason="x"), b"1234"),
    ),
    case("an oversized payload", 413, "MaskedVector: the payload is too large", encode_frame(VECTOR, b"1" * 12)),
    case("an oversized body", 413, "frame: the body is too large", b"\0" * 300_000),
    case("not a frame", 400, "frame: Unable to extract tag using discriminator 'kind'", b"\0\0\0\2{}"),
    case("half a header", 400, "frame: the body is too short", b"\0"),
    case("a slow body", 408, "the body came too slowly", slow, Content_Length="100"),
    case("a body without a length", 411, "a body names its length", slow),
    case("a compressed body", 415, "a body is sent as it is, without encoding", b"x", Content_Encoding="gzip"),
)

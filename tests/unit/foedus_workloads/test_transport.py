"""The transport over real TLS on loopback: who may speak, what is read, and that each frame counts once."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509

from foedus_contract.errors import FoedusError, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.identities import operator_uri, silo_uri
from foedus_contract.wire import (
    AttemptId,
    JobOver,
    Join,
    MaskedVector,
    Refuse,
    StartAttempt,
    Welcome,
    encode_frame,
)
from foedus_workloads.transport.client import CoordinatorLink, LinkSettings, Rejoined, connect
from foedus_workloads.transport.events import Joined, Lost, Received
from foedus_workloads.transport.framing import PATH
from foedus_workloads.transport.server import MAX_CONNECTIONS, ServerSettings, SiloServer
from foedus_workloads.transport.sessions import Busy, Sessions
from foedus_workloads.transport.tls import TlsPaths, client_context, server_context
from support.certificates import Authority
from support.heads import ANY_HEAD

PLAN, CODE = "sha256:" + "a" * 64, "sha256:" + "c" * 64
ID = AttemptId(round=0, attempt=0)
SETTINGS = ServerSettings(poll_seconds=5, body_seconds=0.5, silence_seconds=60)
LINK = LinkSettings(patience_seconds=0.3, request_seconds=10, pause_seconds=0.05)


@dataclass(frozen=True)
class World:
    folder: Path
    authority: Authority
    server: SiloServer
    sessions: Sessions
    port: int

    def files(self, silo: str, *, job: str = "job", authority: Authority | None = None) -> TlsPaths:
        name = x509.UniformResourceIdentifier(silo_uri("ns", job, silo))
        return (authority or self.authority).issue(self.folder / f"{job}-{silo}", name, trust=self.authority)

    def operator(self, job: str) -> TlsPaths:
        name = x509.UniformResourceIdentifier(operator_uri("ns", job))
        return self.authority.issue(self.folder / f"{job}-operator", name)

    def link(self, silo: str, *, join: Join | None = None, files: TlsPaths | None = None):
        return connect(
            lambda: ("127.0.0.1", self.port),
            join or join_of(silo),
            hostname="job-coordinator",
            context=client_context(files or self.files(silo)),
            entropy=os.urandom,
            settings=LINK,
        )

    async def next(self, kind: type, timeout: float = 5):
        while not isinstance(event := await self.server.next_event(timeout), kind):
            assert event is not None
        return event


def join_of(silo: str, incarnation: int = 0, **changes: object) -> Join:
    digests = {"plan_digest": PLAN, "code_digest": CODE}
    fields = {"silo": silo, "incarnation": incarnation, "identity": b"k" * 32, "head": ANY_HEAD, **digests}
    return Join(**(fields | changes))


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    clock=None,
    name: str = "job-coordinator",
    authority: Authority | None = None,
    incarnation: int = 1,
    settings: ServerSettings = SETTINGS,
) -> AsyncIterator[World]:
    authority = authority or Authority.create()
    context = server_context(authority.issue(folder / "coordinator", x509.DNSName(name)))
    sessions = Sessions(["a", "b"], plan_digest=PLAN, code_digest=CODE, clock=clock or asyncio.get_running_loop().time)
    pages = {"/privacy/status": lambda: ("application/json", b'{"rounds":1}')}
    server = SiloServer(sessions, namespace="ns", job="job", incarnation=incarnation, settings=settings, pages=pages)
    async with server.listening("127.0.0.1", 0, context) as (_, port):
        yield World(folder, authority, server, sessions, port)


async def test_frames_go_both_ways_and_payloads_with_them(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, world.link("a") as link:
        assert (await world.next(Joined)).silo == "a"
        world.server.expect_payloads(8)
        start = StartAttempt(id=ID, factor="B", adapter_digest=PLAN)
        world.server.send("a", Welcome(incarnation=0))
        world.server.send("a", start, b"adapter")
        assert await link.receive() == (Welcome(incarnation=0), b"")
        assert await link.receive() == (start, b"adapter")
        vector = MaskedVector(id=ID, silo="a", coordinates=2)
        await link.send(vector, b"12345678")
        assert await world.next(Received) == Received("a", vector, b"12345678")


async def test_a_silo_that_talks_faster_than_it_is_heard_is_told_to_wait_and_loses_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, world.link("a") as link, world.link("b") as other:
        for number in range(7):  # with Joined, eight
            await link.send(Refuse(id=ID, silo="a", reason=str(number)))
        later = asyncio.create_task(link.send(Refuse(id=ID, silo="a", reason="7")))
        await other.send(Refuse(id=ID, silo="b", reason="b"))  # another silo is heard meanwhile
        assert not later.done()
        with pytest.raises(Busy):
            world.sessions.join("a", join_of("a", 1), session="another")
        heard = [await world.next(Received) for _ in range(9)]
        await later
        assert [event.message.reason for event in heard if event.silo == "a"] == list("01234567")


async def refusal(world: World, link) -> FoedusError:
    with pytest.raises(FoedusError) as caught:
        async with link:
            pass
    return caught.value


async def test_foreign_certificates_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        foreign = Authority.create()
        name = x509.UniformResourceIdentifier(silo_uri("ns", "job", "a"))
        distrusting = world.authority.issue(tmp_path / "distrusting", name, trust=foreign)
        cases = [
            world.link("a", files=world.files("a", authority=foreign)),
            world.link("a", files=distrusting),
            world.link("a", files=world.files("a", job="another")),
            world.link("a", files=world.authority.issue(tmp_path / "dns", x509.DNSName("a"))),
            world.link("c"),
            world.link("a", join=join_of("b"), files=world.files("a")),
            world.link("a", join=join_of("a", plan_digest="sha256:" + "b" * 64)),
            world.link("a", join=join_of("a", code_digest="sha256:" + "b" * 64)),
            world.link("a", join=join_of("a", protocol=1)),
        ]
        for case in cases:
            assert (await refusal(world, case)).code is ExitCode.IDENTITY_REFUSED
        assert world.server.present == frozenset()


async def test_what_the_coordinator_says_of_itself_is_for_silos_of_the_job_and_the_operator(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        cases = [
            (world.files("a"), 200),
            (world.files("c"), 403),
            (world.files("a", job="other"), 403),
            (world.operator("job"), 200),
            (world.operator("other"), 403),
        ]
        for files, status in cases:
            async with aiohttp.ClientSession() as session:
                url = f"https://127.0.0.1:{world.port}/privacy/status"
                answer = await session.get(url, ssl=client_context(files), server_hostname="job-coordinator")
                assert answer.status == status
                assert (await answer.read() == b'{"rounds":1}') is (status == 200)
        assert world.server.present == frozenset()  # who looks has not joined


@pytest.mark.parametrize("verb", ["GET", "POST", "DELETE"])
async def test_the_operators_certificate_opens_nothing_but_pages(tmp_path: Path, verb: str) -> None:
    async with serving(tmp_path) as world, aiohttp.ClientSession() as session:
        frame = encode_frame(join_of("a")) if verb == "POST" else b""
        answer = await session.request(
            verb,
            f"https://127.0.0.1:{world.port}{PATH}",
            data=frame,
            headers={"Foedus-Session": "s" * 16, "Foedus-Sequence": "0"},
            ssl=client_context(world.operator("job")),
            server_hostname="job-coordinator",
        )
        assert answer.status == 403
        assert world.server.present == frozenset()


async def test_a_coordinator_with_another_name_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, name="other-coordinator") as world:
        assert (await refusal(world, world.link("a"))).code is ExitCode.IDENTITY_REFUSED


@pytest.mark.parametrize(("highest", "certificate"), [(ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, False)])
async def test_tls_1_2_and_peers_without_certificate_get_nothing(
    tmp_path: Path, highest: ssl.TLSVersion, certificate: bool
) -> None:
    async with serving(tmp_path) as world:
        files = world.files("a")
        context = ssl.create_default_context(cafile=files.ca)
        context.maximum_version = highest
        if certificate:
            context.load_cert_chain(files.certificate, files.key)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(_greet, world.port, context)


def _greet(port: int, context: ssl.SSLContext) -> None:
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, server_hostname="job-coordinator") as tls,
    ):
        tls.sendall(b"GET /v1/messages HTTP/1.1\r\nHost: x\r\n\r\n")
        if not tls.recv(100):  # with TLS 1.3 the refusal arrives after the client's side of the handshake
            raise ConnectionError


async def test_a_higher_incarnation_takes_over_and_a_lower_one_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, world.link("a", join=join_of("a", 1)) as old:
        await world.next(Joined)
        async with world.link("a", join=join_of("a", 2)):
            assert isinstance(await world.server.next_event(5), Lost)
            assert (await world.server.next_event(5)).join.incarnation == 2
            with pytest.raises(Refused) as caught:
                await old.receive()
            assert caught.value.code is ExitCode.SUPERSEDED


async def test_two_processes_with_one_incarnation_do_not_share_a_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, world.link("a"):
        assert isinstance(await refusal(world, world.link("a")), Unavailable)


async def test_a_silo_that_falls_silent_is_lost_and_may_come_back(tmp_path: Path) -> None:
    now = [0.0]
    async with serving(tmp_path, clock=lambda: now[0]) as world, world.link("a") as link:
        await world.next(Joined)
        world.sessions.lose("a")
        assert isinstance(await world.server.next_event(5), Lost)
        assert isinstance(await link.receive(), Rejoined)
        assert isinstance(await world.server.next_event(5), Joined)
    assert await world.next(Lost) == Lost("a")


class Listening:
    """A silo's session, and a coordinator that looks for silence."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sessions = Sessions(["a"], plan_digest=PLAN, code_digest=CODE, clock=lambda: self.now)
        self.sessions.join("a", join_of("a"), session="s" * 16)
        self.session = self.sessions.find("a", session="s" * 16, incarnation=0)

    def look(self, *, after: float = 1.0, times: int = 1) -> bool:
        """Look for silence, and say whether the silo is still there."""
        for _ in range(times):
            self.now += after
            self.sessions.lose_silent(10, pause=1.0)
        return self.sessions.present == {"a"}


def test_silence_counts_only_without_an_open_request() -> None:
    world = Listening()
    assert world.look(times=9)
    with world.sessions.request(world.session):
        assert world.look(times=100)
    assert world.look(times=10)
    assert not world.look()


def test_a_standstill_of_the_coordinator_is_no_silence_of_the_silos() -> None:
    world = Listening()
    assert world.look(after=1000.0)
    assert world.look(times=8)
    assert not world.look()


@asynccontextmanager
async def raw_session(world: World) -> AsyncIterator[tuple[aiohttp.ClientSession, dict]]:
    """A silo that speaks HTTP by hand."""
    context = client_context(world.files("a"))
    headers = {"Foedus-Session": "s" * 16, "Foedus-Incarnation": "0"}
    async with aiohttp.ClientSession() as http:
        common = {"ssl": context, "server_hostname": "job-coordinator"}
        url = f"https://127.0.0.1:{world.port}{PATH}"
        join = http.post(url, data=encode_frame(join_of("a")), headers=headers | {"Foedus-Sequence": "0"}, **common)
        assert (await join).status == 204
        yield http, {"url": url, "headers": headers | {"Foedus-Sequence": "1"}, **common}


async def _slow() -> AsyncIterator[bytes]:
    yield b"\0"
    await asyncio.sleep(5)


VECTOR = MaskedVector(id=ID, silo="a", coordinates=2)
BAD_BODIES = {
    "foreign sender": (encode_frame(Refuse(id=ID, silo="b", reason="x")), {}, 403),
    "coordinator's message": (encode_frame(JobOver(outcome="x")), {}, 403),
    "short payload": (encode_frame(VECTOR, b"1234"), {}, 400),
    "payload on a kind without": (encode_frame(Refuse(id=ID, silo="a", reason="x"), b"1234"), {}, 400),
    "payload above the plan's": (encode_frame(VECTOR, b"1" * 12), {}, 413),
    "body above every bound": (b"\0" * 300_000, {}, 413),
    "not a frame": (b"\0\0\0\2{}", {}, 400),
    "too short": (b"\0", {}, 400),
    "a frame is missing": (encode_frame(VECTOR, b"12345678"), {"Foedus-Sequence": "3"}, 400),
    "no number": (encode_frame(VECTOR, b"12345678"), {"Foedus-Sequence": "-1"}, 400),
    "another session": (encode_frame(VECTOR, b"12345678"), {"Foedus-Session": "t" * 16}, 409),
    "older incarnation": (encode_frame(VECTOR, b"12345678"), {"Foedus-Incarnation": "1"}, 409),
    "encoded": (b"x", {"Content-Encoding": "gzip"}, 415),
    "without length": (_slow, {}, 411),
    "too slow": (_slow, {"Content-Length": "100"}, 408),
}


async def test_bodies_that_are_malformed_oversized_slow_or_another_silos_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, raw_session(world) as (http, request):
        world.server.expect_payloads(8)
        got = {}
        for name, (body, changes, _) in BAD_BODIES.items():
            data = body() if callable(body) else body
            headers = request["headers"] | changes
            async with http.post(**(request | {"headers": headers}), data=data) as response:
                got[name] = response.status
        assert got == {name: status for name, (_, _, status) in BAD_BODIES.items()}
        assert isinstance(await world.server.next_event(1), Joined)
        assert await world.server.next_event(0.01) is None


async def dial(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = client_context(world.files("a"))
    return await asyncio.open_connection("127.0.0.1", world.port, ssl=context, server_hostname="job-coordinator")


@pytest.mark.parametrize("sent", [b"", b"GET /v1/messages HTTP/1.1\r\nHost: x\r\n"])
async def test_a_connection_whose_request_does_not_come_is_closed(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path, settings=replace(SETTINGS, idle_seconds=0.3)) as world, asyncio.timeout(60):
        reader, writer = await dial(world)
        writer.write(sent)
        assert await reader.read() == b""
        writer.close()


async def test_of_one_silos_connections_the_newest_are_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=replace(SETTINGS, idle_seconds=600)) as world, asyncio.timeout(60):
        dialled = [await dial(world) for _ in range(MAX_CONNECTIONS + 2)]
        for reader, _ in dialled[:2]:
            assert await reader.read() == b""
        reader, writer = dialled[-1]
        writer.write(b"GET /v1/messages HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")  # it names no incarnation
        for _, writer in dialled:
            writer.close()


async def test_one_join_of_a_silo_is_read_at_a_time(tmp_path: Path) -> None:
    body, reading, go_on = encode_frame(join_of("a")), asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:5]
        reading.set()
        await go_on.wait()
        yield body[5:]

    async with serving(tmp_path, settings=replace(SETTINGS, body_seconds=60)) as world, aiohttp.ClientSession() as http:
        request = {
            "url": f"https://127.0.0.1:{world.port}{PATH}",
            "ssl": client_context(world.files("a")),
            "server_hostname": "job-coordinator",
            "headers": {"Foedus-Session": "s" * 16, "Foedus-Incarnation": "0", "Foedus-Sequence": "0"},
        }
        named = request["headers"] | {"Content-Length": str(len(body))}
        first = asyncio.create_task(http.post(**(request | {"headers": named}), data=slowly()))
        await reading.wait()
        status = 0
        while status != 429:  # the server may not have begun to read the first one yet
            async with http.post(**request, data=body[:5] + b"x") as response:
                status = response.status
                assert status in {400, 429}
        go_on.set()
        assert (await first).status == 204
        assert (await world.next(Joined)).silo == "a"


async def test_a_retried_frame_is_applied_once_and_a_lost_answer_is_delivered_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, raw_session(world) as (http, request):
        world.server.expect_payloads(8)
        for _ in range(2):
            async with http.post(**request, data=encode_frame(VECTOR, b"12345678")) as response:
                assert response.status == 204
        await world.next(Received)
        assert await world.server.next_event(0.01) is None
        world.server.send("a", Welcome(incarnation=0))
        world.server.send("a", JobOver(outcome="x"))
        got = []
        for acknowledged in ("0", "0", "1", "1"):
            headers = request["headers"] | {"Foedus-Acknowledge": acknowledged}
            async with http.get(**(request | {"headers": headers})) as response:
                got.append(response.headers["Foedus-Sequence"])
        assert got == ["1", "1", "2", "2"]


async def test_a_link_without_a_coordinator_says_so_in_one_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        pass
    error = await refusal(world, world.link("a"))
    assert (error.code, "\n" in str(error)) == (ExitCode.UNAVAILABLE, False)


async def test_the_link_posts_and_polls_again_after_the_server_came_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, world.link("a") as link:
        assert isinstance(link, CoordinatorLink)
        world.server.send("a", Welcome(incarnation=0))
        await link.receive()
        assert link.receive_now() is None
        for number in range(3):
            await link.send(Refuse(id=ID, silo="a", reason=str(number)))
        got = [(await world.next(Received)).message.reason for _ in range(3)]
        assert got == ["0", "1", "2"]


class Silence:
    """An exchange that breaks off a poll which was open for longer than the link's patience, then answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.newest = 0

    async def request(self, method: str, _headers: object, _body: object = None) -> object:
        self.asked.append(method)
        if self.asked == ["POST", "GET"]:
            await asyncio.sleep(2 * LINK.patience_seconds)
            raise Unavailable("the coordinator does not answer")
        if self.asked == ["POST", "GET", "GET"]:
            return 1, (Welcome(incarnation=2), b"")
        if len(self.asked) > 3:
            await asyncio.Event().wait()
        return None


async def test_a_poll_that_breaks_off_after_a_long_time_is_made_again() -> None:
    link = CoordinatorLink(Silence(), join_of("a"), entropy=os.urandom, settings=LINK)
    await link.join()
    polling = asyncio.create_task(link.keep_polling())
    assert await link.receive() == (Welcome(incarnation=2), b"")
    polling.cancel()
    await asyncio.wait([polling])


@asynccontextmanager
async def two_coordinators(folder: Path) -> AsyncIterator[tuple[World, World, list[int], CoordinatorLink]]:
    """Silo a is with the older of two coordinators; the address leads to the port in the list."""
    hasty = replace(SETTINGS, silence_seconds=0.4)  # the older one notices that its silo is with the newer
    async with (
        serving(folder, settings=hasty) as old,
        serving(folder, authority=old.authority, incarnation=2) as new,
    ):
        ports = [old.port]
        link = connect(
            lambda: ("127.0.0.1", ports[0]),
            join_of("a"),
            hostname="job-coordinator",
            context=client_context(old.files("a")),
            entropy=os.urandom,
            settings=LinkSettings(patience_seconds=60, pause_seconds=0.05),
        )
        async with link as opened:
            await old.next(Joined)
            yield old, new, ports, opened


async def test_a_silo_follows_the_address_to_a_newer_coordinator_and_hears_no_older_one(tmp_path: Path) -> None:
    async with two_coordinators(tmp_path) as (old, new, ports, link):
        ports[0] = new.port
        old.server.send("a", Welcome(incarnation=1))  # ends the poll that is open there
        while not isinstance(await link.receive(), Rejoined):
            pass
        await new.next(Joined)
        assert await old.next(Lost) == Lost("a")

        ports[0] = old.port
        sent = asyncio.create_task(link.send(Refuse(id=ID, silo="a", reason="x")))
        assert await old.server.next_event(0.5) is None  # the older one answers, and is passed over
        assert not sent.done()

        ports[0] = new.port
        assert (await new.next(Received)).message.reason == "x"
        await sent


async def test_a_silo_that_is_sent_home_meets_a_newer_coordinator_if_there_is_one(tmp_path: Path) -> None:
    async with two_coordinators(tmp_path) as (_, new, ports, link):
        assert not await link.meets_newer(1)
        ports[0] = 1  # nobody listens there
        assert not await link.meets_newer(1)
        ports[0] = new.port
        assert await link.meets_newer(1)
        assert isinstance(await link.receive(), Rejoined)
        await new.next(Joined)
        assert not await link.meets_newer(2)

"""What a misbehaving coordinator sends to a real silo's process: real TLS, the job's own certificate, a bad message."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from safetensors.numpy import load, save

from bad_input.cases import NOTHING, Case, Seen, exits
from bad_input.peers import address
from bad_input.pods import SILO, pin_all, seen, write_spec
from bad_input.processes import Sabotage, pod
from bad_input.sabotage import short_requests
from foedus_contract.canonical import bytes_digest
from foedus_contract.code import code_digest
from foedus_contract.exit_codes import ExitCode
from foedus_contract.wire import AdvertiseKeys, AttemptId, JobOver, Refuse, StartAttempt, Welcome, encode_frame
from foedus_workloads.training.broadcast import BroadcastSigner
from foedus_workloads.training.model import AdaptedModel
from foedus_workloads.transport.events import Joined, Received
from foedus_workloads.transport.framing import PATH
from foedus_workloads.transport.server import SiloServer
from foedus_workloads.transport.sessions import Sessions
from foedus_workloads.transport.tls import TlsPaths, server_context
from support import training_world
from support.training_world import SILOS, World

PATIENCE_SECONDS = 60.0
Adapter = dict[str, np.ndarray]


@functools.cache
def adapter() -> bytes:
    """Return the adapter with which every world's job begins; the base model and the seed are always the same."""
    with tempfile.TemporaryDirectory() as folder:
        world = training_world.build_world(Path(folder))
        return AdaptedModel.load(world.root / "model", world.plan.model, world.plan.seed).adapter_bytes()


class Rogue:
    """A coordinator that says what a case tells it to."""

    def __init__(self, world: World, server: SiloServer) -> None:
        self.world, self._server = world, server
        files = TlsPaths(*(world.root / "tls/coordinator" / name for name in ("tls.crt", "tls.key", "ca.crt")))
        self._signer = BroadcastSigner.load(files)

    def start(self, number: int = 0, attempt: int = 0, *, payload: bytes | None = None, **changes: Any) -> None:
        """Send a broadcast of the round; what `changes` names is set before it is signed."""
        payload = adapter() if payload is None else payload
        plan = self.world.plan
        fields = {"factor": "BA"[number % 2], "adapter_digest": bytes_digest(payload), "charged": attempt}
        message = StartAttempt(id=AttemptId(round=number, attempt=attempt), **(fields | changes))
        self.send(self._signer.sign(message, plan, plan.digest()), payload)

    def send(self, message: Any, payload: bytes = b"") -> None:
        self._server.send(SILO, message, payload)

    async def answer(self) -> AdvertiseKeys | Refuse:
        """Return what the silo says to the broadcast."""
        event = await self._server.next_event(PATIENCE_SECONDS)
        assert isinstance(event, Received), event
        assert isinstance(event.message, AdvertiseKeys | Refuse)
        return event.message


@asynccontextmanager
async def commanding(world: World) -> AsyncIterator[Rogue]:
    """Serve the silo until it is there, and give the coordinator that it has joined."""
    files = TlsPaths(*(world.root / "tls/coordinator" / name for name in ("tls.crt", "tls.key", "ca.crt")))
    sessions = Sessions(
        SILOS, plan_digest=world.plan.digest(), code_digest=code_digest(), clock=asyncio.get_running_loop().time
    )
    server = SiloServer(sessions, namespace="ns", job="job", incarnation=0)
    async with server.listening(*address(world), server_context(files)):
        server.expect_payloads(1 << 20)
        yield Rogue(world, server)


Script = Callable[[Rogue], Awaitable[None]]


def case(wrong: str, line: str, script: Script, end: str = "", silent: str = NOTHING) -> Case:
    """Return the case of a script for the coordinator, whose last broadcast the silo refuses; then the job is over."""

    async def conduct(world: World) -> str:
        async with commanding(world) as rogue:
            process = pod(world.root, write_spec(world, SILO))
            assert isinstance(await rogue._server.next_event(PATIENCE_SECONDS), Joined)
            rogue.send(Welcome(incarnation=0))
            await script(rogue)
            if not end:
                answer = await rogue.answer()
                assert isinstance(answer, Refuse), answer
                rogue.start(0, 1, charged=0)
                goes_on = isinstance(await rogue.answer(), AdvertiseKeys)
                rogue.send(JobOver(outcome="over"))
            ended = await asyncio.to_thread(process.wait)
        results.append(ended)
        return "" if end else GOES_ON if goes_on and ended.code == 0 else "the silo takes part in nothing more"

    results: list[Any] = []

    def act(root: Path) -> Seen:
        root.mkdir()
        world = training_world.build_world(root)
        pin_all(world)
        how = asyncio.run(conduct(world))
        said = seen(world, results.pop())
        return Seen(said.lines, how or said.end, said.charged, said.said)

    return Case(wrong, line, end or GOES_ON, silent, act)


GOES_ON = "the silo refuses the attempt and takes part in the next"


def changed(change: Callable[[Adapter], object]) -> bytes:
    """Return the adapter with some of its values changed."""
    tensors = {name: value.copy() for name, value in load(adapter()).items()}
    change(tensors)
    return save(tensors)


def first(tensors: Adapter) -> str:
    return min(tensors)


def with_nan() -> bytes:
    return changed(lambda tensors: tensors[first(tensors)].__setitem__(0, np.nan))


def with_other_shape() -> bytes:
    return changed(lambda tensors: tensors.__setitem__(first(tensors), np.zeros((2, 2), np.float32)))


async def says(rogue: Rogue, **what: Any) -> None:
    rogue.start(**what)


def broadcast(**what: Any) -> Script:
    return lambda rogue: says(rogue, **what)


async def replay(rogue: Rogue) -> None:
    rogue.start()
    assert isinstance(await rogue.answer(), AdvertiseKeys)
    rogue.start()


async def not_signed(rogue: Rogue) -> None:
    rogue.send(
        StartAttempt(id=AttemptId(round=0, attempt=0), factor="B", adapter_digest=bytes_digest(adapter())), adapter()
    )


async def other_adapter(rogue: Rogue) -> None:
    rogue.start(adapter_digest=bytes_digest(adapter()), payload=with_nan())


async def nan(rogue: Rogue) -> None:
    rogue.start(payload=with_nan())


async def other_shape(rogue: Rogue) -> None:
    rogue.start(payload=with_other_shape())


async def not_safetensors(rogue: Rogue) -> None:
    rogue.start(payload=b"adapter")


async def older(rogue: Rogue) -> None:
    rogue.send(Welcome(incarnation=3))
    rogue.send(Welcome(incarnation=2))


INVALID = exits(ExitCode.INVALID_MODEL)
BROADCASTS = (
    case(
        "a replayed broadcast",
        "silo silo-a: round 1, attempt 0 refused: attempt 0 was answered before, or its steps come in another order",
        replay,
    ),
    case(
        "a round that the plan does not have",
        "silo silo-a: round 8, attempt 7 refused: the plan has no such attempt",
        broadcast(number=7, attempt=7),
    ),
    case(
        "a factor that is not the round's",
        "silo silo-a: round 1, attempt 0 refused: another factor is active in this round",
        broadcast(factor="A"),
    ),
    case(
        "lying counts: more attempts charged than there were",
        "silo silo-a: round 1, attempt 0 refused: so many attempts cannot have been charged before it",
        broadcast(charged=1),
    ),
    case(
        "a broadcast that is not signed",
        "silo silo-a: round 1, attempt 0 refused: the broadcast is not signed by this job's coordinator",
        not_signed,
    ),
    case(
        "another adapter than the one that is named",
        "silo silo-a: round 1, attempt 0 refused: the adapter is not the one that is named",
        other_adapter,
    ),
    case(
        "NaN in the broadcast adapter",
        "silo silo-a: adapter: the adapter does not fit the model: encoder.layer.1.attention.self.query.A is not finite; coordinator and silos must run the same plan and version",
        nan,
        INVALID,
    ),
    case(
        "an adapter of another shape",
        "silo silo-a: adapter: the adapter does not fit the model: encoder.layer.1.attention.self.query.A has another shape or type; coordinator and silos must run the same plan and version",
        other_shape,
        INVALID,
    ),
    case(
        "an adapter that is not safetensors",
        "silo silo-a: adapter: the adapter does not fit the model: it is not safetensors; coordinator and silos must run the same plan and version",
        not_safetensors,
        INVALID,
    ),
    case(
        "an older coordinator answers",
        "silo silo-a: job: an older coordinator answers; see why an older process of the coordinator still runs",
        older,
        exits(ExitCode.UNAVAILABLE),
    ),
)


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answering(
    wrong: str,
    line: str,
    answer: Answer,
    code: ExitCode = ExitCode.INTERNAL,
    sabotage: Sabotage | None = None,
) -> Case:
    """Return the case of a coordinator that lets the silo join and answers its polls with `answer`."""

    async def conduct(world: World) -> Any:
        async def post(_request: web.Request) -> web.StreamResponse:
            return web.Response(status=204)

        app = web.Application()
        app.router.add_post(PATH, post)
        app.router.add_get(PATH, answer)
        app.router.add_delete(PATH, post)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        files = TlsPaths(*(world.root / "tls/coordinator" / name for name in ("tls.crt", "tls.key", "ca.crt")))
        await web.TCPSite(runner, *address(world), ssl_context=server_context(files)).start()
        try:
            return await asyncio.to_thread(pod(world.root, write_spec(world, SILO), sabotage).wait)
        finally:
            await runner.cleanup()

    def act(root: Path) -> Seen:
        root.mkdir()
        world = training_world.with_deadlines(training_world.build_world(root), stage_seconds=1)
        pin_all(world)
        return seen(world, asyncio.run(conduct(world)))

    return Case(wrong, line, exits(code), NOTHING, act)


async def redirect(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("https://elsewhere.example/v1/messages")


async def no_number(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=encode_frame(Welcome(incarnation=0)))


async def not_a_frame(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"<html></html>", headers={"Foedus-Sequence": "1"})


async def silos_kind(_request: web.Request) -> web.StreamResponse:
    frame = encode_frame(Refuse(id=AttemptId(round=0, attempt=0), silo=SILO, reason="x"))
    return web.Response(body=frame, headers={"Foedus-Sequence": "1"})


async def oversized(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Foedus-Sequence": "1", "Content-Length": str(1 << 40)})
    await response.prepare(request)
    await response.write(b"\0" * 65536)
    return response


async def slow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Foedus-Sequence": "1", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"\0")
    await asyncio.sleep(30)
    return response


ANSWERS = (
    answering(
        "an answer that sends the silo elsewhere",
        "silo silo-a: job-coordinator at 127.0.0.1:…: the coordinator's answer cannot be used (status 302, 302: Found); see what stands between it and the silo, and run the same release on both sides",
        redirect,
    ),
    answering(
        "an answer without a number",
        "silo silo-a: job-coordinator at 127.0.0.1:…: the coordinator's answer cannot be used (frame: it has no length or number); see what stands between it and the silo, and run the same release on both sides",
        no_number,
    ),
    answering(
        "an answer that is no frame",
        "silo silo-a: job-coordinator at 127.0.0.1:…: the coordinator's answer cannot be used (frame: the header length is wrong); see what stands between it and the silo, and run the same release on both sides",
        not_a_frame,
    ),
    answering(
        "a silo's message as an answer",
        "silo silo-a: job-coordinator at 127.0.0.1:…: the coordinator's answer cannot be used (Refuse: a coordinator does not send this kind); see what stands between it and the silo, and run the same release on both sides",
        silos_kind,
    ),
    answering(
        "an oversized answer",
        "silo silo-a: job-coordinator at 127.0.0.1:…: the coordinator's answer cannot be used (frame: the body is too large); see what stands between it and the silo, and run the same release on both sides",
        oversized,
    ),
    answering(
        "a slow answer",
        "silo silo-a: job-coordinator at 127.0.0.1:…: the coordinator does not answer; see whether it runs, and whether the network lets this silo through",
        slow,
        ExitCode.UNAVAILABLE,
        short_requests,
    ),
)

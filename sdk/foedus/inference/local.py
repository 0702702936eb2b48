"""`foedus infer --local`: the owner of a model shares it, starts three parties on this machine, and asks them.

Whatever happens, processes are ended and everything that was written is removed: at an error, at Ctrl-C, at a party's
death. When this process itself is killed, the parties end with it, and the next call removes what it left; shares of
weights lie on disk only until the parties have read them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from foedus.inference.answer import Answer, Inference, scores
from foedus.inference.folders import build_spec, call_folder, lay_out, pod_folder, shares_path
from foedus.inference.parties import LocalParties
from foedus.inference.show import Show
from foedus_contract.mpc_wire import PARTIES
from foedus_engine.cluster.embedded import utc_now
from foedus_engine.cluster.endpoints import find_free_port
from foedus_workloads.inference.inquiry import Inquiry, Question, Reply
from foedus_workloads.inference.model import Owned, Prepared, Sharing, prepare, read_owned
from foedus_workloads.inference.shares import write_shares
from foedus_workloads.transport.caller import Call, CallerPatience, CallerPlace

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What is asked, and of which model."""

    texts: tuple[str, ...]
    model: Path
    adapter: Path | None
    state: Path
    protocol: str = "Replicated3PC"


class Stopwatch:
    """Where the time goes, by phase."""

    def __init__(self, show: Show, clock: Callable[[], float] = time.monotonic) -> None:
        self._show, self._clock = show, clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        """Show `text` and count the time of what happens inside."""
        self._show.phase(text)
        begin = self._clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - begin


async def infer_local(request: Request, show: Show, environ: Mapping[str, str]) -> Inference:
    """Answer all texts; raises FoedusError with one line that says what went wrong."""
    watch = Stopwatch(show)
    with watch.phase("reading", "reading the model"):
        owned = await asyncio.to_thread(read_owned, request.model, request.adapter)
        prepared = [await asyncio.to_thread(prepare, owned, text) for text in request.texts]
    with call_folder(request.state) as folder:
        with watch.phase("sharing", "sharing the weights among three parties"):
            sharing = await asyncio.to_thread(share, owned, folder)
        ports: set[int] = set()
        while len(ports) < PARTIES:
            ports.add(await find_free_port(ports))
        threads = max(1, (os.cpu_count() or 1) // PARTIES)
        spec = build_spec(owned.digest, threads)
        place = lay_out(folder, sorted(ports), spec, now=utc_now(), entropy=os.urandom)
        parties = LocalParties(folder)
        try:
            with watch.phase("starting", "starting three parties"):
                await parties.start(environ)
                await parties.watched(parties.listening())
                parties.drop_shares()
            answers = await parties.watched(_ask_all(owned, sharing, prepared, place, watch, show))
        finally:
            await parties.stop()
    return Inference(tuple(answers), watch.seconds, request.protocol, owned.digest)


def share(owned: Owned, folder: Path) -> Sharing:
    """Share the weights and write each party's file; raises Unavailable when the volume is full."""
    sharing, shares = owned.share(os.urandom)
    for party, (label, tensors) in enumerate(shares):
        pod_folder(folder, party).mkdir(mode=0o700)
        write_shares(shares_path(folder, party), tensors, label)
    return sharing


async def _ask_all(
    owned: Owned, sharing: Sharing, prepared: list[Prepared], place: CallerPlace, watch: Stopwatch, show: Show
) -> list[Answer]:
    answers = []
    for number, each in enumerate(prepared):
        begin = time.monotonic()
        question = owned.question(each, sharing, os.urandom)
        progress = _rounds_shown(show, number, len(prepared), question.rounds)
        reply = await _ask(question, place, watch, progress)
        answer = Answer(
            label=owned.labels[max(range(len(reply.values)), key=reply.values.__getitem__)],
            scores=scores(owned.labels, reply.values),
            logits=reply.values,
            tokens=each.tokens,
            seconds=time.monotonic() - begin,
            rounds=reply.rounds,
            bytes_sent=reply.bytes_sent,
        )
        show.answer(number, answer)
        answers.append(answer)
    return answers


def _rounds_shown(show: Show, number: int, texts: int, total: int) -> Callable[[int], None]:
    """Return what readers' threads tell of rounds; the loop's own thread shows it."""
    loop = asyncio.get_running_loop()

    def report(begun: int) -> None:
        loop.call_soon_threadsafe(show.rounds, number, texts, begun, total)

    return report


async def _ask(question: Question, place: CallerPlace, watch: Stopwatch, report: Callable[[int], None]) -> Reply:
    """Ask in a thread; when this is cancelled, the call is closed and its thread has ended."""
    call = Call(place, CallerPatience())
    inquiry = Inquiry(question)
    with watch.phase("connecting", "connecting"):
        await _in_thread(lambda: call.agree(inquiry), call)
    with watch.phase("computing", f"computing {question.rounds} rounds"):
        return await _in_thread(lambda: call.ask(inquiry, report), call)


async def _in_thread(work: Callable[[], T], call: Call) -> T:
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        call.close()
        await asyncio.wait([task])
        raise

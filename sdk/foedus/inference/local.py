"""`foedus infer --local`: the owner of a model shares it, starts the parties on this machine, and asks them.

Whatever happens, processes are ended and everything that was written is removed: at an error, at Ctrl-C, at a party's
death. When this process itself is killed, the parties end with it, and the next call removes what it left; shares of
weights lie on disk only until the parties have read them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from foedus.inference.answer import PARTIES, PROTOCOLS, Answer, Inference, scores
from foedus.inference.folders import build_spec, call_folder, lay_out, shares_path
from foedus.inference.parties import LocalParties
from foedus.inference.places import Loopback, Places
from foedus.inference.show import Show
from foedus_contract.errors import InvalidInput
from foedus_contract.mpc_wire import DEALER, members
from foedus_engine.cluster.embedded import utc_now
from foedus_workloads.inference.inquiry import Inquiry, Question, Reply
from foedus_workloads.inference.model import Owner
from foedus_workloads.inference.schemes import Scheme, find_scheme
from foedus_workloads.inference.shares import write_shares
from foedus_workloads.mpc.model import EmbeddedText
from foedus_workloads.mpc.ring import missing_kernels
from foedus_workloads.transport.caller import Call, CallerPatience, CallerPlace

T = TypeVar("T")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What is asked, and of which model."""

    texts: tuple[str, ...]
    model: Path
    adapter: Path | None
    state: Path
    protocol: str = PROTOCOLS[0]
    parties: int | None = None  # the protocol's own number


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


async def infer_local(
    request: Request, show: Show, environ: Mapping[str, str], places: Places | None = None
) -> Inference:
    """Answer all texts; raises FoedusError with one line that says what went wrong."""
    places = places or Loopback()
    if request.protocol not in PROTOCOLS:
        raise InvalidInput(f"{request.protocol!r} is no protocol", where="protocol", cure=f"use {', '.join(PROTOCOLS)}")
    if (missing := missing_kernels()) is not None:
        _logger.warning("%s", missing)
    watch = Stopwatch(show)
    with watch.phase("reading", "reading the model"):
        scheme = await in_thread(lambda: find_scheme(request.protocol, request.parties or PARTIES[request.protocol]))
        owner = await in_thread(lambda: Owner(request.model, request.adapter, scheme))
        await in_thread(lambda: check_lengths(owner, request.texts))
    with call_folder(request.state) as folder:
        with watch.phase("sharing", f"sharing the weights among {scheme.parties} parties"):
            digest = await in_thread(lambda: share(owner, folder))
        place = await make_place(folder, owner.digest, scheme, places)
        parties = LocalParties(folder, place.addresses, places)
        try:
            with watch.phase("starting", f"starting {told(scheme)}"):
                await parties.start(environ)
                await parties.watched(begun(parties, owner, request.texts))
                parties.drop_shares()
                show.processes(parties.processes)
            asking = Asking(owner, digest, place, watch, show)
            answers = await parties.watched(asking.all(request.texts))
            show.phase(f"ending {told(scheme)}")
        finally:
            await parties.stop()
    return Inference(tuple(answers), watch.seconds, scheme.protocol, scheme.parties, owner.digest, scheme.assumption)


async def begun(parties: LocalParties, owner: Owner, texts: Sequence[str]) -> None:
    """Plan what will be asked while the parties read their shares, and wait until both is done."""
    await asyncio.gather(parties.listening(), in_thread(lambda: owner.prepare(texts)))


def told(scheme: Scheme) -> str:
    """Return who takes part, as people are told."""
    dealer = DEALER in members(scheme.protocol, scheme.parties)
    return f"{scheme.parties} parties{' and a dealer' if dealer else ''}"


def check_lengths(owner: Owner, texts: Sequence[str]) -> None:
    """Raise InvalidInput naming the first text that the model does not take: before anything is started."""
    for number, text in enumerate(texts, 1):
        try:
            owner.embed(text)
        except InvalidInput as error:
            raise InvalidInput(error.what, where=f"text {number}", cure=error.cure, code=error.code) from None


def share(owner: Owner, folder: Path) -> str:
    """Share the weights, write each party's file, return the digest of the sharing; raises Unavailable."""
    sharing = owner.share(os.urandom)
    for member, label in sharing.labels.items():
        write_shares(shares_path(folder, member), sharing.shares[member], label)
    return sharing.digest


async def make_place(folder: Path, model_digest: str, scheme: Scheme, places: Places) -> CallerPlace:
    """Choose the members' addresses and write what they and the client need to find and to know each other."""
    addresses = await places.addresses(members(scheme.protocol, scheme.parties))
    spec = build_spec(model_digest, max(1, (os.cpu_count() or 1) // len(addresses)), addresses.keys())
    return lay_out(folder, addresses, spec, now=utc_now(), entropy=os.urandom)


@dataclass(frozen=True)
class Asking:
    """Asks one text after another."""

    owner: Owner
    sharing: str
    place: CallerPlace
    watch: Stopwatch
    show: Show

    async def all(self, texts: Sequence[str]) -> list[Answer]:
        """Return the answers in order, each shown as it comes."""
        answers = []
        for number, text in enumerate(texts):
            answer = await self._answer(number, len(texts), self.owner.embed(text))
            self.show.answer(number, answer)
            answers.append(answer)
        return answers

    async def _answer(self, number: int, texts: int, embedded: EmbeddedText) -> Answer:
        begin = time.monotonic()
        question = self.owner.ask(embedded, self.sharing, os.urandom)
        reply = await self._ask(question, _rounds_shown(self.show, number, texts, question.rounds))
        labels = self.owner.labels
        return Answer(
            label=labels[max(range(len(labels)), key=reply.values.__getitem__)],
            scores=scores(labels, reply.values),
            logits=reply.values,
            tokens=embedded.tokens,
            seconds=time.monotonic() - begin,
            rounds=reply.rounds,
            bytes_sent=reply.bytes_sent,
        )

    async def _ask(self, question: Question, report: Callable[[int], None]) -> Reply:
        call, inquiry = Call(self.place, CallerPatience()), Inquiry(question)
        with self.watch.phase("connecting", "connecting"):
            await in_thread(lambda: call.agree(inquiry), call.close)
        with self.watch.phase("computing", f"computing {question.rounds} rounds"):
            return await in_thread(lambda: call.ask(inquiry, report), call.close)


def _rounds_shown(show: Show, number: int, texts: int, total: int) -> Callable[[int], None]:
    """Return what readers' threads tell of rounds; the loop's own thread shows it."""
    loop = asyncio.get_running_loop()

    def report(begun: int) -> None:
        loop.call_soon_threadsafe(show.rounds, number, texts, begun, total)

    return report


async def in_thread(work: Callable[[], T], end: Callable[[], None] = lambda: None) -> T:
    """Do the work in a thread; when this is cancelled, `end` is called and the thread has ended before it is over.

    What cleans up behind it would otherwise remove files that are just being written.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        end()
        await asyncio.wait([task])
        raise

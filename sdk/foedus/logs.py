"""`foedus logs`: what the processes of a job on a cluster have written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from foedus.cluster.target import OBJECT_NAME, Target, on_cluster, run_on_cluster
from foedus.display import Standing, advance, event_line
from foedus.plain import printable
from foedus_contract.errors import FoedusError, InvalidInput, Unavailable
from foedus_contract.progress import read_event
from foedus_engine import names
from foedus_engine.build.pods import CONTAINER
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.ending import is_terminal
from foedus_engine.decide.plan import ObjectKey
from foedus_engine.decide.pod_state import has_started

if TYPE_CHECKING:
    from foedus.cluster.session import Session

LOOK_SECONDS = 2.0  # between two looks for processes that were started meanwhile


@dataclass(frozen=True)
class Choice:
    """Whose logs are meant: one silo's, the coordinator's, or with neither all."""

    job: str
    silo: str = ""
    coordinator: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """What the pods that are meant bear."""
        role = {names.COMPONENT_LABEL: names.COORDINATOR_ROLE} if self.coordinator else {}
        return {names.JOB_LABEL: self.job, **role, **({names.SILO_LABEL: self.silo} if self.silo else {})}

    @property
    def is_one(self) -> bool:
        """Whether the lines are all of one role."""
        return self.coordinator or bool(self.silo)


@click.command()
@click.argument("job", type=OBJECT_NAME)
@click.option("--silo", default="", help="The process of this silo alone.")
@click.option("--coordinator", is_flag=True, help="The coordinator alone.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until the job is over.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json prints one object a line."
)
@on_cluster
def logs(target: Target, job: str, silo: str, coordinator: bool, follow: bool, output: str) -> None:
    """Show what the processes of JOB say, each line with its silo's name in front, or with --silo or --coordinator one.

    What a process reports of its progress is put into words; with json it stays as it is.
    """
    if silo and coordinator:
        raise click.UsageError("--silo and --coordinator name two processes: choose one, or neither for all")
    choice = Choice(job, silo, coordinator)

    async def work(session: Session) -> None:
        key = ObjectKey(names.API_VERSION, names.TRAINING_KIND, session.one_namespace, job)
        stored = await session.get(key)
        check_silo(stored, silo)
        printer = Printer(choice, output, int(stored["spec"]["training"]["rounds"]))
        if follow:
            await _follow(session, key, choice, printer)
        else:
            await _show(session, choice, printer)

    run_on_cluster(target, work)


def check_silo(job: Object, silo: str) -> None:
    """Raise InvalidInput when the job has no such silo."""
    silos = [str(client["name"]) for client in job["spec"].get("clients", ())]
    if silo and silo not in silos:
        raise InvalidInput(f"the job has no silo {silo}", where="--silo", cure=f"it has {', '.join(silos)}")


class Printer:
    """Prints lines of logs, each with who wrote it where that is not clear."""

    def __init__(self, choice: Choice, output: str, rounds: int) -> None:
        self._choice = choice
        self._output = output
        self._standing = Standing(rounds=rounds)

    def line(self, pod: Object, text: bytes) -> None:
        """Print one line."""
        role, shown = role_of(pod), text.decode("utf-8", "replace")
        if self._output == "json":
            said = {"event": "Line", "role": role, "pod": pod["metadata"]["name"], "line": shown}
            click.echo(json.dumps(said, ensure_ascii=False))
            return
        head = "" if self._choice.is_one else f"{role} | "
        click.echo(head + (self._in_words(text) or printable(shown).rstrip()))

    def _in_words(self, text: bytes) -> str:
        """Return the line for an event; nothing when it is none."""
        if not text.startswith(b"{"):
            return ""
        try:
            event = read_event(text)
        except ValueError:
            return ""
        self._standing = advance(self._standing, event)
        return printable(event_line(event, self._standing))


def role_of(pod: Object) -> str:
    """Return whose process a pod runs: a silo's, by its name, or the coordinator's or inspector's."""
    labels = pod["metadata"].get("labels", {})
    return str(labels.get(names.SILO_LABEL) or labels.get(names.COMPONENT_LABEL, ""))


def started(pods: Sequence[Object]) -> list[Object]:
    """Return the pods whose process was started, the coordinator's first, then by silo and age."""

    def order(pod: Object) -> tuple[bool, str, str]:
        return bool(pod["metadata"]["labels"].get(names.SILO_LABEL)), role_of(pod), pod["metadata"]["creationTimestamp"]

    shown = {*names.ROLES}
    ours = [pod for pod in pods if pod["metadata"].get("labels", {}).get(names.COMPONENT_LABEL) in shown]
    return sorted((pod for pod in ours if has_started(pod)), key=order)


async def _show(session: Session, choice: Choice, printer: Printer) -> None:
    found = started(await session.list("v1", "Pod", choice.labels))
    if not found:
        cure = f"`foedus get job {choice.job} -n {session.namespace}` says what it waits for; a job that is over keeps "
        cure += "its processes' logs until spec.ttlSecondsAfterFinished"
        where = f"{names.TRAINING_KIND} {session.namespace}/{choice.job}"
        raise Unavailable("no process of it has left a log here", where=where, cure=cure)
    for pod in found:
        await _print(session, pod, printer, follow=False)


async def _follow(session: Session, job: ObjectKey, choice: Choice, printer: Printer) -> None:
    """Print the logs of all processes beside each other, also of those that come later, until the job is over."""
    printing: dict[str, asyncio.Task[None]] = {}  # by the pod's UID
    try:
        while True:
            over = is_terminal((await session.get(job)).get("status") or {})  # before the pods: none comes afterwards
            for pod in started(await session.list("v1", "Pod", choice.labels)):
                if (uid := pod["metadata"]["uid"]) not in printing:
                    printing[uid] = asyncio.create_task(_print(session, pod, printer, follow=True))
            if over:
                await asyncio.gather(*printing.values())
                return
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        for task in printing.values():
            task.cancel()
        await asyncio.gather(*printing.values(), return_exceptions=True)


async def _print(session: Session, pod: Object, printer: Printer, *, follow: bool) -> None:
    key = ObjectKey("v1", "Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
    try:
        async for line in session.log(key, CONTAINER, follow=follow):
            printer.line(pod, line)
    except FoedusError as error:
        # One node that does not answer must not keep the other processes' logs away.
        click.echo(f"{role_of(pod)}: its log cannot be read: {error}", err=True)

"""`foedus get`: how the jobs and budgets of a cluster stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from foedus import table
from foedus.cluster import rows
from foedus.cluster.rows import KINDS, Kind
from foedus.cluster.target import OBJECT_NAME, Target, everywhere, on_cluster, run_on_cluster
from foedus_contract.models import DIGEST_SHOWN
from foedus_engine import names
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.plan import ObjectKey

if TYPE_CHECKING:
    from foedus.cluster.session import Session


@click.command()
@click.argument("kind", required=False)
@click.argument("name", required=False, type=OBJECT_NAME)
@click.option("-A", "--all-namespaces", "every", is_flag=True, help="Those of all namespaces.")
@click.option("-w", "--watch", is_flag=True, help="Show each change as it comes, until interrupted.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="json prints the objects as the API server has them, one a line.",
)
@on_cluster
def get(target: Target, kind: str | None, name: str | None, every: bool, watch: bool, output: str) -> None:
    """Show the jobs and budgets of a cluster.

    KIND is `jobs` or `budgets`; without it, both are shown. With NAME, the object's conditions are shown too: what it
    waits for, or why it failed. With --watch, json prints {"event": …, "object": …} for each change.
    """
    kinds = (find_kind(kind),) if kind is not None else KINDS
    if every and name:
        raise click.UsageError("an object of a given NAME lies in one namespace: leave --all-namespaces out")
    if watch and len(kinds) > 1:
        raise click.UsageError("say which are to be watched: jobs or budgets")
    chosen = everywhere(target) if every else target

    async def work(session: Session) -> None:
        if watch:
            await _watch(session, kinds[0], name or "", output)
        elif name:
            _show_one(kinds[0], await session.get(key_of(kinds[0], session.one_namespace, name)), output)
        else:
            await _show_all(session, kinds, output)

    run_on_cluster(chosen, work)


def find_kind(word: str) -> Kind:
    """Return the kind that a word means; raises click.UsageError."""
    kind = rows.find_kind(word)
    if kind is None:
        raise click.UsageError(f"there is no kind {word}: it is jobs or budgets")
    return kind


def key_of(kind: Kind, namespace: str, name: str) -> ObjectKey:
    """Return the key of one object."""
    return ObjectKey(names.API_VERSION, kind.name, namespace, name)


def _show_one(kind: Kind, obj: Object, output: str) -> None:
    if output == "json":
        _echo_json(obj)
        return
    shown = [rows.header(kind, with_namespace=False), rows.row(kind, obj, datetime.now(UTC), with_namespace=False)]
    for line in [*table.aligned(shown), *rows.details(kind, obj)]:
        click.echo(line)


async def _show_all(session: Session, kinds: tuple[Kind, ...], output: str) -> None:
    found = {kind: await session.list(names.API_VERSION, kind.name) for kind in kinds}
    if output == "json":
        for obj in [obj for objects in found.values() for obj in objects]:
            _echo_json(obj)
        return
    blocks = [_block(session, kind, found[kind]) for kind in kinds]
    click.echo("\n\n".join("\n".join(block) for block in blocks))


def _block(session: Session, kind: Kind, objects: tuple[Object, ...]) -> list[str]:
    every, now = session.namespace is None, datetime.now(UTC)
    if not objects:
        place = "the cluster" if every else f"namespace {session.namespace}"
        return [f"no {kind.words[0]} in {place}"]
    shown = [rows.row(kind, obj, now, with_namespace=every) for obj in objects]
    return table.aligned([rows.header(kind, with_namespace=every), *shown])


async def _watch(session: Session, kind: Kind, name: str, output: str) -> None:
    every = session.namespace is None
    title = rows.header(kind, with_namespace=every)
    columns, last = table.widths([title, _usual(title)]), dict[str, Any]()
    if output == "text":
        click.echo(table.line(title, columns))
    async for change in session.watch(names.API_VERSION, kind.name, name):
        if output == "json":
            _echo_json({"event": change.kind.title(), "object": change.object})
            continue
        cells = list(rows.row(kind, change.object, datetime.now(UTC), with_namespace=every))
        if change.kind == "DELETED":
            cells[title.index("READY")] = "Deleted"
        uid = str(change.object["metadata"]["uid"])
        if last.get(uid) != cells[:-1]:  # all but the age
            click.echo(table.line(cells, columns))
        last[uid] = cells[:-1]


def _usual(title: table.Row) -> table.Row:
    """Return cells as wide as most are: while watching, widths cannot be taken from what is still to come."""
    usual = {"NAMESPACE": 16, "NAME": 24, "PHASE": 9, "READY": 15, "DATASET": DIGEST_SHOWN, "AGE": 6}
    return ["x" * usual.get(name, len(name)) for name in title]


def _echo_json(value: Mapping[str, Any]) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))

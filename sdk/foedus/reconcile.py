"""`foedus budget reconcile`: a restored ledger takes over, as spent, what the silo's own log of charges has."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from foedus.cluster.reader import SUFFIX_BYTES, reader_settings
from foedus.cluster.target import OBJECT_NAME, Place, Target, in_place, run_on_cluster
from foedus.state import list_budget_keys, require_budget
from foedus_contract.errors import Refused
from foedus_contract.exit_codes import ExitCode
from foedus_engine import names
from foedus_engine.build.metadata import Owner
from foedus_engine.build.reader import Reading, build_reader
from foedus_engine.cluster.embedded_ledgers import head_path, ledger_path, read_head
from foedus_engine.decide.plan import BudgetKey, ObjectKey
from foedus_ledger.charge_log import log_path, read_charges, read_own_charges
from foedus_ledger.charges import LOG_FILE, Charges, check_reaches, check_signer, missing
from foedus_ledger.ledger import epsilon_reserved, epsilon_spent
from foedus_ledger.records import Account, BudgetRecord
from foedus_ledger.sqlite import SqliteLedger

if TYPE_CHECKING:
    from foedus.cluster.session import FoundBudget, Session


@dataclass(frozen=True)
class TakenOver:
    """A budget after its log was taken over, and the accounts that changed, each with its charges before."""

    key: BudgetKey
    record: BudgetRecord
    changed: dict[str, int]

    def account(self, job: str) -> Account:
        """Return a job's account as it is now."""
        return self.record.accounts[job]


@click.command()
@click.argument("name", required=False, type=OBJECT_NAME)
@click.option(
    "--log",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help=f"On a cluster: a copy of the silo's log, {LOG_FILE}.  [default: a pod of yours reads the silo's volume]",
)
@click.option("--image", help="On a cluster: image of that pod.  [default: that of a job in the namespace]")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json prints one object a budget."
)
@in_place
def reconcile(place: Place, name: str | None, log: Path | None, image: str | None, output: str) -> None:
    """Let a ledger that was restored from an old copy take over what the silo has charged since.

    The charges come from the silo's own log and count as spent; nothing is given back. In a state folder the log lies
    beside the ledger, and without NAME all budgets of the namespace are looked at. On a cluster it lies on the silo's
    volume, and NAME says whose. The same command again changes nothing.
    """
    if place.target is not None:
        if name is None:
            raise click.UsageError("on a cluster, name the budget: its log is the silo's own")
        _on_cluster(place.target, name, log, image, output)
        return
    if log is not None or image is not None:
        raise click.UsageError("--log and --image are for a cluster; in a state folder the log lies beside the ledger")
    keys = (
        list_budget_keys(place.state, place.namespace)
        if name is None
        else [require_budget(place.state, place.namespace, name).key]
    )
    if not keys and output == "text":
        click.echo(f"no budgets in {place.state}")
    for key in keys:
        done = take_over(place.state, key)
        _echo(done, output)
        seen = read_head(head_path(place.state, key))
        if seen is not None:
            check_reaches(done.record, seen, str(ledger_path(place.state, key)))


def _on_cluster(target: Target, name: str, log: Path | None, image: str | None, output: str) -> None:
    """Take over what the log has and the cluster's ledger lacks."""

    async def work(session: Session) -> None:
        (before,) = await session.budgets(name)
        if log is None:
            charges = await _fetch_log(session, before, image)
        else:
            charges = await asyncio.to_thread(read_copy, log, before)
        lacking = missing(before.record, charges, f"{names.BUDGET_KIND} {before.key}" if log is None else str(log))
        after = await session.take_over(before.key, lacking)
        _echo(compare(before.key, before.record, after, lacking), output)
        (now,) = await session.budgets(name)
        if now.behind is not None:
            raise now.behind

    run_on_cluster(target, work)


def read_copy(log: Path, budget: FoundBudget) -> Charges:
    """Return what a copy of the log says; raises Refused unless a head that the cluster keeps tells whose log it is."""
    if budget.head is None:
        raise Refused(
            f"nothing tells whose log this is: the cluster keeps no log head of {names.BUDGET_KIND} {budget.key}",
            where=str(log),
            cure="leave --log out: the log then comes from the silo's own volume",
            code=ExitCode.IDENTITY_REFUSED,
        )
    return read_charges(log, seen=budget.head)


async def _fetch_log(session: Session, found: FoundBudget, image: str | None) -> Charges:
    """Return what the log on the silo's volume says: a pod hands that one file over, and nothing else of the volume.

    Where the cluster keeps no head, that it lies there says whose it is: the key lies there, too.
    """
    from foedus.cluster.fetch import fetch

    name = found.key.name
    budget = await session.get(ObjectKey(names.API_VERSION, names.BUDGET_KIND, session.one_namespace, name))
    jobs = await session.list("batch/v1", "Job", {names.MANAGER_LABEL: names.MANAGER})
    settings = reader_settings(jobs[0] if jobs else None, image, f"namespace {session.namespace}")
    owner = Owner(names.BUDGET_KIND, session.one_namespace, name, budget["metadata"]["uid"])
    reading = Reading(names.ledger_claim(name), "", (LOG_FILE,))
    pod = build_reader(owner, names.reader(name, secrets.token_hex(SUFFIX_BYTES)), reading, settings)
    with tempfile.TemporaryDirectory() as scratch:
        await fetch(session, pod, Path(scratch), expected="", note=lambda text: click.echo(text, err=True))
        place = Path(names.ledger_claim(name)) / LOG_FILE
        return await asyncio.to_thread(read_charges, Path(scratch) / LOG_FILE, seen=found.head, where=place)


def _echo(done: TakenOver, output: str) -> None:
    for line in [json.dumps(document(done))] if output == "json" else lines(done):
        click.echo(line)


def take_over(state: Path, key: BudgetKey) -> TakenOver:
    """Take over what the silo's log has and the ledger lacks; raises Refused when one of them cannot be trusted."""
    path = ledger_path(state, key)
    charges = read_own_charges(log_path(path))
    check_signer(charges, read_head(head_path(state, key)), str(log_path(path)))
    ledger = SqliteLedger(path)
    before = ledger.read()
    lacking = missing(before, charges, str(path))
    after = ledger.take_over(lacking)
    return compare(key, before, after, lacking)


def compare(key: BudgetKey, before: BudgetRecord, after: BudgetRecord, lacking: Mapping[str, Account]) -> TakenOver:
    """Return what has changed in a ledger that took over the accounts it lacked."""
    held = {job: account.charged for job, account in before.accounts.items()}
    return TakenOver(key, after, {job: held.get(job, 0) for job in sorted(lacking)})


def lines(done: TakenOver) -> list[str]:
    """Return what was taken over, one line a job."""
    if not done.changed:
        return [f"budget {done.key.name}: the log has nothing that the ledger lacks"]
    return [
        f"budget {done.key.name}: job {job} ({done.account(job).claimant}): {before} releases were charged here, "
        f"{done.account(job).charged} of {done.account(job).reserved} are charged now"
        for job, before in done.changed.items()
    ]


def document(done: TakenOver) -> dict[str, object]:
    """Return the same as one object."""
    imported = [
        {"job": job, "claimant": done.account(job).claimant, "before": before, "charged": done.account(job).charged}
        for job, before in done.changed.items()
    ]
    spent = {"epsilonSpent": epsilon_spent(done.record), "epsilonReserved": epsilon_reserved(done.record)}
    return {"name": done.key.name, "namespace": done.key.namespace, "imported": imported, **spent}

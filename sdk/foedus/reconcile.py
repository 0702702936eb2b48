"""`foedus budget reconcile`: a restored ledger takes over, as spent, what the silo's own log of charges has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click

from foedus.options import namespace_option, state_option
from foedus.state import list_budget_keys, require_budget
from foedus_engine.cluster.embedded_ledgers import head_path, ledger_path, read_head
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.charge_log import log_path, read_charges
from foedus_ledger.charges import check_reaches, missing
from foedus_ledger.ledger import epsilon_reserved, epsilon_spent
from foedus_ledger.records import Account, BudgetRecord
from foedus_ledger.sqlite import SqliteLedger


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
@click.argument("name", required=False)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", help="json prints one object a budget.")
@namespace_option
@state_option
def reconcile(name: str | None, output: str, namespace: str, state: Path) -> None:
    """Let a ledger that was restored from an old copy take over what the silo has charged since.

    The charges come from the silo's own log and count as spent; nothing is given back. Without NAME all budgets of the
    namespace are looked at. The same command again changes nothing.
    """
    keys = list_budget_keys(state, namespace) if name is None else [require_budget(state, namespace, name).key]
    if not keys and output == "text":
        click.echo(f"no budgets in {state}")
    for key in keys:
        done = take_over(state, key)
        for line in [json.dumps(document(done))] if output == "json" else lines(done):
            click.echo(line)
        seen = read_head(head_path(state, key))
        if seen is not None:
            check_reaches(done.record, seen, str(ledger_path(state, key)))


def take_over(state: Path, key: BudgetKey) -> TakenOver:
    """Take over what the silo's log has and the ledger lacks; raises Refused when one of them cannot be trusted."""
    path = ledger_path(state, key)
    charges = read_charges(log_path(path))
    ledger = SqliteLedger(path)
    before = ledger.read()
    lacking = missing(before, charges, str(path))
    after = ledger.take_over(lacking)
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

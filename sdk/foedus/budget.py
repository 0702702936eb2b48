"""`foedus budget`: the data holder's decision how much privacy loss a data set may bear, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from pydantic.alias_generators import to_camel

from foedus.cluster.target import OBJECT_NAME, Place, in_place, is_plugin, run_on_cluster
from foedus.options import command, namespace_option, state_option
from foedus.overlap import Draft, check_overlap, keep_hashes
from foedus.reconcile import reconcile
from foedus.state import StoredBudget, create_budget, find_budget, list_budget_keys, making_budgets, require_budget
from foedus.table import aligned
from foedus_contract.errors import FoedusError, InvalidInput, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.models import DIGEST_SHOWN
from foedus_engine.api.budget import BudgetReason, PrivacyBudget
from foedus_engine.cluster.embedded_ledgers import read_checked
from foedus_engine.decide.plan import BudgetKey
from foedus_engine.manifests import parse_manifest
from foedus_ledger.charges import LedgerBehind
from foedus_ledger.ledger import BudgetRecord, epsilon_reserved, epsilon_spent
from foedus_workloads.training.data import read_records, record_hash

if TYPE_CHECKING:
    from foedus.cluster.session import Session


class BudgetGroup(click.Group):
    """A group in which `foedus budget NAME` means `foedus budget show NAME`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `show` in front unless a command or help is asked for."""
        known = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if args and args[0] in known else ["show", *args])


@click.group(cls=BudgetGroup)
def budget() -> None:
    """Make and show a silo's privacy budget.

    `foedus budget` lists all budgets, `foedus budget NAME` shows who has used one. `show`, `list` and `reconcile` are
    about the state folder, or with --context or --kubeconfig about a cluster.
    """


budget.add_command(reconcile)


@budget.command()
@click.argument("name", required=False)
@click.option(
    "--data",
    "files",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    required=True,
    help="The silo's data file; repeat it to make a budget for each of several silos.",
)
@click.option("--epsilon", type=float, required=True, help="ε that all jobs on this data may spend together.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="δ that goes with it.")
@click.option("--owner", default="", help="Who decides about the data.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    help="A label that records may bear; repeat it for all. Authors of jobs see the list: without this option, it is "
    "of the labels that the records do bear.",
)
@click.option(
    "--least-colluders",
    type=int,
    default=1,
    show_default=True,
    help="Silos that a job must assume, at least, to tell the coordinator all they know, unless its noise is local.",
)
@click.option(
    "-o", "--output", type=click.Choice(["text", "yaml"]), default="text", help="yaml prints the manifest only."
)
@click.option("--additional", is_flag=True, help="Make it although these records have a budget: both may be spent.")
@namespace_option
@state_option
def create(
    name: str | None,
    files: tuple[Path, ...],
    output: str,
    additional: bool,
    namespace: str,
    state: Path,
    **decision: Any,
) -> None:
    """Make a budget for the records in a data file; NAME is the file's folder unless given.

    A budget never changes and is never made twice. A new decision about the same records, or about a data set that has
    some of them, is a new budget under a new name, with --additional: their ε add up.
    """
    if name is not None and len(files) > 1:
        raise InvalidInput("one name does not fit several files", where="NAME", cure="leave it out or give one --data")
    limit = {to_camel(field): list(value) if isinstance(value, tuple) else value for field, value in decision.items()}
    drafts = [make_draft(name or file.resolve().parent.name, namespace, file, limit) for file in files]
    if output == "yaml":
        manifests = [manifest(draft.budget) for draft in drafts]
        click.echo(yaml.safe_dump_all(manifests, sort_keys=False, allow_unicode=True), nl=False)
        return
    if is_plugin():
        words = "kubectl foedus budget create … -o yaml | kubectl apply -f -"
        raise InvalidInput("makes budgets of this machine, or their manifests", where="budget create", cure=words)
    check_distinct(drafts)
    with making_budgets(state):
        if not additional:
            check_overlap(state, drafts)
        create_all(state, drafts)


def make_draft(name: str, namespace: str, file: Path, limit: dict[str, Any]) -> Draft:
    """Return the checked budget for the records in `file`; raises InvalidInput naming field, or file and line."""
    data = read_records(file, limit["labels"] or None)
    labels = limit["labels"] or sorted({record.label for record in data.items})
    document = {
        "apiVersion": "foedus.dev/v1alpha1",
        "kind": "PrivacyBudget",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"dataset": {"digest": data.digest, "records": data.count}, **limit, "labels": labels},
    }
    if limit["delta"] * data.count >= 1:
        cure = f"δ must be below 1/{data.count}, else one record may be published outright"
        raise InvalidInput(f"{limit['delta']:g} is too large", where="--delta", cure=cure)
    parsed = parse_manifest(document)
    assert isinstance(parsed, PrivacyBudget)
    return Draft(parsed, frozenset(record_hash(record) for record in data.items))


def check_distinct(drafts: Sequence[Draft]) -> None:
    """Raise InvalidInput when two budgets have one name."""
    names = [draft.key.name for draft in drafts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        cure = "put each silo's file into a folder of its own name, or make them one by one"
        raise InvalidInput(f"two files would make the budget {twice[0]}", where="--data", cure=cure)


def create_all(state: Path, drafts: Sequence[Draft]) -> None:
    """Make all budgets, or none when one of them exists."""
    for draft in drafts:
        key = draft.key
        if find_budget(state, key.namespace, key.name) is not None:
            raise Refused(
                "exists already and never changes",
                where=f"budget {key.name}",
                cure=f"show it with: {command(f'budget {key.name}', state, key.namespace)}; "
                "a new decision needs a new name and --additional",
                code=ExitCode.BUDGET_EXISTS,
            )
    for draft in drafts:
        keep_hashes(state, draft)  # first: a budget whose records are not known could be made a second time
        create_budget(state, draft.budget)
        spec = draft.budget.spec
        click.echo(
            f"budget {draft.key.name}: ε = {spec.epsilon:g} at δ = {spec.delta:g}, {spec.dataset.records} records, "
            f"public labels: {', '.join(spec.labels)}"
        )


def manifest(item: PrivacyBudget) -> dict[str, Any]:
    """Return the manifest as a user would write it."""
    document = item.to_document()
    meta = {"name": item.metadata.name, "namespace": item.metadata.namespace}
    return {"apiVersion": item.api_version, "kind": item.kind, "metadata": meta, "spec": document["spec"]}


output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json prints one object a budget."
)


@budget.command()
@click.argument("name", required=False, type=OBJECT_NAME)
@output_option
@in_place
def show(place: Place, name: str | None, output: str) -> None:
    """List all budgets, or show the accounts of one."""
    show_budgets(place, name, output)


@budget.command("list")
@output_option
@in_place
def list_all(place: Place, output: str) -> None:
    """List all budgets."""
    show_budgets(place, None, output)


def show_budgets(place: Place, name: str | None, output: str) -> None:
    """Print the budgets of a state folder or of a cluster's namespace, or one with its accounts."""
    if place.target is None:
        show_stored(place.state, place.namespace, name, output)
        return

    async def work(session: Session) -> None:
        objects = await session.budgets(name)
        found = [StoredBudget(item.key, item.record) for item in objects]
        echo_budgets(found, {item.key: judge(item.behind) for item in objects}, name, output)
        if not found and output == "text":
            click.echo(f"no budgets in namespace {session.namespace}; their holders make them, see docs/operator.md")

    run_on_cluster(place.target, work)


def show_stored(state: Path, namespace: str, name: str | None, output: str) -> None:
    """Print the budgets of a state folder; then raises what the first ledger said that cannot be used, if any."""
    found: list[StoredBudget] = []
    ready: dict[BudgetKey, Readiness] = {}
    faults: list[FoedusError] = []
    for asked in [key.name for key in list_budget_keys(state, namespace)] if name is None else [name]:
        try:
            item = require_budget(state, namespace, asked)
            ready[item.key] = readiness(state, item.key)
            found.append(item)
        except FoedusError as error:
            faults.append(error)
    if found:
        echo_budgets(found, ready, name, output)
    elif not faults and output == "text":
        click.echo(f"no budgets in {state}; make one with: foedus budget create --data FILE --epsilon EPSILON")
    for fault in faults[1:]:
        click.echo(f"error: {fault}", err=True)
    if faults:
        raise faults[0]


def echo_budgets(
    found: Sequence[StoredBudget], ready: Mapping[BudgetKey, Readiness], name: str | None, output: str
) -> None:
    """Print budgets as a table or as JSON; one that was named with its accounts."""
    if output == "json":
        for item in found:
            record, now = item.record.model_dump(mode="json", by_alias=True), ready[item.key]
            said = {"status": now.status, "reason": now.reason, "message": now.message}
            click.echo(json.dumps({"name": item.key.name, **record, **spent(item.record), "ready": said}))
        return
    held_back = [f"{item.key.name}: {ready[item.key].message}" for item in found if ready[item.key].status == "False"]
    lines = table(found, ready) + (account_lines(found[0].record) if name else []) + held_back
    for line in lines if found else ():
        click.echo(line)


@dataclass(frozen=True)
class Readiness:
    """Whether jobs may use a budget, as its condition `Ready` says it."""

    reason: BudgetReason
    message: str = ""

    @property
    def status(self) -> str:
        """Return the condition's status."""
        return "True" if self.reason is BudgetReason.AVAILABLE else "False"


def readiness(state: Path, key: BudgetKey) -> Readiness:
    """Return whether jobs may use the budget; raises Refused when its ledger or log cannot be trusted."""
    try:
        read_checked(state, key)
    except LedgerBehind as error:
        return judge(error)
    return judge(None)


def judge(behind: LedgerBehind | None) -> Readiness:
    """Return the readiness of a budget whose ledger is an old copy, or is not."""
    if behind is None:
        return Readiness(BudgetReason.AVAILABLE)
    return Readiness(BudgetReason.LEDGER_BEHIND, str(behind))


def spent(record: BudgetRecord) -> dict[str, float]:
    """Return ε of what is charged, and of what is charged or still reserved."""
    return {"epsilonSpent": epsilon_spent(record), "epsilonReserved": epsilon_reserved(record)}


def table(budgets: Sequence[StoredBudget], ready: Mapping[BudgetKey, Readiness]) -> list[str]:
    """Return one line a budget; the reserved ε includes the spent one, as open jobs may still charge it."""
    rows = [["NAME", "DATASET", "RECORDS", "ε-SPENT", "ε-RESERVED", "ε-LIMIT", "δ", "READY"]]
    for item in budgets:
        spec, used = item.record.spec, spent(item.record)
        rows.append(
            [
                item.key.name,
                spec.digest[:DIGEST_SHOWN],
                str(spec.records),
                f"{used['epsilonSpent']:.4f}",
                f"{used['epsilonReserved']:.4f}",
                f"{spec.epsilon:g}",
                f"{spec.delta:g}",
                "True" if ready[item.key].status == "True" else str(ready[item.key].reason),
            ]
        )
    return aligned(rows)


def account_lines(record: BudgetRecord) -> list[str]:
    """Return the accounts of one budget, one line a job."""
    rows = [["JOB", "STATE", "CHARGED", "RESERVED", "σ", "CLAIMANT"]]
    for uid, account in sorted(record.accounts.items()):
        sigma = f"{account.mechanism.noise_multiplier:.3f}"
        rows.append([uid, account.state, str(account.charged), str(account.reserved), sigma, account.claimant])
    return ["", *aligned(rows)] if len(rows) > 1 else ["", "no job has used it"]

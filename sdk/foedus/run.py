"""`foedus run`: runs a manifest on this machine, by the same decisions and manifests as on a cluster."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from foedus.display import Display, JsonDisplay, LiveDisplay, PlainDisplay
from foedus.engine import Engine, open_engine
from foedus.follow import follow, job_key
from foedus.options import state_option
from foedus_contract.errors import FoedusError, InvalidInput
from foedus_engine import names
from foedus_engine.api.budget import PrivacyBudget
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.cluster.protocol import find
from foedus_engine.decide.ending import is_terminal
from foedus_engine.decide.plan import BudgetKey
from foedus_engine.manifests import load_manifests, parse_manifest

ADAPTER_FOLDER = "adapter"  # of the output volume; the trainer's own constant would import the training framework


@dataclass(frozen=True)
class Options:
    """Where a run keeps its state, finds its volumes and leaves its result."""

    state: Path
    volumes: Path | None
    out: Path


@click.command()
@click.option(
    "-f",
    "--file",
    "files",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    required=True,
    help="A manifest; repeat it for several files.",
)
@click.option(
    "--volumes",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder whose folders are the claims that the manifest names.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the adapter.  [default: ./JOB-result]"
)
@click.option("--output", type=click.Choice(["text", "json"]), default="text", help="json prints one object a line.")
@state_option
def run(files: tuple[Path, ...], volumes: Path | None, out: Path | None, output: str, state: Path) -> None:
    """Run the training job in the manifests, until it ends.

    Budgets are made by the data's holders with `foedus budget create`; this command only spends them.
    """
    job = read_job(files)
    options = Options(state, volumes, out or Path(f"{job.metadata.name}-result"))
    if options.out.exists() and any(options.out.iterdir()):
        raise InvalidInput("holds something already", where=str(options.out), cure="choose another folder with --out")
    display = make_display(output)
    try:
        asyncio.run(until_terminated(run_job(job, options, display, os.environ)))
    except asyncio.CancelledError:
        raise click.Abort from None
    finally:
        display.close()


async def until_terminated(work: Coroutine[Any, Any, None]) -> None:
    """Do the work; SIGTERM cancels it, as Ctrl-C does."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


def read_job(files: Sequence[Path]) -> FederatedTrainingJob:
    """Return the one training job in the files; raises InvalidInput when there is none, or something else."""
    jobs = []
    for file in files:
        for document in load_manifests(file.read_bytes(), source=str(file)):
            parsed = parse_manifest(document, source=str(file))
            if isinstance(parsed, PrivacyBudget):
                cure = "its data's holder makes it with `foedus budget create`; leave it out here"
                raise InvalidInput("a run never makes a budget", where=f"{file}: {parsed.metadata.name}", cure=cure)
            jobs.append(parsed)
    if len(jobs) != 1:
        raise InvalidInput(f"{len(jobs)} training jobs", where=", ".join(map(str, files)), cure="give exactly one")
    return jobs[0]


def make_display(output: str) -> Display:
    """Return JSON lines on request, a live table on a terminal, plain lines elsewhere."""
    if output == "json":
        return JsonDisplay(click.echo)
    return LiveDisplay(Console()) if sys.stdout.isatty() else PlainDisplay(click.echo)


async def run_job(job: FederatedTrainingJob, options: Options, display: Display, environ: Mapping[str, str]) -> None:
    """Run the job to its end and deliver its result; when it does not end well, give back what it did not spend."""
    async with open_engine(options.state, options.volumes, job.metadata.namespace, environ) as engine:
        uid = await create_job(engine, job)
        loop = asyncio.create_task(engine.reconciler.run())
        try:
            status = await follow(engine.cluster, job, display, options.state)
            deliver(engine, job, status, options, display)
        except (FoedusError, asyncio.CancelledError):
            await stop(loop)  # first, so that no pass makes anew what is being removed
            await abandon(engine, job, uid, display)
            raise
        finally:
            await stop(loop)


async def stop(task: asyncio.Task[None]) -> None:
    """Cancel the task and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])


async def create_job(engine: Engine, job: FederatedTrainingJob) -> str:
    """Create the job's object and return its UID.

    A job that a killed engine left behind goes on; raises InvalidInput when the name stands for anything else.
    """
    document = job.to_document()
    stored = await find(engine.cluster, job_key(job))
    if stored is None:
        stored = await engine.cluster.create(document)
    elif stored["spec"] != document["spec"] or is_terminal(stored.get("status", {})):
        raise InvalidInput(
            f"the job {job.metadata.name} has run in this state folder already",
            where="metadata.name",
            cure="give it another name, or choose another folder with --state",
        )
    return str(stored["metadata"]["uid"])


def deliver(
    engine: Engine, job: FederatedTrainingJob, status: Mapping[str, Any], options: Options, display: Display
) -> None:
    """Copy adapter, model card and metrics to the result folder, and say what came out and what to try next."""
    claim = names.coordinator_output(job.metadata.name)
    folder = engine.cluster.claim_folder(job.metadata.namespace, claim)
    assert folder is not None
    shutil.copytree(folder / ADAPTER_FOLDER, options.out, dirs_exist_ok=True)
    result = status["result"]
    accuracy = result.get("accuracy")
    shown = "not measured" if accuracy is None else f"{accuracy:.4f}"
    display.note(
        "Result",
        f"{result['outcome']}: accuracy {shown} on public data, ε spent {status['epsilonSpent']:.4f} of "
        f"{status['epsilonLimit']:g}, {result['rounds']} rounds in {result['attempts']} attempts; in {options.out}",
        outcome=result["outcome"],
        accuracy=accuracy,
        epsilonSpent=status["epsilonSpent"],
        epsilonLimit=status["epsilonLimit"],
        rounds=result["rounds"],
        attempts=result["attempts"],
        out=str(options.out),
    )
    command = f"cat {options.out}/README.md"
    display.note("Next", f"next: {command}    (the model card; it says how to load the adapter)", command=command)


async def abandon(engine: Engine, job: FederatedTrainingJob, uid: str, display: Display) -> None:
    """Remove the job, so that its processes stop; close its accounts and say what has been charged.

    What was charged stays charged, what was only reserved is given back. A process that charges later is refused.
    """
    await engine.cluster.delete(job_key(job))
    for budget in sorted({client.budget_ref.name for client in job.spec.clients}):
        key = BudgetKey(job.metadata.namespace, budget)
        record = await engine.ledgers.read(key)
        if record is None or uid not in record.accounts:
            continue
        await engine.ledgers.close(key, job_uid=uid)
        closed = await engine.ledgers.read(key)
        assert closed is not None
        account = closed.accounts[uid]
        display.note(
            "Charged",
            f"budget {budget}: {account.charged} of {account.reserved} reserved releases are charged for good",
            budget=budget,
            charged=account.charged,
            reserved=account.reserved,
        )

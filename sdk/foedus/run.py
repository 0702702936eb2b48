"""`foedus run`: runs a manifest on this machine, by the same decisions and manifests as on a cluster."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from foedus.display import Display, JsonDisplay, LiveDisplay, PlainDisplay, Write
from foedus.engine import Engine, open_engine, report_source
from foedus.follow import follow
from foedus.interrupt import Output, run_until_terminated
from foedus.lifecycle import accounts, admit, all_left, is_complete, job_key, keep_logs, remove
from foedus.options import command, state_option
from foedus.report.finish import bad_ending, find_record, good_ending, save_report
from foedus.result import drop_old_report, result_folder, say_report, say_result
from foedus_contract import limits
from foedus_contract.durable import read_at_most
from foedus_contract.errors import FoedusError, InvalidInput, JobFailed, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.paths import ADAPTER_FOLDER
from foedus_engine import names
from foedus_engine.api.budget import PrivacyBudget
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.cluster.embedded import utc_now
from foedus_engine.cluster.protocol import find
from foedus_engine.manifests import load_manifests, parse_manifest

Result = TypeVar("Result")


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
    told = Output()
    display = make_display(output, told.write)
    with result_folder(options.out):
        check_state(state)
        try:
            run_until_terminated(run_job(job, options, display, os.environ), told)
        finally:
            display.close()


def check_state(state: Path) -> None:
    """Raise Refused when there is no state folder: budgets lie in it, and a run makes neither."""
    try:
        state.stat()
    except FileNotFoundError:
        cure = f"its data's holder makes a budget with: {command('budget create', state)}"
        raise Refused("there is no such state folder, and so no budget", where=str(state), cure=cure) from None
    except OSError:
        return  # the engine says why it cannot use the folder


def read_job(files: Sequence[Path]) -> FederatedTrainingJob:
    """Return the one training job in the files; raises InvalidInput when there is none, or something else."""
    jobs = []
    for file in files:
        for document in load_manifests(read_at_most(file, limits.MAX_MANIFEST_BYTES), source=str(file)):
            parsed = parse_manifest(document, source=str(file))
            if isinstance(parsed, PrivacyBudget):
                cure = "its data's holder makes it with `foedus budget create`; leave it out here"
                raise InvalidInput("a run never makes a budget", where=f"{file}: {parsed.metadata.name}", cure=cure)
            if parsed.spec.suspend:
                cure = "leave it out; an interrupted run gives back what it has not spent"
                raise InvalidInput("a run of a suspended job would never end", where=f"{file}: spec.suspend", cure=cure)
            jobs.append(parsed)
    if len(jobs) != 1:
        raise InvalidInput(f"{len(jobs)} training jobs", where=", ".join(map(str, files)), cure="give exactly one")
    return jobs[0]


def make_display(output: str, write: Write) -> Display:
    """Return JSON lines on request, a live table on a terminal, plain lines elsewhere."""
    if output == "json":
        return JsonDisplay(write)
    return LiveDisplay(Console()) if sys.stdout and sys.stdout.isatty() else PlainDisplay(write)


async def run_job(job: FederatedTrainingJob, options: Options, display: Display, environ: Mapping[str, str]) -> None:
    """Run the job to its end and deliver its result; when it does not end well, give back what it did not spend."""
    async with open_engine(options.state, options.volumes, job.metadata.namespace, environ) as engine:
        try:
            stored = await admit(engine, job, options.state, display)
        except FoedusError as error:
            raise with_cure(error, "", options.state, job.metadata.namespace) from None
        await asyncio.to_thread(drop_old_report, options.out, display)
        status = stored.get("status", {})
        if not is_complete(status):
            engine.cluster.release()
            status = await train(engine, job, options, display)
        deliver(engine, job, options)
        ending, gone = good_ending(status, utc_now()), "no report: spec.ttlSecondsAfterFinished has removed its sources"
        record = await find_record(report_source(engine), job, status, ending, display, nothing=gone)
        page = await save_report(report_source(engine), job, record, options.out, display)
        say_result(status, options.out, page, display)


async def train(engine: Engine, job: FederatedTrainingJob, options: Options, display: Display) -> Mapping[str, Any]:
    """Drive the job to its end and return its last status; one that does not complete is removed."""
    loop = asyncio.create_task(engine.reconciler.run())
    try:
        status = await race(follow(engine.cluster, job, display, options.state, engine.faults), loop)
        await all_left(engine, job)
    except (FoedusError, asyncio.CancelledError) as error:
        await stop(loop)  # first, so that no pass makes anew what is being removed
        more = await abandon(engine, job, error, options.out, display)
        if isinstance(error, FoedusError):
            raise with_cure(error, more, options.state, job.metadata.namespace) from None
        raise
    finally:
        await stop(loop)
    return status


def with_cure(error: FoedusError, more: str, state: Path, namespace: str) -> FoedusError:
    """Return the error with `more` behind its cure; a command that it names also names state folder and namespace."""
    what, cure = error.what, error.cure
    for words in ("budget create", "budget reconcile"):
        what, cure = (text.replace(f"foedus {words}", command(words, state, namespace)) for text in (what, cure))
    cures = "; ".join(part for part in (cure, more) if part)
    return type(error)(what, where=error.where, cure=cures, code=error.code)


async def race(work: Coroutine[Any, Any, Result], loop: asyncio.Task[None]) -> Result:
    """Do the work while the loop runs; raises FoedusError when the loop ends before it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, loop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await stop(task)
    if task.cancelled():
        raise FoedusError("the engine ended unexpectedly", cure="try again") from loop.exception()
    return task.result()


async def stop(task: asyncio.Task[Any]) -> None:
    """Cancel the task and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])


async def abandon(engine: Engine, job: FederatedTrainingJob, error: BaseException, out: Path, display: Display) -> str:
    """Remove the job unless it is complete after all, and leave its report; return what else is to be said."""
    if not isinstance(error, FoedusError):
        display.note(
            "Stopping", "interrupted: the job's processes are stopped, and what it has not spent is given back"
        )
    key = job_key(job.metadata.namespace, job.metadata.name)
    stored = await find(engine.cluster, key)
    status = {} if stored is None else stored.get("status", {})
    if is_complete(status):
        display.note("Complete", "the job is complete; the same command delivers its result")
        return ""
    logs = keep_logs(engine, job) if isinstance(error, JobFailed) else None
    record = await find_record(report_source(engine), job, status, bad_ending(error, utc_now()), display)
    await remove(engine, key, display)
    if (page := await save_report(report_source(engine), job, record, out, display)) is not None:
        say_report(page, display)
    if isinstance(error, FoedusError) and error.code is ExitCode.BUDGET_REFUSED:
        return await orphans(engine, job)
    return f"the logs of its processes are in {logs}" if logs else ""


async def orphans(engine: Engine, job: FederatedTrainingJob) -> str:
    """Name the jobs whose accounts in this job's budgets are open, and the command that closes them; none can run."""
    namespace, budgets = job.metadata.namespace, {client.budget_ref.name for client in job.spec.clients}
    known, _ = await accounts(engine, namespace)
    held = [item for item in known if item.is_open and item.budget.name in budgets]
    claimants = sorted({item.account.claimant for item in held})
    if not claimants:
        return ""
    closes = ", ".join(command(f"delete {name.partition('/')[2]}", engine.state, namespace) for name in claimants)
    return f"{held[0].budget.name} has an open account of {', '.join(claimants)}; give back what is not spent: {closes}"


def deliver(engine: Engine, job: FederatedTrainingJob, options: Options) -> None:
    """Copy adapter, model card and metrics to the result folder."""
    claim = names.coordinator_output(job.metadata.name)
    folder = engine.cluster.claim_folder(job.metadata.namespace, claim)
    assert folder is not None
    try:
        shutil.copytree(folder / ADAPTER_FOLDER, options.out, dirs_exist_ok=True)
    except OSError as error:  # shutil.Error is one
        cure = "run the same command again with another --out; nothing more is charged"
        reason = error.strerror or "some files were not copied"
        raise Unavailable(f"the result cannot be written ({reason})", where=str(options.out), cure=cure) from None

"""`foedus adapter`: what a job on a cluster has made, brought to this machine."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from foedus.cluster.reader import SUFFIX_BYTES, reader_settings
from foedus.cluster.target import OBJECT_NAME, Target, on_cluster, run_on_cluster
from foedus.display import Display, JsonDisplay, PlainDisplay
from foedus.result import drop_old_report, result_folder, say_result
from foedus_contract.errors import InvalidInput, Unavailable
from foedus_contract.paths import ADAPTER_FOLDER
from foedus_engine import names
from foedus_engine.api.parse import parse_stored
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.api.training_status import TrainingConditionType
from foedus_engine.build.metadata import Owner
from foedus_engine.build.pods import Settings
from foedus_engine.build.reader import Reading, build_reader
from foedus_engine.build.roles import scheduling_fields
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.conditions import is_true
from foedus_engine.decide.plan import Manifest, ObjectKey

if TYPE_CHECKING:
    from foedus.cluster.session import Session


@click.group()
def adapter() -> None:
    """Fetch the adapter that a job on a cluster has made."""


@adapter.command()
@click.argument("job", type=OBJECT_NAME)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the adapter.")
@click.option("--image", help="Image of the pod that reads the volume.  [default: the job's own]")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json prints one object a line."
)
@on_cluster
def download(target: Target, job: str, out: Path, image: str | None, output: str) -> None:
    """Fetch the adapter of JOB with its model card and metrics, and make its report, as `foedus run` leaves them.

    A short-lived pod of yours reads the job's volume and hands the files over; it is deleted again. The files must be
    those that the job's result names by digest. It takes the rights to create and delete pods and to forward their
    ports, which the role `edit` has.
    """
    display = JsonDisplay(click.echo) if output == "json" else PlainDisplay(click.echo)

    async def work(session: Session) -> None:
        key = ObjectKey(names.API_VERSION, names.TRAINING_KIND, session.one_namespace, job)
        stored = await session.get(key)
        expected = delivered_digest(stored)
        with result_folder(out):
            await _download(session, stored, expected, image, out, display)

    run_on_cluster(target, work)


def delivered_digest(stored: Object) -> str:
    """Return the digest that the job's result names; raises FoedusError when it has none.

    Unavailable while it goes on, JobFailed or what else has ended it, with that one's exit code.
    """
    from foedus.follow import find_failure

    meta, status = stored["metadata"], stored.get("status") or {}
    where = f"{names.TRAINING_KIND} {meta['namespace']}/{meta['name']}"
    if not is_true(status, TrainingConditionType.COMPLETE):
        failure = find_failure(status)
        if failure is not None:
            what = f"it has no adapter: {failure.where}: {failure.what}"
            raise type(failure)(what, where=where, cure=failure.cure, code=failure.code)
        stage = (
            f"it is {status.get('phase', 'Pending')}, round {status.get('round') or 0} of {status.get('rounds', '?')}"
        )
        cure = (
            f"wait with: kubectl wait --for=condition=Complete --timeout=-1s ftj/{meta['name']} -n {meta['namespace']}"
        )
        raise Unavailable(f"the job is not finished: {stage}", where=where, cure=cure)
    digest = str((status.get("result") or {}).get("adapterDigest", ""))
    if not digest:
        raise InvalidInput("its result names no adapter", where=where, cure="look at it with: kubectl get -o yaml")
    return digest


async def _download(
    session: Session, stored: Object, expected: str, image: str | None, out: Path, display: Display
) -> None:
    from foedus.cluster.fetch import fetch
    from foedus.report.finish import find_record, good_ending, save_report

    job = parse_stored(FederatedTrainingJob, stored)
    pod = build_pod(job, stored, await _settings(session, job, image), secrets.token_hex(SUFFIX_BYTES))
    with tempfile.TemporaryDirectory(dir=out, prefix=".download-") as scratch:
        note = lambda text: display.note("Fetching", text)  # noqa: E731
        await fetch(session, pod, Path(scratch), expected=expected, note=note)
        await asyncio.to_thread(drop_old_report, out, display)
        await asyncio.to_thread(_move, Path(scratch), out)
    status, source = stored["status"], session.report_source()
    ending, gone = good_ending(status, datetime.now(UTC)), "no report: the plan or the logs that it needs are gone"
    record = await find_record(source, job, status, ending, display, nothing=gone)
    page = await save_report(source, job, record, out, display)
    say_result(status, out, page, display)


def build_pod(job: FederatedTrainingJob, stored: Object, settings: Settings, suffix: str) -> Manifest:
    """Return the pod that hands the adapter over."""
    meta = stored["metadata"]
    asked = job.spec.scheduling.coordinator if job.spec.scheduling else None
    reading = Reading(names.coordinator_output(meta["name"]), ADAPTER_FOLDER, scheduling=scheduling_fields(asked))
    owner = Owner(names.TRAINING_KIND, meta["namespace"], meta["name"], meta["uid"])
    return build_reader(owner, names.reader(owner.name, suffix), reading, settings)


async def _settings(session: Session, job: FederatedTrainingJob, image: str | None) -> Settings:
    """Return the image that reads the volume: the one that was named, else that of the job's coordinator."""
    name, namespace = names.coordinator(job.metadata.name), job.metadata.namespace
    found = await session.find(ObjectKey("batch/v1", "Job", namespace, name))
    return reader_settings(found, image, f"Job {namespace}/{name}")


def _move(scratch: Path, out: Path) -> None:
    try:
        for path in scratch.iterdir():
            path.replace(out / path.name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        cure = "choose another folder with --out"
        raise Unavailable(f"the result cannot be written ({reason})", where=str(out), cure=cure) from None

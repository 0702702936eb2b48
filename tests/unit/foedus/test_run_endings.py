"""What a run leaves when it ends: logs of what failed, time for silos to leave, and a complete job in peace."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from foedus import lifecycle
from foedus.display import PlainDisplay
from foedus.engine import Engine, open_engine
from foedus.lifecycle import admit, all_left, job_key
from foedus.main import main
from foedus.run import abandon
from foedus_contract.errors import FoedusError, JobFailed
from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.cluster.jobs import is_finished
from foedus_engine.cluster.protocol import find
from foedus_engine.decide.plan import ObjectKey
from foedus_engine.manifests import parse_manifest
from foedus_ledger.mechanisms import Mechanism
from support.one_line import check_one_line
from support.small_job import SILOS, SmallJob, build_small_job

PATIENCE_SECONDS = 30
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path) -> SmallJob:
    return build_small_job(tmp_path)


@pytest.fixture
async def engine(world: SmallJob) -> AsyncIterator[Engine]:
    async with open_engine(world.state, world.root / "volumes", "default", {}) as opened:
        opened.cluster.release()
        yield opened


def job_of(world: SmallJob) -> FederatedTrainingJob:
    job = parse_manifest(world.manifest())
    assert isinstance(job, FederatedTrainingJob)
    return job


def display(said: list[str]) -> PlainDisplay:
    return PlainDisplay(said.append)


def process(name: str, script: str) -> dict[str, Any]:
    """A process of the job `job` that runs `script`."""
    container = {"name": "main", "image": "any", "command": ["python"], "args": ["-c", script]}
    pod = {"restartPolicy": "Never", "containers": [container]}
    meta = {"name": name, "namespace": "default", "labels": {names.JOB_LABEL: "job"}}
    spec = {"backoffLimit": 0, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


async def has_ended(engine: Engine, name: str) -> bool:
    found = await find(engine.cluster, ObjectKey("batch/v1", "Job", "default", name))
    return found is not None and is_finished(found.get("status", {}))


async def until_ended(engine: Engine, name: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await has_ended(engine, name):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (JobFailed("too few silos"), {"job-coordinator.0.log": "last words\n"}),
        (FoedusError("a fault of the engine"), None),
        (asyncio.CancelledError(), None),
    ],
)
async def test_the_logs_of_a_failed_job_are_kept(
    world: SmallJob, engine: Engine, error: BaseException, kept: dict[str, str] | None
) -> None:
    job = job_of(world)
    await admit(engine, job, world.state, display([]))
    for name, script in {"job-coordinator": "print('last words'); exit(1)", "job-silo-1": "exit(1)"}.items():
        await engine.cluster.create(process(name, script))
        await until_ended(engine, name)
    more = await abandon(engine, job, error, world.root / "out", display([]))
    folder = world.state / "logs/default/job"
    assert more == (f"the logs of its processes are in {folder}" if kept else "")
    assert ({log.name: log.read_text() for log in folder.iterdir()} if folder.is_dir() else None) == kept
    assert await find(engine.cluster, job_key("default", "job")) is None


async def test_a_complete_job_is_never_abandoned(world: SmallJob, engine: Engine) -> None:
    job, said = job_of(world), list[str]()
    stored = await admit(engine, job, world.state, display([]))
    for silo in SILOS:
        world.ledger(silo).reserve(stored["metadata"]["uid"], Mechanism(noise_multiplier=20.0), 3, "default/job")
    complete = {"conditions": [{"type": "Complete", "status": "True", "reason": "AllRounds"}]}
    await engine.cluster.update_status({**stored, "status": complete})
    assert await abandon(engine, job, JobFailed("the screen went dark"), world.root / "out", display(said)) == ""
    assert said == ["the job is complete; the same command delivers its result"]
    assert await find(engine.cluster, job_key("default", "job")) is not None
    assert world.states() == {"Open"}  # closing them is the engine's own work


def waits_for(file: Path) -> str:
    return f"import pathlib, time\nwhile not pathlib.Path({str(file)!r}).exists(): time.sleep(0.01)"


async def test_silos_are_waited_for_until_they_have_left(world: SmallJob, engine: Engine) -> None:
    await engine.cluster.create(process("job-silo-1", waits_for(world.root / "leave")))
    leaving = asyncio.create_task(all_left(engine, job_of(world)))
    await asyncio.sleep(0.3)
    assert not leaving.done()
    (world.root / "leave").touch()
    await leaving
    assert await has_ended(engine, "job-silo-1")


async def test_silos_that_never_leave_are_not_waited_for_for_ever(
    world: SmallJob, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "LEAVE_SECONDS", 0.05)
    await engine.cluster.create(process("job-silo-1", waits_for(world.root / "never")))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await all_left(engine, job_of(world))
    assert not await has_ended(engine, "job-silo-1")


def test_a_run_without_a_state_folder_makes_none(world: SmallJob, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*world.run(), "--state", str(world.root / "nowhere")])
    assert ended.value.code == 20
    check_one_line(capsys, "nowhere: there is no such state folder, and so no budget", "foedus budget create --state")
    assert not (world.root / "nowhere").exists()
    assert not (world.root / "out").exists()

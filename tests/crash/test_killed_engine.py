"""The engine killed, a coordinator killed under it, a job suspended in the middle: each time the job goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from foedus.engine import Engine, open_engine
from foedus.lifecycle import job_key
from foedus.report.record import read_record
from foedus_contract.exit_codes import ExitCode
from foedus_engine.cluster.records import PodRecords
from foedus_engine.decide.ending import is_terminal
from foedus_engine.manifests import parse_manifest
from support.small_job import SILOS, SmallJob, build_small_job

ROUNDS = 40  # enough that none of these ends before it was cut off: a round of the tiny model takes a moment
LIMIT_SECONDS = 280.0  # a job that hangs fails its test
COORDINATOR = "job-coordinator"


def entries(world: SmallJob) -> list[dict[str, Any]]:
    """Return what the coordinator's processes journalled on their volume."""
    paths = world.state.glob(f"**/{COORDINATOR}-output/state/*.jsonl")
    return [json.loads(line) for path in paths for line in path.read_bytes().split(b"\n")[:-1]]


def rounds_done(world: SmallJob) -> int:
    return sum(1 for entry in entries(world) if entry["entry"] == "Closed" and entry["checkpoint"])


def check_numbers(world: SmallJob) -> None:
    """No number is opened twice, each round is applied once, and every silo has paid for each."""
    opened = [entry["attempt"] for entry in entries(world) if entry["entry"] == "Opened"]
    assert opened == list(range(len(opened)))
    assert rounds_done(world) == ROUNDS
    for silo in SILOS:
        (account,) = world.ledger(silo).read().accounts.values()
        assert ROUNDS <= account.charged <= len(opened)
        assert account.state == "Closed"


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    world = build_small_job(tmp_path)
    killed = world.start(world.run(rounds=ROUNDS))
    deadline = time.monotonic() + LIMIT_SECONDS
    while rounds_done(world) < 1:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert rounds_done(world) < ROUNDS  # else there was nothing to go on with
    assert world.start(world.run(rounds=ROUNDS)).wait(LIMIT_SECONDS) == 0
    check_numbers(world)
    assert (tmp_path / "out/adapter_model.safetensors").is_file()


def test_a_job_that_fails_after_it_trained_leaves_its_report_until_the_next_run(tmp_path: Path) -> None:
    world = build_small_job(tmp_path)
    arguments = world.run(rounds=ROUNDS, backoffLimit=0)
    failing = world.start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + LIMIT_SECONDS
    while rounds_done(world) < 2:  # a round is told after it is journalled: the first one has been by then
        assert failing.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(recorded_pid(world, COORDINATOR), signal.SIGKILL)
    said, complained = (text.decode() for text in failing.communicate(timeout=LIMIT_SECONDS))
    assert failing.returncode == ExitCode.INTERNAL
    why = "the coordinator ended without a result: 1 pods failed, the last with exit code 137"
    assert complained == f"error: CoordinatorFailed: {why}\n"
    assert f"report: {tmp_path}/out/report.html" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "report.json"}
    record = read_record(tmp_path / "out")
    assert (record.ending.outcome, record.ending.message) == ("Failed", f"CoordinatorFailed: {why}")
    assert record.attempts[0].applied
    assert {account.charged for account in record.accounts} == {world.charged() // len(SILOS)}

    again = world.start(world.run(rounds=2), stdout=subprocess.PIPE)
    said = again.communicate(timeout=LIMIT_SECONDS)[0].decode()
    assert again.returncode == 0
    assert f"the report of an earlier run is removed from {tmp_path}/out" in said
    assert read_record(tmp_path / "out").ending.outcome == "Complete"


def recorded_pid(world: SmallJob, role: str) -> int:
    with closing(sqlite3.connect(world.state / "objects.sqlite")) as connection:
        (pid,) = [pid for _, name, _, _, pid in PodRecords(connection).running() if name == role]
    return int(pid)


async def test_a_job_goes_on_after_its_coordinator_was_killed_and_after_it_was_suspended(tmp_path: Path) -> None:
    world = build_small_job(tmp_path)
    job = parse_manifest(world.manifest(rounds=ROUNDS, spare=2))
    environ = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    async with open_engine(world.state, world.root / "volumes", "default", environ) as engine:
        await engine.cluster.create(job.to_document())
        engine.cluster.release()
        loop = asyncio.create_task(engine.reconciler.run())
        await until(lambda: rounds_done(world) >= 1)
        os.kill(coordinator_pid(engine), signal.SIGKILL)
        await until(lambda: rounds_done(world) >= 2)
        await suspend(engine, True)
        await until(lambda: engine_pids(engine) == [])
        done = rounds_done(world)
        assert done < ROUNDS
        status = (await engine.cluster.get(job_key("default", "job")))["status"]
        assert (status["phase"], status["message"]) == ("Suspended", "spec.suspend is true; the reservation is kept")
        assert {account.state for silo in SILOS for account in world.ledger(silo).read().accounts.values()} == {"Open"}
        await suspend(engine, False)
        status = await ended(engine)
        assert (status["phase"], status["round"], status["result"]["outcome"]) == ("Complete", ROUNDS, "Complete")
        loop.cancel()
    check_numbers(world)


def engine_pids(engine: Engine) -> list[int]:
    roles = (COORDINATOR, *(f"job-{silo}" for silo in SILOS))
    return [pid for role in roles for pid in running_pids(engine, role)]


def running_pids(engine: Engine, role: str) -> list[int]:
    running = engine.cluster._pods.running()
    return [pid for _, name, _, _, pid in running if name == role]


def coordinator_pid(engine: Engine) -> int:
    (pid,) = running_pids(engine, COORDINATOR)
    return pid


async def suspend(engine: Engine, value: bool) -> None:
    stored = await engine.cluster.get(job_key("default", "job"))
    await engine.cluster.update({**stored, "spec": {**stored["spec"], "suspend": value}})


async def ended(engine: Engine) -> Mapping[str, Any]:
    """Return the job's status once it is over."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            status: Mapping[str, Any] = (await engine.cluster.get(job_key("default", "job")))["status"]
            if is_terminal(status):
                return status
            await asyncio.sleep(0.05)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while not holds():
            await asyncio.sleep(0.01)

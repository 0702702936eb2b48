"""What becomes of jobs that a killed or interrupted run left behind, on the real embedded engine."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
import pytest

from foedus.deaths import deaths
from foedus.delete import delete_job
from foedus.display import PlainDisplay
from foedus.engine import Engine, open_engine
from foedus.interrupt import run_until_terminated
from foedus.lifecycle import admit, job_key, remove
from foedus.report.record import read_record
from foedus.result import result_folder
from foedus_contract.errors import FoedusError, InvalidInput
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.cluster.jobs import PodView
from foedus_engine.manifests import parse_manifest
from foedus_ledger.mechanisms import Mechanism
from support.calling import foedus
from support.small_job import SILOS, SmallJob, build_small_job

MECHANISM = Mechanism(noise_multiplier=20.0)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path) -> SmallJob:
    return build_small_job(tmp_path)


def delete(world: SmallJob, name: str) -> int:
    return foedus("delete", name, "--state", str(world.state))


def test_a_killed_run_is_deleted_and_the_next_job_trains(
    world: SmallJob, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))  # what the job's processes inherit
    killed = world.start(world.run())
    while not (world.states() == {"Open"} and any((world.state / "pods").glob("*/*/*/lock"))):
        assert killed.poll() is None
        time.sleep(0.2)
    killed.kill()
    killed.wait()

    assert foedus(*world.run(rounds=3)) == 10  # the same name, another spec
    cure = f"foedus delete job --state {world.state}"
    assert cure in capfd.readouterr().err
    assert foedus(*world.run(name="other")) == 10
    assert cure in capfd.readouterr().err
    assert world.states() == {"Open"}
    assert not (world.root / "out").exists()

    assert delete(world, "job") == 0
    assert "0 of 3 reserved releases are charged" in capfd.readouterr().out
    assert world.states() == {"Closed"}
    assert not any((world.state / "pods").glob("*/*"))
    assert delete(world, "job") == 10

    assert foedus(*world.run(name="other")) == 0
    charged = world.charged()
    assert charged == len(SILOS) * 2
    assert foedus(*world.run(name="other", out="again")) == 0  # delivered once more, nothing charged
    out, again = ({file.name: file.read_bytes() for file in (world.root / name).iterdir()} for name in ("out", "again"))
    assert out == again  # the report too: it is made from what is stored
    assert set(out) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "foedus.json",
        "metrics.json",
        "README.md",
        "report.html",
        "report.json",
    }
    lines = capfd.readouterr().out.splitlines()
    told = "the job other is complete already: its result is delivered again, nothing is trained or charged"
    assert lines[-4] == told
    assert lines[-3].startswith("Complete: ")
    assert lines[-2].startswith(f"report: {world.root}/again/report.html")
    record = read_record(world.root / "out")
    assert (record.ending.outcome, len(record.attempts), len(record.preparation)) == ("Complete", 2, 3)
    assert [account.charged for account in record.accounts] == [2] * len(SILOS)
    assert record.epsilon_spent_rdp is not None
    assert record.epsilon_spent_rdp > record.epsilon_spent == record.attempts[-1].epsilon_spent > 0
    assert world.charged() == charged


def test_an_interrupted_run_leaves_a_report_that_gives_way_to_the_next_run(
    world: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    running = world.start(world.run(rounds=100))
    while world.charged() < len(SILOS):
        assert running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    assert running.wait() == 130
    assert world.states() == {"Closed"}
    assert sorted(file.name for file in (world.root / "out").iterdir()) == ["report.html", "report.json"]
    record = read_record(world.root / "out")
    assert (record.ending.outcome, record.ending.message) == ("Interrupted", "It was interrupted.")
    assert sum(account.charged for account in record.accounts) == world.charged()
    assert {account.reserved for account in record.accounts} == {101}
    assert 0 < record.epsilon_spent < record.plan.privacy.epsilon
    with result_folder(world.root / "out"):
        pass
    (world.root / "out/mine").touch()
    with pytest.raises(InvalidInput, match="holds something already"), result_folder(world.root / "out"):
        pass


@asynccontextmanager
async def engine_of(world: SmallJob) -> AsyncIterator[tuple[Engine, FederatedTrainingJob]]:
    job = parse_manifest(world.manifest())
    assert isinstance(job, FederatedTrainingJob)
    async with open_engine(world.state, world.root / "volumes", "default", {}) as engine:
        yield engine, job


def quiet() -> PlainDisplay:
    return PlainDisplay(lambda _: None)


async def reserve(world: SmallJob, uid: str, claimant: str = "default/job") -> None:
    for silo in SILOS:
        await asyncio.to_thread(world.ledger(silo).reserve, uid, MECHANISM, 3, claimant)


async def test_accounts_of_an_object_that_is_gone_are_closed_and_no_others(world: SmallJob) -> None:
    await reserve(world, "gone")
    await reserve(world, "theirs", "default/another")
    async with engine_of(world) as (engine, job):
        await admit(engine, job, world.state, quiet())
    accounts = world.ledger().read().accounts
    assert {uid: account.state for uid, account in accounts.items()} == {"gone": "Closed", "theirs": "Open"}


async def test_an_account_in_a_damaged_ledger_is_told_and_closed_when_the_ledger_is_back(world: SmallJob) -> None:
    file, said = world.ledger(SILOS[1]).path, list[str]()
    async with engine_of(world) as (engine, job):
        stored = await admit(engine, job, world.state, quiet())
        await reserve(world, stored["metadata"]["uid"])
        await engine.cluster.update_status({**stored, "status": {"plan": {"digest": "sha256:0"}}})
        whole = file.read_bytes()
        file.write_bytes(b"not a database" * 100)
        removed = await remove(engine, job_key("default", "job"), PlainDisplay(said.append))
    assert (removed.accounts, [key.name for key in removed.left]) == (3, [SILOS[1]])
    (line,) = (line for line in said if "stays reserved" in line)
    assert line.startswith(f"budget {SILOS[1]}: what the job has reserved stays reserved: {file}: ")
    assert line.endswith(f"; then: foedus delete job --state {world.state}")

    file.write_bytes(whole)
    assert world.states() == {"Closed", "Open"}
    await delete_job("job", "default", world.state, PlainDisplay(said.append))
    assert world.states() == {"Closed"}
    assert said[-1] == "FederatedTrainingJob default/job is deleted"


async def test_accounts_are_closed_before_the_object_goes(world: SmallJob, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_of(world) as (engine, job):
        stored = await admit(engine, job, world.state, quiet())
        await reserve(world, stored["metadata"]["uid"])

        async def killed(_key: object) -> None:
            assert world.states() == {"Closed"}
            raise asyncio.CancelledError

        monkeypatch.setattr(engine.cluster, "delete", killed)
        with pytest.raises(asyncio.CancelledError):
            await remove(engine, job_key("default", "job"), quiet())
        monkeypatch.undo()
        # The next run finds a closed account, ends the removal and makes the job anew.
        again = await admit(engine, job, world.state, quiet())
        assert again["metadata"]["uid"] != stored["metadata"]["uid"]


async def test_an_unfinished_job_goes_on_and_says_so(world: SmallJob) -> None:
    said: list[str] = []
    async with engine_of(world) as (engine, job):
        first = await admit(engine, job, world.state, quiet())
        again = await admit(engine, job, world.state, PlainDisplay(said.append))
    assert first["metadata"]["uid"] == again["metadata"]["uid"]
    assert said == ["resuming the job job, which an earlier run left unfinished"]


@pytest.mark.parametrize("missing", ["silo-3", "silo-3/train.jsonl"])
async def test_a_missing_volume_or_file_is_named(world: SmallJob, missing: str) -> None:
    (world.root / "volumes" / missing).rename(world.root / "elsewhere")
    async with engine_of(world) as (engine, job):
        with pytest.raises(FoedusError, match=r"spec.clients\[2\].data.persistentVolumeClaim: no .*silo-3") as raised:
            await admit(engine, job, world.state, quiet())
        assert raised.value.code == 11


def test_a_run_whose_reader_goes_away_gives_back_what_it_has_not_spent(world: SmallJob) -> None:
    with world.start(world.run(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline().split() == [b"job", b"default/job"]
        running.stdout.close()
        assert running.stderr is not None
        said = running.stderr.read().decode()
    assert running.returncode == 40
    assert said.startswith("error: standard output: cannot be written (Broken pipe); ")
    assert said.count("\n") == 1
    assert world.states() == {"Closed"}


def test_a_reader_that_goes_away_with_the_interrupt_does_not_stop_the_clean_up(tmp_path: Path) -> None:
    program = """
import asyncio, os, signal, sys
from foedus.interrupt import Output, run_until_terminated
told = Output()
async def work():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
    finally:
        told.write("cleaning up")
        told.write("going on")
        await asyncio.sleep(0.05)
        print("cleaned up", file=sys.stderr)
try:
    run_until_terminated(work(), told)
except BaseException as error:
    print(type(error).__name__, file=sys.stderr)
"""
    read, write = os.pipe()
    os.close(read)
    environ = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, check=False, env=environ, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (ended.returncode, ended.stderr.split(b"\n")) == (0, [b"cleaned up", b"Unavailable", b""])


def test_a_second_interrupt_does_not_stop_the_clean_up() -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.05)
            done.append("cleaned up")

    with pytest.raises(click.Abort):
        run_until_terminated(work(), stopping=lambda: done.append("stopping"))
    assert done == ["stopping", "cleaned up"]


def test_a_death_is_told_once_it_is_known_how_it_went_on() -> None:
    died, ended = PodView(0, "Failed", 137), PodView(0, "Stopped", 143)
    assert deaths("silo-1", [died], over=False) == []
    assert deaths("silo-1", [ended, PodView(1, "Running")], over=False) == []
    (again,) = deaths("silo-1", [died, PodView(1, "Running")], over=False)
    assert again.line == "silo-1: its process ended with exit code 137; it was started again"
    (gone,) = deaths("silo-1", [died], over=True)
    assert gone.line == "silo-1: its process ended with exit code 137; it stays away"

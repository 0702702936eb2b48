"""The process that does the accounting: it is another one, is replaced when it dies, and ends with its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from foedus_contract.errors import Unavailable
from foedus_engine.accounting import Question, answer, measure
from foedus_engine.decide.observed import Calibrated, Unplannable
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec
from foedus_operator import accountant
from foedus_operator.accountant import COMMAND, COMPUTATIONS, Accountant, Computation, named

PATIENCE_SECONDS = 120.0
SPEC = BudgetSpec(digest="sha256:" + "0" * 64, records=500, epsilon=1.0, delta=1e-5)
HALF = Account(mechanism=Mechanism(noise_multiplier=30.1), reserved=20, claimant="another job")
RECORDS = {"unused": BudgetRecord(spec=SPEC), "half used": BudgetRecord(spec=SPEC, accounts={"uid": HALF}, version=1)}

# What the tests ask of a process; it is sent the same way.
HELPERS = """
import os, sys, time
from pydantic import TypeAdapter
from foedus_operator.accountant import Computation, named, serve

def pid(_: int) -> int:
    print("what a library prints is no answer")
    return os.getpid()

def end(code: int) -> int:
    os._exit(code)

def sleep(seconds: int) -> int:
    time.sleep(seconds)
    return seconds

def divide(number: int) -> int:
    return 1 // number

serve(named(*(Computation(each, TypeAdapter(int), TypeAdapter(int)) for each in (pid, end, sleep, divide))))
"""


def pid(_: int) -> int:
    raise AssertionError


def end(_: int) -> int:
    raise AssertionError


def sleep(_: int) -> int:
    raise AssertionError


def divide(_: int) -> int:
    raise AssertionError


HERE = named(*(Computation(each, TypeAdapter(int), TypeAdapter(int)) for each in (pid, end, sleep, divide)))


@pytest.fixture
async def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Accountant]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    script = tmp_path / "helpers.py"
    script.write_text(HELPERS, "utf-8")
    made = Accountant(HERE, (sys.executable, str(script)))
    yield made
    await made.close()


async def test_a_process_that_died_is_replaced(work: Accountant) -> None:
    first = await work(pid, 0)
    assert first != os.getpid()
    assert await work(pid, 0) == first
    os.kill(first, signal.SIGKILL)
    while is_there(first):
        await asyncio.sleep(0.01)
    second = await work(pid, 0)
    assert second not in (first, os.getpid())
    with pytest.raises(Unavailable, match="died; see whether the pod has memory"):
        await work(end, 1)
    assert await work(pid, 0) not in (first, second)


async def test_it_can_be_started_before_it_is_needed(work: Accountant) -> None:
    await work.start()
    assert work._process is not None
    assert await work(pid, 0) == work._process.pid
    missing = Accountant(HERE, ("/nowhere",))
    await missing.start()
    with pytest.raises(Unavailable, match="died"):
        await missing(pid, 0)


async def test_a_defect_is_told_without_what_was_asked_and_the_process_goes_on(work: Accountant) -> None:
    first = await work(pid, 0)
    with pytest.raises(Unavailable, match=r"internal error: ZeroDivisionError at helpers\.py:18"):
        await work(divide, 0)
    assert await work(pid, 0) == first


async def test_a_question_without_an_answer_in_time_ends_the_process(
    work: Accountant, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await work(pid, 0)
    monkeypatch.setattr(accountant, "DEADLINE_SECONDS", 0.1)
    with pytest.raises(Unavailable, match="no answer after 0 s"):
        await work(sleep, 3600)
    monkeypatch.undo()
    assert await work(divide, 1) == 1
    assert not is_there(first)


async def test_who_stops_waiting_leaves_nobody_else_the_answer(work: Accountant) -> None:
    first = await work(pid, 0)
    asked = asyncio.create_task(work(sleep, 3600))
    await asyncio.sleep(0.1)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await work(pid, 0) != first


def question(**changes: object) -> Question:
    budgets = tuple((name, record.model_dump_json()) for name, record in RECORDS.items())
    fields = {
        "epsilon": 1.0, "delta": 1e-5, "attempts": 4, "minimum": 0.0, "silos": 4, "min_honest": 2, "records": 2000,
        "coordinates": 1000, "budgets": budgets, "held": None,
    }  # fmt: skip
    return Question(**(fields | changes))  # type: ignore[arg-type]


async def test_answers_are_those_of_the_functions_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    work = Accountant()
    try:
        for record in RECORDS.values():
            assert await work(measure, record) == measure(record)
        fresh, held, refused = question(), question(held=HALF.mechanism), question(held=Mechanism(noise_multiplier=1))
        found = [await work(answer, each) for each in (fresh, held, refused)]
        assert found == [answer(each) for each in (fresh, held, refused)]
        assert [type(each) for each in found] == [Calibrated, Calibrated, Unplannable]
    finally:
        await work.close()


def test_what_is_asked_for_is_a_closed_list() -> None:
    assert set(COMPUTATIONS) == {"answer", "measure"}
    assert COMMAND[1:] == ("-m", "foedus_operator.accountant")


PARENT = """
import asyncio, sys
from foedus_engine.accounting import measure
from foedus_ledger.records import BudgetRecord, BudgetSpec
from foedus_operator.accountant import Accountant

async def main():
    work = Accountant()
    spec = BudgetSpec(digest="sha256:" + "0" * 64, records=500, epsilon=1.0, delta=1e-5)
    await work(measure, BudgetRecord(spec=spec))
    print(work._process.pid, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def test_it_ends_with_its_parent_even_when_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, "utf-8")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_there(child)
        parent.kill()
    until = time.monotonic() + PATIENCE_SECONDS
    while is_there(child):
        assert time.monotonic() < until
        time.sleep(0.01)


def is_there(pid: int) -> bool:
    """Say whether a process runs; one that has ended may still be listed until somebody asks for its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_process_has_answered_one_question_of_each_kind_before_it_is_asked() -> None:
    """What libraries do once takes seconds: a new leader's first job must not wait for it."""
    program = """
import runpy, sys
from foedus_engine import accounting

def answer(question):
    print("answers", "held" if question.held else f"{len(question.budgets)} budget", file=sys.stderr)

def measure(record):
    print("measures", sum(each.reserved for each in record.accounts.values()), file=sys.stderr)

accounting.answer, accounting.measure = answer, measure
runpy.run_module("foedus_operator.accountant", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stderr.splitlines() == ["answers held", "answers 1 budget", "measures 1"]

"""The process that does the accounting: it is another one, is replaced when it dies, and ends with its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from foedus_contract.errors import Unavailable
from foedus_engine.accounting import measure
from foedus_ledger.records import BudgetRecord, BudgetSpec
from foedus_operator import accountant
from foedus_operator.accountant import Accountant

PATIENCE_SECONDS = 120.0
RECORD = BudgetRecord(spec=BudgetSpec(digest="sha256:" + "0" * 64, records=500, epsilon=1.0, delta=1e-5), accounts={})


@pytest.fixture
def work() -> Iterator[Accountant]:
    made = Accountant()
    yield made
    made.close()


async def test_a_process_that_died_is_replaced(work: Accountant) -> None:
    first = await work(os.getpid)
    assert first != os.getpid()
    assert await work(os.getpid) == first
    assert (await work(measure, RECORD)).spent == 0
    os.kill(first, signal.SIGKILL)
    while is_there(first):
        await asyncio.sleep(0.01)
    second = await work(os.getpid)
    assert second not in (first, os.getpid())
    with pytest.raises(Unavailable, match="died; see whether the pod has memory"):
        await work(os._exit, 1)
    assert await work(os.getpid) not in (first, second)


async def test_a_question_without_an_answer_in_time_ends_the_process(
    work: Accountant, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await work(os.getpid)
    monkeypatch.setattr(accountant, "DEADLINE_SECONDS", 0.1)
    with pytest.raises(Unavailable, match="no answer after 0 s"):
        await work(time.sleep, PATIENCE_SECONDS)
    monkeypatch.undo()
    assert await work(os.getpid) != first


PARENT = """
import asyncio, os, sys
from foedus_operator.accountant import Accountant

async def main():
    print(await Accountant()(os.getpid), flush=True)
    sys.stdin.read()

if __name__ == "__main__":
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


def test_the_operators_launcher_imports_nothing() -> None:
    code = "import foedus_operator.main, sys; sys.exit('kopf' in sys.modules or 'kubernetes' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == 0

"""Daemons: what runs has a record, what has a record is found again, and nothing else is ever touched."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from e2e.cluster import processes
from e2e.cluster.errors import HarnessError
from e2e.cluster.kubectl import wait_for
from e2e.cluster.processes import Daemon, end, read_record


def daemon(folder: Path, *argv: str) -> Daemon:
    return Daemon("one", argv, folder / "daemons" / "one.json", folder / "one.log", {"PATH": os.environ["PATH"]})


@pytest.fixture
def sleeper(tmp_path):
    one = daemon(tmp_path, "sleep", "1000")
    one.start()
    yield one
    one.stop()


def test_a_started_daemon_runs_under_the_recorded_number(sleeper):
    pid = read_record(sleeper.record).pid
    wait_for("sleep", lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    assert sleeper.running


def test_a_daemon_keeps_nothing_open_of_who_started_it(tmp_path):
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(lock, True)
    one = daemon(tmp_path, "sleep", "1000")
    try:
        one.start()
        process = Path(f"/proc/{read_record(one.record).pid}")
        wait_for("sleep", lambda: (process / "comm").read_text() == "sleep\n")
        assert str(tmp_path / "lock") not in {os.readlink(each) for each in (process / "fd").iterdir()}
    finally:
        one.stop()
        os.close(lock)


def test_a_second_start_leaves_the_first_process(sleeper):
    before = read_record(sleeper.record)
    sleeper.start()
    assert read_record(sleeper.record) == before


def test_another_harness_finds_and_ends_it(sleeper, tmp_path):
    pid = read_record(sleeper.record).pid
    subprocess.run([sys.executable, "-c", END, str(sleeper.record)], check=True, cwd=Path(__file__).parents[1])
    assert not sleeper.running
    assert not sleeper.record.exists()
    assert not alive(pid)


END = "import sys; from pathlib import Path; from e2e.cluster.processes import end; end(Path(sys.argv[1]))"


def test_a_stopped_process_is_ended_too(sleeper):
    sleeper.signal(signal.SIGSTOP)
    assert sleeper.running
    sleeper.stop()
    assert not sleeper.running


def test_what_ignores_sigterm_is_killed(tmp_path):
    one = daemon(tmp_path, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
    one.start()
    wait_for("the trap", lambda: one.log.exists() and "ready" in one.log.read_text())
    one.stop(patience=0.2)
    assert not one.running


def test_a_killed_daemon_can_be_started_again(sleeper):
    before = read_record(sleeper.record)
    sleeper.signal(signal.SIGKILL)
    assert not sleeper.running
    sleeper.start()
    assert sleeper.running
    assert read_record(sleeper.record) != before


def test_a_signal_to_what_does_not_run_is_an_error(tmp_path):
    with pytest.raises(HarnessError, match="does not run"):
        daemon(tmp_path, "true").signal(signal.SIGTERM)


@pytest.mark.parametrize("changed", [{"started": 1}, {"boot": "another"}])
def test_a_process_that_only_has_the_number_is_not_touched(tmp_path, changed):
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        identity = processes._identity(stranger.pid)
        record = tmp_path / "one.json"
        record.write_text(json.dumps({**asdict(identity), **changed}))
        end(record)
        assert stranger.poll() is None
        stranger.kill()


def test_a_harness_that_dies_before_the_record_leaves_nothing(tmp_path):
    """The shell that was to become the daemon reads the end of its input instead of the line."""
    done = subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 7
    pid = int((tmp_path / "pid").read_text())
    wait_for("the shell's end", lambda: not alive(pid))
    assert not (tmp_path / "ran").exists()


DIE = """
import os, sys
from pathlib import Path
from e2e.cluster import processes
folder = Path(sys.argv[1])

def die(path, text):
    (folder / "pid").write_text(str(processes.json.loads(text)["pid"]))
    os._exit(7)

processes.write_atomically = die
argv = ("touch", str(folder / "ran"))
processes.Daemon("one", argv, folder / "one.json", folder / "log", {"PATH": os.environ["PATH"]}).start()
"""


def alive(pid: int) -> bool:
    found = processes._stat(pid)
    return found is not None and found[1]

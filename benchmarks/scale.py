"""How fast suspended jobs are adopted by the operator, and what it takes to hold them.

Two operators run against a real API server; the jobs are there before they start.

adopted   the seconds from the leader's start until every job has a status, its wait for the lease included, first for a
          tenth of the jobs, then for all. The value is the second one.
memory    of the leading process, once all are adopted and at most since its start; and the same of a cold start.
idle      the share of a core that the leading process takes when nothing happens, and the one that stands by.

JOBS=10000 is the default; with fewer, the bounds are the same.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from e2e.cluster.cluster import Cluster
from e2e.cluster.control_plane import AUDIT_POLICY
from e2e.cluster.errors import HarnessError
from e2e.cluster.kubectl import wait_for
from e2e.cluster.progress import Progress

from benchmarks.api_cluster import apply, control_plane, namespace
from benchmarks.harness import Benchmark, Outcome
from benchmarks.jobs import create_all, training_job
from benchmarks.operators import Operator, operators, wait_for_leader

JOBS = int(os.environ.get("JOBS", "10000"))
FEWER_SECONDS = 15.0  # for a tenth of the jobs
MEMORY_MB = 250.0
LIMIT_MB = 1024**3 / 1e6  # the chart's memory limit of the operator
IDLE_SHARE = 0.05
IDLE_SECONDS = 60.0
QUIET_SECONDS = 10.0  # after the last status, for what is still queued
LEASE = "bench-lease"
# Who did what. The policy of the tests has each object whole, too, as it was asked and as it was answered.
AUDIT = {**AUDIT_POLICY, "rules": [{"level": "Metadata"}]}
PATIENCE = 1800.0


def measure(folder: Path) -> Outcome:
    """Let operators adopt a tenth of the jobs, then all of them; the value is the seconds for all."""
    progress = Progress()
    with control_plane(folder, progress, AUDIT) as cluster:
        fewer = adopt(cluster, folder, "bench-fewer", max(1, JOBS // 10), progress)
        cluster.kubectl("delete", "namespace", "bench-fewer", seconds=PATIENCE)
        all_of_them = adopt(cluster, folder, "bench-all", JOBS, progress)
    met = (
        fewer["seconds"] <= FEWER_SECONDS
        and max(all_of_them["memoryMB"], all_of_them["coldStart"]["memoryMB"]) <= MEMORY_MB
        and max(all_of_them["mostMemoryMB"], all_of_them["coldStart"]["mostMemoryMB"]) <= LIMIT_MB
        and max(all_of_them["idleShare"], all_of_them["standByIdleShare"]) < IDLE_SHARE
    )
    details = {
        "fewer": fewer,
        "all": all_of_them,
        "bounds": {
            "fewerSeconds": FEWER_SECONDS,
            "memoryMB": MEMORY_MB,
            "mostMemoryMB": round(LIMIT_MB),
            "idleShare": IDLE_SHARE,
        },
    }
    return Outcome(value=all_of_them["seconds"], met=met, details=details)


def adopt(cluster: Cluster, folder: Path, name: str, count: int, progress: Progress) -> dict[str, Any]:
    """Create `count` suspended jobs, start two operators, and return what it took."""
    apply(cluster, namespace(name))
    with progress.step(f"{count} jobs created"):
        jobs = (training_job(name, f"job-{number:05}", suspend=True) for number in range(count))
        asyncio.run(create_all(cluster.layout.kubeconfig, jobs))
    with operators(cluster, folder, f"{LEASE}-{name}", "one", "two") as (one, two):
        seconds = until_adopted(cluster, name, count, one, progress)
        two.start()
        with progress.step("a second operator stands by"):
            time.sleep(QUIET_SECONDS)
            wait_for("the second operator stands by", lambda: is_idle(two), PATIENCE, pause=2.0)
        found = {"jobs": count, "seconds": round(seconds, 2), **memory_of(one), **idle_shares(one, two, progress)}
        found["processorSeconds"] = round(one.processor_seconds(), 1)
        standing_by = memory_of(two)
        cold = cold_start(cluster, f"{LEASE}-{name}", one, two, progress)
        return {**found, "standBy": standing_by, "coldStart": cold}


def until_adopted(cluster: Cluster, name: str, count: int, operator: Operator, progress: Progress) -> float:
    """Start the operator and return the seconds until each job has its status."""
    # In the server's own columns, name and phase first: whole objects would take this process as long as the operator.
    command = [cluster.kubectl.program, "-n", name, "get", "federatedtrainingjobs", "--watch", "--no-headers"]
    environ = {**os.environ, "KUBECONFIG": str(cluster.layout.kubeconfig)}
    adopted: set[str] = set()
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        listed = 0
        while listed < count:  # the watch stands before the clock starts
            watch.stdout.readline()
            listed += 1
        since = time.monotonic()
        operator.start()
        assert operator.process is not None
        threading.Thread(target=end_with, args=(operator.process, watch), daemon=True).start()
        with progress.step(f"{count} jobs adopted", lambda: str(len(adopted))):
            while len(adopted) < count:
                line = watch.stdout.readline()
                if not line:
                    raise HarnessError(f"the operator ended after {len(adopted)} jobs; see {operator.log}")
                job, phase = line.split(maxsplit=2)[:2]
                if phase == "Suspended":
                    adopted.add(job)
        seconds = time.monotonic() - since
        watch.send_signal(signal.SIGTERM)
    return seconds


def end_with(operator: subprocess.Popen[bytes], watch: subprocess.Popen[str]) -> None:
    """End the watch when the operator ends, as one does that loses its lease: it would wait for ever."""
    operator.wait()
    watch.terminate()


def memory_of(operator: Operator) -> dict[str, float]:
    """Return what the process holds, and the most that it held."""
    return {"memoryMB": round(operator.memory("VmRSS"), 1), "mostMemoryMB": round(operator.memory("VmHWM"), 1)}


def idle_shares(leading: Operator, other: Operator, progress: Progress) -> dict[str, float]:
    """Return the share of a core that each process takes while nothing happens."""
    both = {"idleShare": leading, "standByIdleShare": other}
    before, since = {name: each.processor_seconds() for name, each in both.items()}, time.monotonic()
    with progress.step("idle"):
        time.sleep(IDLE_SECONDS)
    seconds = time.monotonic() - since
    return {name: round((each.processor_seconds() - before[name]) / seconds, 4) for name, each in both.items()}


def cold_start(
    cluster: Cluster, lease: str, leading: Operator, other: Operator, progress: Progress
) -> dict[str, float]:
    """Kill the leader; return what the other one takes that finds all jobs adopted."""
    wait_for_leader(cluster, lease, leading.name)
    leading.signal(signal.SIGKILL)
    with progress.step("cold start"):
        wait_for_leader(cluster, lease, other.name)
        wait_for("the cold start", lambda: is_idle(other), PATIENCE, pause=2.0)
    return memory_of(other)


def is_idle(operator: Operator) -> bool:
    """Say whether the process took next to nothing during some seconds."""
    before, since = operator.processor_seconds(), time.monotonic()
    time.sleep(QUIET_SECONDS)
    return operator.processor_seconds() - before < 2 * IDLE_SHARE * (time.monotonic() - since)


BENCHMARK = Benchmark(
    name="scale",
    shows="seconds until 10,000 suspended jobs are adopted by the operator, its memory, its idle CPU (JOBS=)",
    unit="s",
    target=90,
    bound="at most",
    measure=measure,
)

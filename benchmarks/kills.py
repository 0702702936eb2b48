"""What becomes of a training when something dies: RUNS jobs on a whole cluster, a victim each, at seeded moments.

1. A cluster of three nodes, the chart, four silos with a tiny base model.
2. Each run submits a job and waits for a seeded moment: so many seconds after the coordinator's first round, or before.
3. The victim dies: a process gets SIGKILL and is started again, a pod is deleted with a second of grace, a node is
   drained and opened again, or it is cut off, its pods are deleted by force, and its cable is put back.
4. The job must end within PATIENCE: Complete, or Failed with a reason. Of each silo, by its own journal: what it has
   uploaded was charged, and nothing was charged that it had not begun to release. All accounts are closed.

The value is the number of runs in which that did not hold.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import HarnessError
from e2e.cluster.kubectl import wait_for
from e2e.cluster.progress import Progress
from e2e.release import NAMESPACE, Release, installed
from e2e.targets import open_target
from e2e.trainings import Trainings
from tests.support.small_job import LABELS, SILOS, SmallJob, build_small_job

from benchmarks.harness import Benchmark, Outcome

RUNS = int(os.environ.get("RUNS", "5"))
SEED = int(os.environ.get("SEED", "1"))
ROUNDS = 12
SPARE = 4
PATIENCE = 600.0  # of one job: the longest deadline of a stage, starts of pods, and a busy machine
LATEST = 20.0  # seconds after the silos were started, or the first round


@dataclass(frozen=True)
class World:
    """Where the runs happen."""

    cluster: Cluster
    release: Release
    trainings: Trainings
    small: SmallJob


def measure(folder: Path) -> Outcome:
    """Run the jobs; the value is how many ended otherwise than they may."""
    progress = Progress()
    names = [*VICTIMS]
    random.Random(SEED).shuffle(names)
    runs = []
    with world(folder, progress) as made:
        for number in range(RUNS):
            found = run_one(made, f"run-{number}", names[number % len(names)], random.Random(SEED * 1000 + number))
            progress.say(f"{number + 1}/{RUNS}: {json.dumps(found)}")
            runs.append(found)
    wrong = [found for found in runs if found["wrong"]]
    return Outcome(value=len(wrong), met=not wrong, details={"runs": runs, "seed": SEED})


@contextmanager
def world(folder: Path, progress: Progress) -> Iterator[World]:
    """Yield a cluster of its own with the chart and filled volumes."""
    environment = {**os.environ, "E2E_CLUSTER": "local", "E2E_FOLDER": str(folder / "cluster")}
    with open_target(environment, progress) as target, installed(target, trains=True) as release:
        assert target.cluster is not None
        small = build_small_job(folder / "small")
        trainings = Trainings(target.kubectl, release.make_namespace(), target.image("busybox"))
        trainings.fill(small.root / "volumes")
        for name in ("foedus-operator", "foedus-ledger"):
            release.rolled_out(name)
        yield World(target.cluster, release, trainings, small)
        trainings.clear()


def run_one(made: World, name: str, victim: str, seeded: random.Random) -> dict[str, Any]:
    """Run one job and kill the victim in it; return how it ended, with what is wrong with that."""
    made.trainings.submit(made.small.manifest(name, rounds=ROUNDS, spare=SPARE), made.small.root / "volumes", LABELS)
    uid = made.trainings.uid(name)
    early = seeded.random() < 0.3
    wait_for("the moment", lambda: made.trainings.pods(name, SILOS[0]) if early else made.trainings.round(name))
    delay = seeded.uniform(0, LATEST)
    time.sleep(delay)
    since = time.monotonic()
    VICTIMS[victim](made, name, seeded)
    found = {"victim": victim, "early": early, "delay": round(delay, 1), "atRound": made.trainings.round(name)}
    try:
        return found | ended(made, name, uid, since)
    except HarnessError as error:
        return found | {"wrong": str(error)}


def ended(made: World, name: str, uid: str, since: float) -> dict[str, Any]:
    """Return how the job ended, once it has."""
    trainings = made.trainings
    wait_for(f"the end of {name}", lambda: phase(trainings, name) in ("Complete", "Failed"), PATIENCE, pause=1)
    seconds = round(time.monotonic() - since, 1)
    wait_for("the accounts are closed", lambda: trainings.closed(name, uid, SILOS), PATIENCE, pause=1)
    status = trainings.status(name)
    reason = next(each["reason"] for each in status["conditions"] if each["type"] == status["phase"])
    accounts = trainings.accounts_of(name, uid, SILOS)
    wrong = [fault for silo in SILOS if (fault := ledger_fault(made, name, silo, accounts[silo]))]
    if status["phase"] == "Failed" and not status.get("message"):
        wrong.append("failed without a message")
    return {"phase": status["phase"], "reason": reason, "seconds": seconds, "wrong": "; ".join(wrong)}


def phase(trainings: Trainings, name: str) -> str:
    """Return the job's phase; an API server that does not answer has told none."""
    with suppress(HarnessError):
        return str(trainings.status(name).get("phase", ""))
    return ""


def ledger_fault(made: World, name: str, silo: str, account: Mapping[str, Any]) -> str:
    """Return what is wrong with a silo's account, by the silo's own journal; nothing when it is right."""
    stages = made.trainings.stages(name, silo, made.small.root / "journals" / name / silo)
    uploaded, begun = stages.count("Uploaded"), stages.count("Charging")
    if uploaded <= account["charged"] <= begun and account["charged"] <= account["reserved"]:
        return ""
    return f"{silo}: uploaded {uploaded}, charged {account['charged']}, begun {begun}, reserved {account['reserved']}"


# The victims


def kill_role(made: World, name: str, role: str) -> None:
    """Kill the latest pod of a role; before there is one there is nothing to kill."""
    wait_for("its pod", lambda: bool(made.trainings.pods(name, role)))
    made.trainings.kill_latest(name, role)


def kill_daemon(made: World, daemon: str, seconds: float) -> None:
    """Kill a part of the cluster, and start it again after a while."""
    made.cluster.daemons[daemon].signal(signal.SIGKILL)
    time.sleep(seconds)
    made.cluster.daemons[daemon].start()
    made.cluster.wait_for_api_server()


def drain(made: World, _name: str, seeded: random.Random) -> None:
    """Cordon and drain a node. Volumes are its own, so its silos wait until it is opened again."""
    node = seeded.choice(made.cluster.layout.nodes).name
    selector = ("--pod-selector=foedus.dev/job", "--delete-emptydir-data", "--force", "--timeout=60s")
    made.trainings.kubectl.attempt("drain", node, *selector, seconds=90)
    made.trainings.kubectl("uncordon", node)


def partition(made: World, name: str, seeded: random.Random) -> None:
    """Cut a node off, delete the job's pods there by force, and put the cable back: two pods of a role may run."""
    node = seeded.choice(made.cluster.layout.nodes)
    made.cluster.partition(node)
    try:
        time.sleep(seeded.uniform(1, 20))
        pods = made.trainings.get("pods", "-l", f"foedus.dev/job={name}", f"--field-selector=spec.nodeName={node.name}")
        for pod in pods["items"]:
            force = ("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0", "--wait=false")
            made.trainings.kubectl("-n", made.trainings.namespace, *force)
    finally:
        made.cluster.heal(node)


VICTIMS: Mapping[str, Callable[[World, str, random.Random], None]] = {
    "operator": lambda made, _name, _seeded: made.trainings.kill(NAMESPACE, made.release.leader()),
    "coordinator": lambda made, name, _seeded: kill_role(made, name, "coordinator"),
    **{silo: lambda made, name, _seeded, silo=silo: kill_role(made, name, silo) for silo in SILOS},
    "kubelet": lambda made, _name, seeded: kill_daemon(
        made, f"{seeded.choice(made.cluster.layout.nodes).name}-kubelet", seeded.uniform(1, 20)
    ),
    "API server": lambda made, _name, seeded: kill_daemon(made, "kube-apiserver", seeded.uniform(1, 10)),
    "etcd": lambda made, _name, seeded: kill_daemon(made, "etcd", seeded.uniform(1, 10)),
    "drain": drain,
    "partition": partition,
}

BENCHMARK = Benchmark(
    name="kills",
    shows="jobs that ended otherwise than they may after something died in their middle (RUNS=, default 5)",
    unit="jobs",
    target=0,
    bound="at most",
    measure=measure,
)

"""What becomes of a training when something dies: RUNS jobs on a whole cluster, a victim each, at seeded moments.

1. A cluster of three nodes, the chart, four silos with a tiny base model.
2. Each run submits a job and waits for a seeded moment: so long after its silos' pods were made, or a certain round.
3. The victim dies while the job lives: a process gets SIGKILL and is started again, a pod is deleted with a second of
   grace, a node is drained and opened again, or cut off, its pods deleted by force, and its cable is put back.
4. The job must end within PATIENCE: Complete, or Failed with a reason and a message. Then all accounts must be closed,
   and be right by what knows nothing of them, the silos' own journals and the job's result: what a silo has uploaded
   was charged, nothing was charged that it had not begun to release, nothing beyond what was reserved, and a job with
   all of its rounds has a quorum's uploads for each.

The value is the number of runs in which that did not hold. A run whose job had ended before its victim died shows
nothing, and with one such run the benchmark does not pass.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from subprocess import TimeoutExpired
from typing import Any

from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import HarnessError
from e2e.cluster.kubectl import wait_for
from e2e.cluster.layout import Node
from e2e.cluster.progress import Progress
from e2e.release import NAMESPACE, Release, installed
from e2e.targets import open_target
from e2e.trainings import ENDED, Trainings
from tests.support.small_job import LABELS, SILOS, SmallJob, build_small_job

from benchmarks.harness import Benchmark, Outcome

RUNS = int(os.environ.get("RUNS", "5"))
SEED = int(os.environ.get("SEED", "1"))
ROUNDS = 12  # of a second and more: silos and coordinator share two processors with the cluster
SPARE = 4
QUORUM = 3  # ⌊2n/3⌋ + 1 of four silos
PATIENCE = 600.0  # of one job: the longest deadline of a stage, starts of pods, and a busy machine
STARTING = 0.3  # of the runs: the victim dies while the job starts
LATEST_SECONDS = 15.0  # after the silos' pods were made, which then load a training framework
LATEST_ROUND = 6  # half of the job is still to come


@dataclass(frozen=True)
class World:
    """Where the runs happen."""

    cluster: Cluster
    release: Release
    trainings: Trainings
    small: SmallJob


def measure(folder: Path) -> Outcome:
    """Run the jobs; the value is how many ended otherwise than they may."""
    progress, runs = Progress(), []
    names = [*VICTIMS]
    with world(folder, progress) as made:
        for number in range(RUNS):
            seeded = random.Random(f"{SEED}/{number}")
            found = run_one(made, f"run-{number}", names[number % len(names)], seeded)
            progress.say(f"{number + 1}/{RUNS}: {json.dumps(found)}")
            runs.append(found)
    wrong = [found for found in runs if found["wrong"]]
    details = {
        "runs": len(runs),
        "seed": SEED,
        "killedAlive": sum(found["alive"] for found in runs),
        "complete": sum(found.get("phase") == "Complete" for found in runs),
        "medianSeconds": median(found["seconds"] for found in runs),
        "each": runs,
    }
    return Outcome(value=len(wrong), met=not wrong and details["killedAlive"] == len(runs), details=details)


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
    since = time.monotonic()
    made.trainings.submit(made.small.manifest(name, rounds=ROUNDS, spare=SPARE), made.small.root / "volumes", LABELS)
    uid = made.trainings.uid(name)
    found: dict[str, Any] = {"victim": victim, "alive": False}
    try:
        found["moment"] = wait_for_moment(made.trainings, name, seeded)
        found["alive"] = phase(made.trainings, name) not in ENDED
        VICTIMS[victim](made, name, seeded)
        found |= ended(made, name, uid)
    except (HarnessError, TimeoutExpired) as error:
        found["wrong"] = str(error)
    return {**found, "seconds": round(time.monotonic() - since, 1)}


def wait_for_moment(trainings: Trainings, name: str, seeded: random.Random) -> str:
    """Return when the victim is to die, with the words for it."""
    if seeded.random() < STARTING:
        delay = seeded.uniform(0, LATEST_SECONDS)
        wait_for("the silos' pods", lambda: bool(trainings.pods(name, SILOS[0])), PATIENCE)
        time.sleep(delay)
        return f"{delay:.1f} s after the pods"
    wanted = seeded.randint(1, LATEST_ROUND)
    wait_for(f"round {wanted}", lambda: trainings.round(name) >= wanted, PATIENCE)
    return f"round {trainings.round(name)}"


def ended(made: World, name: str, uid: str) -> dict[str, Any]:
    """Return how the job ended, once it has."""
    trainings = made.trainings
    wait_for(f"the end of {name}", lambda: phase(trainings, name) in ENDED, PATIENCE, pause=1)
    wait_for("the accounts are closed", lambda: trainings.closed(name, uid, SILOS), PATIENCE, pause=1)
    status = trainings.status(name)
    reason = next(each["reason"] for each in status["conditions"] if each["type"] == status["phase"])
    accounts = trainings.accounts_of(name, uid, SILOS)
    folder = made.small.root / "journals" / name
    with ThreadPoolExecutor() as pool:  # a pod each
        found_stages = pool.map(lambda silo: trainings.stages(name, silo, folder / silo), SILOS)
        stages = dict(zip(SILOS, found_stages, strict=True))
    wrong = [fault for silo in SILOS if (fault := ledger_fault(silo, stages[silo], accounts[silo]))]
    uploads = sum(each.count("Uploaded") for each in stages.values())
    if status["phase"] == "Complete" and (status["round"] < ROUNDS or uploads < ROUNDS * QUORUM):
        wrong.append(f"complete after {status['round']} of {ROUNDS} rounds with {uploads} uploads")
    if status["phase"] == "Failed" and not status.get("message"):
        wrong.append("failed without a message")
    charged = sum(account["charged"] for account in accounts.values())
    found = {"phase": status["phase"], "reason": reason, "uploads": uploads, "charged": charged}
    return {**found, "wrong": "; ".join(wrong)}


def phase(trainings: Trainings, name: str) -> str:
    """Return the job's phase; an API server that does not answer has told none."""
    with suppress(HarnessError, TimeoutExpired):
        return str(trainings.status(name).get("phase", ""))
    return ""


def ledger_fault(silo: str, stages: list[str], account: Mapping[str, Any]) -> str:
    """Return what is wrong with a silo's account, by the silo's own journal; nothing when it is right."""
    uploaded, begun, reserved = stages.count("Uploaded"), stages.count("Charging"), account["reserved"]
    if uploaded <= account["charged"] <= begun and account["charged"] <= reserved == ROUNDS + SPARE:
        return ""
    return f"{silo}: uploaded {uploaded}, charged {account['charged']}, begun {begun}, reserved {reserved}"


# The victims


def kill_role(made: World, name: str, role: str) -> None:
    """Kill the latest pod of a role, once there is one."""
    wait_for("its pod", lambda: bool(made.trainings.pods(name, role)), PATIENCE)
    made.trainings.kill_latest(name, role)


def kill_daemons(made: World, names: tuple[str, ...], seconds: float) -> None:
    """Kill parts of the cluster, and after a while start what does not run, as on a node its service manager does."""
    for name in names:
        made.cluster.daemons[name].signal(signal.SIGKILL)
    time.sleep(seconds)

    def is_up() -> bool:
        for daemon in made.cluster.daemons.values():
            daemon.start()
        return made.cluster.kubectl.succeeds("get", "--raw", "/readyz")

    wait_for("the API server", is_up)


def node_of(made: World, name: str, seeded: random.Random) -> Node:
    """Return a node on which a pod of the job is."""
    pods = made.trainings.get("pods", "-l", f"foedus.dev/job={name}")["items"]
    used = {pod["spec"].get("nodeName", "") for pod in pods if pod["status"]["phase"] in ("Pending", "Running")}
    nodes = made.cluster.layout.nodes
    return seeded.choice([node for node in nodes if node.name in used] or list(nodes))


def drain(made: World, name: str, seeded: random.Random) -> None:
    """Cordon and drain a node. Volumes are its own, so its silos wait until it is opened again."""
    node = node_of(made, name, seeded).name
    selector = ("--pod-selector=foedus.dev/job", "--delete-emptydir-data", "--force", "--timeout=60s")
    made.trainings.kubectl.attempt("drain", node, *selector, seconds=90)
    made.trainings.kubectl("uncordon", node)


def partition(made: World, name: str, seeded: random.Random) -> None:
    """Cut a node off, delete the job's pods there by force, and put the cable back: two pods of a role may run."""
    node = node_of(made, name, seeded)
    made.cluster.partition(node)
    try:
        time.sleep(seeded.uniform(1, 20))
        pods = made.trainings.get("pods", "-l", f"foedus.dev/job={name}", f"--field-selector=spec.nodeName={node.name}")
        for pod in pods["items"]:
            force = ("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0", "--wait=false")
            made.trainings.kubectl("-n", made.trainings.namespace, *force)
    finally:
        made.cluster.heal(node)


Victim = Callable[[World, str, random.Random], None]


def part(names: tuple[str, ...], longest: float) -> Victim:
    """Return the victim that parts of the cluster are, which are away for at most so many seconds."""
    return lambda made, _name, seeded: kill_daemons(made, names, seeded.uniform(1, longest))


def kubelet(made: World, name: str, seeded: random.Random) -> None:
    """Kill the kubelet of a node that has a pod of the job."""
    kill_daemons(made, (f"{node_of(made, name, seeded).name}-kubelet",), seeded.uniform(1, 20))


def silo_victim(silo: str) -> Victim:
    """Return the victim that a silo is."""
    return lambda made, name, _seeded: kill_role(made, name, silo)


# In this order: also of few runs each is of another kind.
VICTIMS: Mapping[str, Victim] = {
    "operator": lambda made, _name, _seeded: made.trainings.kill(NAMESPACE, made.release.leader()),
    "coordinator": lambda made, name, _seeded: kill_role(made, name, "coordinator"),
    SILOS[0]: silo_victim(SILOS[0]),
    "etcd and API server": part(("etcd", "kube-apiserver"), 10),
    "partition": partition,
    "kubelet": kubelet,
    "API server": part(("kube-apiserver",), 10),
    "drain": drain,
    **{silo: silo_victim(silo) for silo in SILOS[1:]},
    "etcd": part(("etcd",), 10),
}

BENCHMARK = Benchmark(
    name="kills",
    shows="jobs that ended otherwise than they may after something died in their middle (RUNS=, default 5)",
    unit="jobs",
    target=0,
    bound="at most",
    measure=measure,
)

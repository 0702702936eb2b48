"""What happens to the operator's work when its leader is killed, or stopped and woken again.

Two operators run against a real API server, under the admission policies. A job runs all the while, with every child
that a job has; there are no nodes, and of its pods is said what kubelets would say.

killed   The leader gets SIGKILL. At once the running job loses a child and another job is created, and the clock runs
         until the child is back and the new job has a status: the other one has waited out the lease, looked at
         everything, and reconciled. The other one has stood by for STAND_BY before. ROUNDS times; the value is the
         longest, and the details have when which of the three happened.
stopped  The leader gets SIGSTOP in the middle of writes to ledgers: jobs that have ended hold accounts on four budgets,
         which it closes one by one. The running job loses a child meanwhile, which the other one has to make again.
         After 60 s the first one is woken. The audit log must show no write of its that was accepted after the other
         one took over, it must have ended by itself, and one more pass of the new leader over every object must change
         nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2e.cluster.cluster import Cluster
from e2e.cluster.kubectl import wait_for
from e2e.cluster.progress import Progress
from tests.support.brain import SILOS
from tests.support.operator_world import World, start

from benchmarks.api_cluster import OPERATOR, apply, apply_policies, control_plane, namespace
from benchmarks.harness import Benchmark, Outcome
from benchmarks.jobs import create_all, end_all, privacy_budget, training_job
from benchmarks.operators import (
    Operator,
    audit_entries,
    credential_of,
    operators,
    wait_for_leader,
)
from foedus_contract.exit_codes import ExitCode
from foedus_engine import names
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import Object, find
from foedus_engine.decide.plan import BudgetKey, ObjectKey
from foedus_ledger.mechanisms import Mechanism
from foedus_operator.api_server import connect, load_configuration
from foedus_operator.kube import KubeCluster
from foedus_operator.ledgers import KubeLedgers

ROUNDS = int(os.environ.get("ROUNDS", "5"))
STAND_BY_SECONDS = 40.0  # it has watched and rehearsed then, as one that was not started a moment ago
LOOK_SECONDS = 0.05  # over an open connection: a kubectl takes as long to start as what is measured
JOBS = 30  # that have ended and hold accounts: 120 ledger writes
STOPPED_SECONDS = 60.0
NAMESPACE = "bench-failover"
RUNNING = "bench-failover-running"  # where the job is that runs: its plan takes all of its budgets
CHILD = "demo-coordinator"  # its Service, which goes
CANARY = "looked-at-last"
# What looked at the model goes some time after the plan was made.
OF_JOB = "foedus.dev/job=demo,app.kubernetes.io/component!=inspector"
LEASE = "bench-lease"
SETTLE_SECONDS = 5.0  # what was queued before the last one may still be under way
CHILDREN = (
    "jobs,pods,configmaps,secrets,services,serviceaccounts,networkpolicies,poddisruptionbudgets,persistentvolumeclaims"
)
PATIENCE_SECONDS = 300.0  # it only ends what would never end
WRITES = frozenset({"create", "update", "patch", "delete"})


def measure(folder: Path) -> Outcome:
    """Kill leaders, then stop one; the value is the longest time to the next reconcile."""
    progress = Progress()
    with control_plane(folder, progress) as cluster:
        for name in (NAMESPACE, RUNNING):
            apply(cluster, namespace(name, {"foedus.dev/budgets": "kept"}))
        apply(cluster, *(privacy_budget(NAMESPACE, silo) for silo in SILOS))
        apply_policies(cluster)
        with operators(cluster, folder, LEASE, "one", "two") as pair:
            pair[0].start()
            with progress.step("a job runs"):
                asyncio.run(start_job(cluster))
            children = count_children(cluster)
            killed = [kill_leader(cluster, pair, number, progress) for number in range(ROUNDS)]
            for operator in pair:
                operator.end()
            found = stop_leader(cluster, pair, progress)
    met = not found["acceptedLedgerWrites"] and not found["acceptedWrites"] and not found["changed"] and found["ended"]
    met = met and 0 < found["closedBefore"] < found["accounts"] == found["closedAfter"]
    met = met and len(children) == len(CHILDREN.split(",")) and children["Pod"] == len(SILOS) + 1
    details = {"rounds": ROUNDS, "killed": killed, "children": children, "stopped": found}
    return Outcome(value=max(max(each.values()) for each in killed), met=met, details=details)


def kill_leader(cluster: Cluster, pair: list[Operator], number: int, progress: Progress) -> dict[str, float]:
    """Return the seconds from the leader's end to the next lease, a new job's status, and the lost child's return."""
    first, second = pair if number % 2 == 0 else pair[::-1]
    if first.process is None:
        first.start()
    wait_for_leader(cluster, LEASE, first.name)
    create_suspended(cluster, f"before-{number}")
    wait_for("the leader's work", lambda: is_reconciled(cluster, f"before-{number}"))
    second.end()
    second.start()
    wait_for("the other one", lambda: is_up(second))
    time.sleep(STAND_BY_SECONDS)
    since = time.monotonic()
    first.signal(signal.SIGKILL)
    first.wait(10)
    lost = lose_child(cluster)
    name = f"after-{number}"
    create_suspended(cluster, name)
    took = asyncio.run(seconds_until_next(cluster, second.name, name, lost, since))
    progress.say(f"after SIGKILL: {json.dumps(took)}")
    return took


async def seconds_until_next(cluster: Cluster, leader: str, name: str, lost: str, since: float) -> dict[str, float]:
    """Return when, after `since`, the other one has the lease, the new job has a status, and the child is back."""
    job = ObjectKey(names.API_VERSION, names.TRAINING_KIND, NAMESPACE, name)
    lease = ObjectKey("coordination.k8s.io/v1", "Lease", LEASE, "foedus-operator")
    service = ObjectKey("v1", "Service", RUNNING, CHILD)
    holds: dict[str, tuple[ObjectKey, Callable[[Object], bool]]] = {
        "lease": (lease, lambda found: found["spec"].get("holderIdentity") == leader),
        "newJob": (job, lambda found: (found.get("status") or {}).get("phase") == "Suspended"),
        "lostChild": (service, lambda found: found["metadata"]["uid"] != lost),
    }
    took: dict[str, float] = {}
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        connect(await load_configuration(cluster.layout.kubeconfig)) as server,
    ):
        kube = KubeCluster(server, KeyFeed())
        while len(took) < len(holds):
            for what, (key, is_so) in holds.items():
                found = None if what in took else await find(kube, key)
                if found is not None and is_so(found):
                    took[what] = round(time.monotonic() - since, 2)
            await asyncio.sleep(LOOK_SECONDS)
    return took


async def start_job(cluster: Cluster) -> None:
    """Bring a job to where it runs, with all of its children."""
    async with connect(await load_configuration(cluster.layout.kubeconfig)) as server:
        world = World(server, RUNNING)
        await world.make_budgets()
        await start(world, aggregation={"joinTimeout": "6h"})  # its silos never come


def child(cluster: Cluster) -> str:
    """Return the UID of the running job's child that goes, nothing while it is gone."""
    return cluster.kubectl.attempt("-n", RUNNING, "get", "service", CHILD, "-o=jsonpath={.metadata.uid}").stdout


def lose_child(cluster: Cluster) -> str:
    """Delete that child, and return the UID that it had."""
    lost = child(cluster)
    cluster.kubectl("-n", RUNNING, "delete", "service", CHILD)
    return lost


def count_children(cluster: Cluster) -> dict[str, int]:
    """Return how many children of each kind the running job has."""
    found = cluster.kubectl.get("-n", RUNNING, CHILDREN, "-l", OF_JOB)["items"]
    return dict(sorted(Counter(item["kind"] for item in found).items()))


def is_up(operator: Operator) -> bool:
    """Say whether the process answers on its health port, which it does before it waits for the lease."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(operator.environ["FOEDUS_OPERATOR_HEALTH_PORT"]))) == 0


def create_suspended(cluster: Cluster, name: str) -> None:
    """Create a job that the operator has only to tell the status of."""
    apply(cluster, training_job(NAMESPACE, name, suspend=True))


def is_reconciled(cluster: Cluster, name: str) -> bool:
    """Say whether the job has a status; an API server that does not answer has told none."""
    phase = "-o=jsonpath={.status.phase}"
    return cluster.kubectl.attempt("-n", NAMESPACE, "get", "federatedtrainingjob", name, phase).stdout == "Suspended"


def stop_leader(cluster: Cluster, pair: list[Operator], progress: Progress) -> dict[str, Any]:
    """Stop the leader amid ledger writes, wake it later; return what it did and what is left."""
    old, new = pair
    old.start()
    wait_for_leader(cluster, LEASE, old.name)
    new.start()
    wait_for("the other one", lambda: is_up(new))
    made = asyncio.run(reserve_on_all(cluster))
    asyncio.run(end_all(cluster.layout.kubeconfig, made))
    accounts = JOBS * len(SILOS)
    wait_for("some closings", lambda: closed(cluster) > accounts // 10, pause=0.02)
    old.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    before, lost = closed(cluster), lose_child(cluster)
    wait_for_leader(cluster, LEASE, new.name)
    progress.say(f"the leader was stopped after {before} of {accounts} closings")
    wait_for("all closings", lambda: closed(cluster) == accounts)
    wait_for("the child is back", lambda: child(cluster) not in ("", lost))
    time.sleep(max(0.0, stopped + STOPPED_SECONDS - time.monotonic()))
    old.signal(signal.SIGCONT)
    ended = old.wait(60)
    changed = pass_again(cluster)
    writes = writes_after_takeover(cluster, old, new)
    ledger = [entry for entry in writes if entry["objectRef"].get("resource") == "privacybudgets"]
    return {
        "accounts": accounts,
        "closedBefore": before,
        "closedAfter": closed(cluster),
        "ended": ended == ExitCode.UNAVAILABLE,
        "exitCode": ended,
        "acceptedLedgerWrites": [shown(entry) for entry in ledger if is_accepted(entry)],
        "acceptedWrites": [shown(entry) for entry in writes if is_accepted(entry)],
        "refusedWrites": [shown(entry) for entry in writes if not is_accepted(entry)],
        "changed": changed,
    }


async def reserve_on_all(cluster: Cluster) -> list[dict[str, Any]]:
    """Create suspended jobs, reserve on their budgets as the operator does, and return them."""
    jobs = [training_job(NAMESPACE, f"ended-{number:03}", suspend=True) for number in range(JOBS)]
    made = await create_all(cluster.layout.kubeconfig, jobs)
    async with connect(await load_configuration(cluster.layout.kubeconfig)) as server:
        server._client.set_default_header("Impersonate-User", OPERATOR)
        ledgers, mechanism = KubeLedgers(server), Mechanism(noise_multiplier=1000.0)
        for job in made:
            for silo in SILOS:
                key = BudgetKey(NAMESPACE, f"budget-{silo}")
                uid, name = job["metadata"]["uid"], job["metadata"]["name"]
                await ledgers.reserve(key, job_uid=uid, mechanism=mechanism, count=4, claimant=name)
    return made


def closed(cluster: Cluster) -> int:
    """Return how many accounts are closed."""
    budgets = cluster.kubectl.get("-n", NAMESPACE, "privacybudgets")["items"]
    accounts = [account for budget in budgets for account in (budget.get("status") or {}).get("accounts", {}).values()]
    return sum(account["state"] == "Closed" for account in accounts)


def pass_again(cluster: Cluster) -> list[str]:
    """Touch every job, let the leader look at them all, and return which objects it changed."""
    before = settled(cluster)
    for place in (NAMESPACE, RUNNING):
        cluster.kubectl("-n", place, "annotate", "federatedtrainingjobs", "--all", "bench=again", "--overwrite")
    # Objects are looked at in the order of their news: once this one has a status, the others' turn has come.
    create_suspended(cluster, CANARY)
    wait_for("a pass over all objects", lambda: is_reconciled(cluster, CANARY))
    time.sleep(SETTLE_SECONDS)
    after = stamps(cluster)
    after.pop(f"FederatedTrainingJob/{NAMESPACE}/{CANARY}")
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def settled(cluster: Cluster) -> dict[str, str]:
    """Return what every object says once nothing of it changes any more: the leader has caught up."""
    found: list[dict[str, str]] = [{}]

    def is_settled() -> bool:
        found.append(stamps(cluster))
        return found[-1] == found[-2]

    wait_for("the leader to catch up", is_settled, pause=SETTLE_SECONDS)
    return found[-1]


def stamps(cluster: Cluster) -> dict[str, str]:
    """Return what every object says: jobs without the annotation by which a pass is asked for.

    Whoever writes an object anew, even as it was, leaves another version; of jobs the status must be the same.
    """
    found = {}
    for place in (NAMESPACE, RUNNING):
        for item in cluster.kubectl.get("-n", place, f"federatedtrainingjobs,privacybudgets,{CHILDREN}")["items"]:
            meta = item["metadata"]
            said = item.get("status") if item["kind"] == "FederatedTrainingJob" else meta["resourceVersion"]
            found[f"{item['kind']}/{place}/{meta['name']}"] = json.dumps([meta["uid"], said], sort_keys=True)
    return found


def writes_after_takeover(cluster: Cluster, old: Operator, new: Operator) -> list[dict[str, Any]]:
    """Return the old leader's writes that the API server answered after the new one had taken the lease."""
    entries = [entry for entry in audit_entries(cluster) if entry["verb"] in WRITES]
    taken = max(
        entry["stageTimestamp"]
        for entry in entries
        if credential_of(entry) == new.credential
        and entry["objectRef"].get("resource") == "leases"
        and is_accepted(entry)
        and not _renews(entries, entry, new)
    )
    return [entry for entry in entries if credential_of(entry) == old.credential and entry["stageTimestamp"] > taken]


def _renews(entries: list[dict[str, Any]], entry: dict[str, Any], new: Operator) -> bool:
    """Say whether the write of the lease before this one was the same process's."""
    before = [
        each
        for each in entries
        if each["objectRef"].get("resource") == "leases"
        and is_accepted(each)
        and each["objectRef"].get("namespace") == LEASE
        and each["stageTimestamp"] < entry["stageTimestamp"]
    ]
    return bool(before) and credential_of(max(before, key=lambda each: each["stageTimestamp"])) == new.credential


def is_accepted(entry: dict[str, Any]) -> bool:
    """Say whether a request took effect."""
    return int(entry["responseStatus"]["code"]) < 300


def shown(entry: dict[str, Any]) -> str:
    """Return a request in one line."""
    about, code = entry["objectRef"], entry["responseStatus"]["code"]
    return f"{entry['stageTimestamp']} {entry['verb']} {about.get('resource')}/{about.get('name')} {code}"


BENCHMARK = Benchmark(
    name="failover",
    shows="seconds from SIGKILL of the leading operator to the next reconcile; one that wakes up writes nothing",
    unit="s",
    target=20,
    bound="at most",
    measure=measure,
)

"""The ledgers of a cluster under kills: many writers on few, nearly full budgets, and what their history says.

1. Eight writers (`ledger_writer`) reserve, charge and close on four budgets of a real API server, under the admission
   policies, until OPS operations are done. Writers are killed at named points, API server and etcd under a write, and
   answers are lost after their write was committed. Half-way etcd is saved.
2. The history is checked against a ledger that is changed step by step (`ledger_history`): nothing double, nothing
   lost, nothing refunded, the limit held.
3. The silos' logs are brought up to the ledgers, etcd is restored from what was saved, and every ledger must be seen
   as an old copy, by its silo and by the head; charges that are taken over from the logs bring all of it back.
4. A build whose writes bear no resourceVersion runs for a moment: the checker must flag it.

OPS=1000000 is the nightly size, OPS=2000 one for every change; there is a kill for every thousand operations, at least
ten.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from e2e.cluster.cluster import Cluster
from e2e.cluster.progress import Progress

from benchmarks.api_cluster import LEDGER, OPERATOR, POLICIES, administrators, apply, control_plane, namespace
from benchmarks.harness import Benchmark, Outcome
from benchmarks.ledger_history import Entry, Final, limit_of, read_history, violations
from benchmarks.ledger_writer import ASK_KILL, HALF, KILL, POINTS, Task, committed
from foedus_contract.errors import FoedusError
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.charge_log import read_charges
from foedus_ledger.charges import LedgerBehind, check_reaches
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord
from foedus_operator.api_server import connect, load_configuration
from foedus_operator.ledgers import KubeLedgers
from foedus_workloads.training.silo_ledger import SiloLedger

T = TypeVar("T")
OPERATIONS = int(os.environ.get("OPS", "100000"))
KILLS = max(10, OPERATIONS // 1000)
WRITERS, BUDGETS = 8, 4
NAMESPACE = "bench-ledger"
EPSILON, DELTA = 1.0, 1e-5
LIMIT = limit_of(EPSILON, DELTA)
FILLED = 0.95  # of each budget, by an account that nobody charges
FILLERS = 1000  # releases of that account
CLOSINGS = 25  # a writer's, so that a budget has some hundred accounts at most
MOST_CLOSINGS = 0.02  # of its operations
UNGUARDED = 600  # operations of the build without resourceVersion
START_SECONDS = 600.0  # of an API server; it takes ten, and far more on a machine that does other work
SEED = 7
NOTHING = Account(mechanism=Mechanism(noise_multiplier=1.0), reserved=1, claimant="nobody")


@dataclass
class Session:
    """One run of writers on their budgets: where their notes are, and what was done to them."""

    cluster: Cluster
    folder: Path
    budgets: tuple[str, ...]
    operations: int  # of each writer
    kills: int  # of each writer
    server_kills: int  # of each writer
    guarded: bool = True
    snapshot: Path | None = None
    done: Counter[str] = field(default_factory=Counter)
    tasks: asyncio.StreamWriter = field(init=False)

    def __post_init__(self) -> None:
        self.lock = asyncio.Lock()
        self.ended: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(WRITERS)]
        self.rng = random.Random(SEED)

    @property
    def capacity(self) -> int:
        """Return how many releases a budget has room for beside what fills it: somewhat less than are asked for."""
        return max(8, self.operations * WRITERS // len(self.budgets) * 4 // 5)

    @property
    def noise(self) -> float:
        """Return σ with which so many releases fit, and not one more."""
        return math.sqrt(self.capacity / ((1 - FILLED) * LIMIT * (1 - 1e-6)))

    async def run(self) -> None:
        """Let all writers do all their operations."""
        command = (sys.executable, "-m", "benchmarks.ledger_writer")
        pipe = asyncio.subprocess.PIPE
        parent = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        assert parent.stdin is not None
        assert parent.stdout is not None
        self.tasks = parent.stdin
        try:
            async with asyncio.TaskGroup() as group:
                listeners = [group.create_task(self.listen(parent.stdout, group)), group.create_task(self.tidy())]
                supervisors = [group.create_task(self.supervise(number)) for number in range(WRITERS)]
                await asyncio.wait(supervisors)
                for listener in listeners:
                    listener.cancel()
        finally:
            parent.stdin.close()
            await parent.wait()

    async def listen(self, said: asyncio.StreamReader, group: asyncio.TaskGroup) -> None:
        """Take what the writers tell, and how they ended."""
        async for line in said:
            what, number, word = line.decode().split()
            if what == "exit":
                self.ended[int(number)].put_nowait(int(word))
            else:
                group.create_task(self.hear(word))
        raise RuntimeError("the writers' parent has ended")

    async def tidy(self) -> None:
        """Remove the full files of the audit log, which nobody reads here, now and then."""
        while True:
            for file in self.cluster.layout.logs.glob("audit-*.log"):
                file.unlink()
            await asyncio.sleep(10)

    def history(self, number: int) -> Path:
        """Return a writer's notes."""
        return self.folder / f"{self.budgets[0]}-writer-{number}.jsonl"

    async def supervise(self, number: int) -> None:
        """Start a writer again until its operations are done; each life but the last ends at a named point."""
        life = max(2, self.operations // (self.kills + 1))  # operations
        for kill in range(self.kills + 1):
            last = kill == self.kills
            task = Task(
                number=number,
                kubeconfig=str(self.cluster.layout.kubeconfig),
                history=str(self.history(number)),
                budget=self.budgets[number % len(self.budgets)],
                namespace=NAMESPACE,
                operations=self.operations,
                capacity=self.capacity,
                noise=self.noise,
                closings=min(MOST_CLOSINGS, CLOSINGS / self.operations),
                seed=SEED,
                die_at="" if last else POINTS[(kill + number) % len(POINTS)],
                die_after=self.rng.randint(life // 2, life),
                kill_after=self.rng.randint(1, life) if kill < self.server_kills else 0,
                guarded=self.guarded,
            )
            if not await self.live(task):
                return

    async def live(self, task: Task) -> bool:
        """Run a writer until it is done, or killed, which is said."""
        self.tasks.write(json.dumps(asdict(task)).encode() + b"\n")
        await self.tasks.drain()
        code = await self.ended[task.number].get()
        if code == 0:
            return False
        if code != -signal.SIGKILL:
            raise RuntimeError(f"writer {task.number} ended with {code}")
        self.done[task.die_at] += 1
        return True

    async def hear(self, word: str) -> None:
        """Do what a writer asks for."""
        if word == KILL:
            async with self.lock:  # not one that is being started already
                self.done[ASK_KILL] += 1
                await asyncio.to_thread(self.kill, with_etcd=self.done[ASK_KILL] % 4 == 0)
        elif word == HALF and self.snapshot is not None and not self.snapshot.exists():
            async with self.lock:
                if not self.snapshot.exists():
                    await asyncio.to_thread(self.cluster.save_snapshot, self.snapshot)

    def kill(self, *, with_etcd: bool) -> None:
        """Kill the API server, now and then etcd first, start them again, and wait until they answer."""
        victims = ("etcd", "kube-apiserver") if with_etcd else ("kube-apiserver",)
        for name in victims:
            self.cluster.daemons[name].signal(signal.SIGKILL)
        for name in victims:
            self.cluster.daemons[name].start()
        self.cluster.wait_for_api_server(START_SECONDS)

    def entries(self) -> tuple[Entry, ...]:
        """Return what all writers noted."""
        return tuple(entry for number in range(WRITERS) for entry in read_history(self.history(number)))


async def with_ledgers(cluster: Cluster, work: Callable[[KubeLedgers], Awaitable[T]], user: str = "") -> T:
    """Return what `work` makes of the cluster's ledgers, as the administrator or as `user`."""
    async with connect(await load_configuration(cluster.layout.kubeconfig)) as server:
        if user:
            server._client.set_default_header("Impersonate-User", user)
        return await work(KubeLedgers(server))


async def make_budgets(session: Session) -> None:
    """Create the session's budgets and fill most of each."""
    spec = {"dataset": {"digest": "sha256:" + "a" * 64, "records": 500}, "epsilon": EPSILON, "delta": DELTA}
    for name in session.budgets:
        meta = {"name": name, "namespace": NAMESPACE}
        kind = {"apiVersion": "foedus.dev/v1alpha1", "kind": "PrivacyBudget"}
        apply(session.cluster, {**kind, "metadata": meta, "spec": spec})
    filler = Mechanism(noise_multiplier=math.sqrt(FILLERS / (FILLED * LIMIT * (1 - 1e-6))))

    async def fill(ledgers: KubeLedgers) -> None:
        for name in session.budgets:
            key = BudgetKey(NAMESPACE, name)
            await ledgers.reserve(key, job_uid="filler", mechanism=filler, count=FILLERS, claimant="bench")

    await with_ledgers(session.cluster, fill, OPERATOR)


async def read_records(session: Session) -> dict[str, BudgetRecord]:
    """Return the ledgers as they are now."""

    async def read(ledgers: KubeLedgers) -> dict[str, BudgetRecord]:
        found = {name: await ledgers.read(BudgetKey(NAMESPACE, name)) for name in session.budgets}
        return {name: record for name, record in found.items() if record is not None}

    return await with_ledgers(session.cluster, read)


def final_of(record: BudgetRecord) -> Final:
    """Return what the checker compares the history with; the filler's opening is no writer's."""
    accounts = {uid: (each.charged, each.last_attempt, each.state == "Closed") for uid, each in record.accounts.items()}
    return Final(record.version - 1, committed(record), accounts)


@dataclass
class HeldByCluster:
    """A silo's ledger in the cluster, for the silo's own code, which is not asynchronous."""

    session: Session
    name: str

    @property
    def where(self) -> str:
        """Return the budget."""
        return f"{NAMESPACE}/{self.name}"

    def read(self) -> BudgetRecord:
        """Return the record as last committed."""
        return asyncio.run(read_records(self.session))[self.name]

    def charge(self, job_uid: str, attempt: int, *, noise_multiplier: float | None = None) -> BudgetRecord:
        """Charge one release as the ledger service does."""
        key = BudgetKey(NAMESPACE, self.name)

        async def charge(ledgers: KubeLedgers) -> BudgetRecord:
            return await ledgers.charge(key, job_uid=job_uid, attempt=attempt, noise_multiplier=noise_multiplier or 0.0)

        return asyncio.run(with_ledgers(self.session.cluster, charge, LEDGER))


def restore(session: Session) -> dict[str, Any]:
    """Put the old copy of etcd back; return what silos and operator make of it, and of what they take over."""
    assert session.snapshot is not None
    key = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
    logs = {name: session.folder / name / "charges.jsonl" for name in session.budgets}
    silos = {name: SiloLedger(HeldByCluster(session, name), log, key) for name, log in logs.items()}
    for log in logs.values():
        log.parent.mkdir()
    heads = {name: silo.open() for name, silo in silos.items()}
    before = asyncio.run(read_records(session))
    session.cluster.restore_snapshot(session.snapshot)
    old = asyncio.run(read_records(session))
    flagged = {
        "by the silo at its start": [is_behind(silo.open) for silo in silos.values()],
        "by the silo at a charge": [is_behind(lambda name=name: charge_on(silos[name], old[name])) for name in silos],  # type: ignore[misc]
        "by a head": [is_behind(lambda name=name: check_reaches(old[name], heads[name])) for name in silos],  # type: ignore[misc]
    }

    async def take_over(ledgers: KubeLedgers) -> None:
        for name, log in logs.items():
            await ledgers.take_over(BudgetKey(NAMESPACE, name), read_charges(log).accounts)

    asyncio.run(with_ledgers(session.cluster, take_over))
    after = asyncio.run(read_records(session))
    lost = {name: charges(before[name]) - charges(old[name]) for name in before}
    refunded = [
        f"{name}/{uid}"
        for name, record in before.items()
        for uid, account in record.accounts.items()
        if account.charged and account.charged > (after[name].accounts.get(uid) or NOTHING).charged
    ]
    return {"chargesInNoOldCopy": lost, "flagged": flagged, "refunded": refunded}


def charges(record: BudgetRecord) -> int:
    """Return how many releases a ledger holds."""
    return sum(account.charged for account in record.accounts.values())


def charge_on(silo: SiloLedger, record: BudgetRecord) -> None:
    """Charge whatever account of an old copy is still open and has room."""
    for uid, account in record.accounts.items():
        if account.state == "Open" and account.charged < account.reserved:
            noise = account.mechanism.noise_multiplier
            silo.charge(uid, account.last_attempt + 1000, noise_multiplier=noise)


def is_behind(act: Callable[[], object]) -> bool:
    """Say whether this is refused for an old copy."""
    try:
        act()
    except LedgerBehind:
        return True
    except FoedusError:
        return False
    return False


def measure(folder: Path) -> Outcome:
    """Run all four parts; the value is the number of violations."""
    progress = Progress()
    each = max(10, OPERATIONS // WRITERS)
    with control_plane(folder, progress) as cluster:
        apply(cluster, namespace(NAMESPACE, {"foedus.dev/budgets": "kept"}), administrators(OPERATOR, LEDGER))
        apply(cluster, *yaml.safe_load_all(POLICIES.read_text("utf-8")))
        session = Session(
            cluster,
            folder,
            tuple(f"budget-{number}" for number in range(BUDGETS)),
            each,
            KILLS * 5 // 4 // WRITERS + 1,  # some lives end before their kill
            KILLS // 10 // WRITERS + 1,
            snapshot=folder.absolute() / "half.db",
        )
        asyncio.run(make_budgets(session))
        with progress.step(f"{each * WRITERS} operations", lambda: f"{dict(session.done)}"):
            asyncio.run(session.run())
        entries = session.entries()
        finals = {name: final_of(record) for name, record in asyncio.run(read_records(session)).items()}
        found = violations(entries, finals, LIMIT)
        with progress.step("an old copy of etcd restored"):
            restored = restore(session)
        with progress.step("a build without resourceVersion"):
            flagged = run_unguarded(cluster, folder)
    return report(session, entries, finals, found, restored, flagged)


def run_unguarded(cluster: Cluster, folder: Path) -> tuple[str, ...]:
    """Return what the checker says of writes that bear no resourceVersion."""
    session = Session(cluster, folder, ("unguarded",), max(10, UNGUARDED // WRITERS), 0, 0, guarded=False)
    asyncio.run(make_budgets(session))
    asyncio.run(session.run())
    finals = {name: final_of(record) for name, record in asyncio.run(read_records(session)).items()}
    return violations(session.entries(), finals, LIMIT)


def report(
    session: Session,
    entries: tuple[Entry, ...],
    finals: Mapping[str, Final],
    found: tuple[str, ...],
    restored: dict[str, Any],
    flagged: tuple[str, ...],
) -> Outcome:
    """Return the outcome, with whether everything happened that was to happen."""
    kills = sum(session.done.values())
    outcomes = Counter(f"{entry.op} {entry.outcome or 'cut off'}" for entry in entries)
    lost = sum(entry.outcome == "unknown" for entry in entries)
    seen_old = all(all(each) for each in restored["flagged"].values())
    met = (
        len(entries) >= session.operations * WRITERS
        and kills >= KILLS
        and all(session.done[point] for point in (*POINTS, ASK_KILL))
        and lost > 0
        and seen_old
        and not restored["refunded"]
        and bool(flagged)
    )
    return Outcome(
        value=float(len(found)),
        met=met,
        details={
            "operations": len(entries),
            "writers": WRITERS,
            "budgets": len(session.budgets),
            "kills": dict(session.done),
            "outcomes": dict(sorted(outcomes.items())),
            "full": {name: round(final.committed / LIMIT, 4) for name, final in finals.items()},
            "violations": list(found[:20]),
            "restored": restored,
            "flaggedWithoutResourceVersion": [len(flagged), *flagged[:3]],
        },
    )


BENCHMARK = Benchmark(
    name="ledger",
    shows="violations in the history of 8 writers on 4 nearly full budgets under kills (OPS=, default 100000)",
    unit="violations",
    target=0,
    bound="at most",
    measure=measure,
)

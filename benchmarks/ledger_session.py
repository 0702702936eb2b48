"""One run of writers on their budgets: they are started, killed and started again, the API server under them, too."""

from __future__ import annotations

import asyncio
import json
import math
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from e2e.cluster.cluster import Cluster
from e2e.cluster.kubectl import wait_for

from benchmarks.api_cluster import OPERATOR, apply
from benchmarks.ledger_history import Entry, Final, limit_of, read_history
from benchmarks.ledger_writer import ASK_KILL, HALF, KILL, POINTS, Task
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetRecord
from foedus_operator.api_server import connect, load_configuration
from foedus_operator.ledgers import KubeLedgers

T = TypeVar("T")
WRITERS = 8
NAMESPACE = "bench-ledger"
EPSILON, DELTA = 1.0, 1e-5
LIMIT = limit_of(EPSILON, DELTA)
FILLED = 0.95  # of each budget, by an account that nobody charges
FILLERS = 1000  # releases of that account
CLOSINGS = 8  # a writer's: each makes room for a new account, and what a write costs grows with these
MOST_CLOSINGS = 0.02  # of its operations
SEED = 7


@dataclass
class Session:
    """One run of writers on their budgets: where their notes are, and what was done to them."""

    cluster: Cluster
    folder: Path
    budgets: tuple[str, ...]
    operations: int  # of each writer
    kills: int  # of all writers together
    server_kills: int  # in all
    guarded: bool = True
    greed: int = 1  # how much more than there is room for the writers believe they may ask for
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
                listener = group.create_task(self.listen(parent.stdout, group))
                supervisors = [group.create_task(self.supervise(number)) for number in range(WRITERS)]
                await asyncio.wait(supervisors)
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

    def history(self, number: int) -> Path:
        """Return a writer's notes."""
        return self.folder / f"{self.budgets[0]}-writer-{number}.jsonl"

    async def supervise(self, number: int) -> None:
        """Start a writer again until its operations are done; each life but the last ends at a named point."""
        kills = share(self.kills, number)
        life = max(2, self.operations // (kills + 1))  # operations
        for kill in range(kills + 1):
            last = kill == kills
            task = Task(
                number=number,
                kubeconfig=str(self.cluster.layout.kubeconfig),
                history=str(self.history(number)),
                budget=self.budgets[number % len(self.budgets)],
                namespace=NAMESPACE,
                operations=self.operations,
                capacity=self.capacity * self.greed,
                noise=self.noise,
                closings=min(MOST_CLOSINGS, CLOSINGS / self.operations),
                seed=SEED,
                die_at="" if last else POINTS[(kill + number) % len(POINTS)],
                die_after=self.rng.randint(life // 2, life),
                # Well before the life ends, or nobody asks.
                kill_after=self.rng.randint(1, max(1, life // 4)) if kill < share(self.server_kills, number) else 0,
                snapshot="" if self.snapshot is None else str(self.snapshot),
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
                await asyncio.to_thread(self.kill, with_etcd=self.done[ASK_KILL] % 2 == 0)
        elif word == HALF and self.snapshot is not None and not self.snapshot.exists():
            async with self.lock:
                if not self.snapshot.exists():
                    await asyncio.to_thread(self.cluster.save_snapshot, self.snapshot)

    def kill(self, *, with_etcd: bool) -> None:
        """Kill the API server, every second time etcd first, start them again, and wait until they answer."""
        victims = ("etcd", "kube-apiserver") if with_etcd else ("kube-apiserver",)
        for name in victims:
            self.cluster.daemons[name].signal(signal.SIGKILL)
        wait_for("the API server", self.is_up)

    def is_up(self) -> bool:
        """Start what does not run, and say whether the API server answers: it gives up when etcd takes its time."""
        for name in ("etcd", "kube-apiserver"):
            self.cluster.daemons[name].start()
        return self.cluster.kubectl.succeeds("get", "--raw", "/readyz")

    def entries(self) -> tuple[Entry, ...]:
        """Return what all writers noted."""
        return tuple(entry for number in range(WRITERS) for entry in read_history(self.history(number)))


def share(total: int, number: int) -> int:
    """Return how many of `total` are writer `number`'s."""
    return total // WRITERS + (number < total % WRITERS)


async def with_ledgers(cluster: Cluster, work: Callable[[KubeLedgers], Awaitable[T]], user: str = "") -> T:
    """Return what `work` makes of the cluster's ledgers, as the administrator or as `user`."""
    async with connect(await load_configuration(cluster.layout.kubeconfig)) as server:
        if user:
            server._client.set_default_header("Impersonate-User", user)
        return await work(KubeLedgers(server))


async def make_budgets(session: Session) -> None:
    """Create the session's budgets and fill most of each."""
    dataset = {"digest": "sha256:" + "a" * 64, "records": 500}
    spec = {"dataset": dataset, "labels": ["no", "yes"], "epsilon": EPSILON, "delta": DELTA}
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


def committed(record: BudgetRecord) -> float:
    """Return Σ count/σ² of all that counts against the limit."""
    return sum(
        (each.reserved if each.state == "Open" else each.charged) / each.mechanism.noise_multiplier**2
        for each in record.accounts.values()
    )


def final_of(record: BudgetRecord) -> Final:
    """Return what the checker compares the history with; the filler's opening is no writer's."""
    accounts = {uid: (each.charged, each.last_attempt, each.state == "Closed") for uid, each in record.accounts.items()}
    return Final(record.version - 1, committed(record), accounts)

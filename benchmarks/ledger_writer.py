"""Writers of ledgers: `python -m benchmarks.ledger_writer` forks one for each task on its standard input.

What is written on its standard output: `tell NUMBER WORD` when a writer wants something of the parent, `exit NUMBER
CODE` when it has ended. At the end of the input all writers are killed: none outlives the benchmark.

A writer works as the product does, with the product's code: reserving and closing as the operator, charging as the
ledger service. It notes each operation before it is asked and after it is answered, and goes on from its notes after a
restart: no attempt number is used for a second release, but now and then one is asked for again, to be refused.

Faults are put between the product's code and the API server: the writer kills itself at a named point, loses an answer
after the write was committed, or asks its parent to kill the API server under a write.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.api_cluster import LEDGER, OPERATOR
from benchmarks.ledger_history import Entry, Operation, note, read_history
from foedus_contract.errors import FoedusError, Refused
from foedus_contract.limits import MAX_ATTEMPTS
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.mechanisms import Mechanism
from foedus_operator.api_server import ApiServer, connect, load_configuration
from foedus_operator.ledgers import KubeLedgers

BEFORE_READ, BEFORE_WRITE, IN_WRITE = "before the read", "between read and write", "while the write is under way"
BEFORE_NOTE, ASK_KILL = "before the answer is noted", "API server under a write"
POINTS = (BEFORE_READ, BEFORE_WRITE, IN_WRITE, BEFORE_NOTE)
LOST_ANSWERS = 1 / 400  # of all writes; each is an attempt that counts as charged
KILL, HALF = "kill", "half"  # what a writer tells its parent
MOST_AT_ONCE = 5000  # releases of one account
PAUSE_SECONDS = 0.2  # while the API server is away


@dataclass(frozen=True)
class Task:
    """What one writer is to do. `capacity` is what its budget has room for; at `die_at`, for the nth time, it dies."""

    number: int
    kubeconfig: str
    history: str
    budget: str
    namespace: str
    operations: int
    capacity: int
    noise: float
    closings: float  # share of operations
    seed: int
    die_at: str = ""
    die_after: int = 0
    kill_after: int = 0  # writes, then the API server is to be killed; 0: never
    snapshot: str = ""  # the file with what etcd held half-way
    guarded: bool = True  # False: a build whose writes bear no resourceVersion


class Faults:
    """Counts how often each named point was reached, and acts when it is time."""

    def __init__(self, task: Task, rng: random.Random) -> None:
        self.task = task
        self.rng = rng
        self.sent = self.answered = 0  # writes, of the present operation
        self.last = b""  # the object that the API server answered with last
        self._left = {task.die_at: task.die_after, ASK_KILL: task.kill_after}

    def is_due(self, point: str) -> bool:
        """Count one arrival; say whether it is the one."""
        left = self._left.get(point, 0) - 1
        self._left[point] = left
        return left == 0

    def reach(self, point: str) -> None:
        """Die here when it is time."""
        if self.is_due(point):
            die()


def die() -> None:
    """End as SIGKILL ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)


def tell(*words: object) -> None:
    """Tell the parent; a line this short is written in one piece."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class FaultyServer(ApiServer):
    """The API server with faults on the way."""

    def __init__(self, server: ApiServer, faults: Faults) -> None:
        super().__init__(server._client)
        self._faults = faults

    async def _send(self, asked: Any, seconds: float) -> tuple[int, bytes]:
        faults = self._faults
        if asked.verb == "GET":
            faults.reach(BEFORE_READ)
            return self._heard(await super()._send(asked, seconds))
        faults.reach(BEFORE_WRITE)
        faults.sent += 1
        if not faults.task.guarded:
            await asyncio.sleep(faults.rng.random() * 0.05)  # others write meanwhile, however slow the machine is
            unguarded = {"status": asked.body["status"]}
            asked = replace(asked, verb="PATCH", body=unguarded, content_type="application/merge-patch+json")
        sending = asyncio.ensure_future(super()._send(asked, seconds))
        if faults.is_due(ASK_KILL):
            tell("tell", faults.task.number, KILL)
        if faults.is_due(IN_WRITE):
            await asyncio.sleep(faults.rng.random() * 0.01)  # a write takes some milliseconds
            die()
        answer = await sending
        if faults.rng.random() < LOST_ANSWERS:
            raise TimeoutError
        faults.answered += answer[0] < 300
        return self._heard(answer)

    def _heard(self, answer: tuple[int, bytes]) -> tuple[int, bytes]:
        if answer[0] < 300:
            self._faults.last = answer[1]
        return answer


@dataclass
class Job:
    """An account of this writer's: the next attempt that was never asked for."""

    uid: str
    next_attempt: int = 0


class Writer:
    """Chooses operations, does them, and notes them."""

    def __init__(self, task: Task, reserving: KubeLedgers, charging: KubeLedgers, faults: Faults) -> None:
        self.task = task
        self.reserving = reserving
        self.charging = charging
        self.faults = faults
        self.rng = faults.rng
        self.budget = BudgetKey(task.namespace, task.budget)
        self.notes = os.open(task.history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        earlier = read_history(Path(task.history))
        self.serial = len(earlier)
        self.jobs, self.opened = recover(earlier)
        self.others: tuple[str, ...] = ()

    async def work(self) -> None:
        """Do operations until all are done."""
        while self.serial < self.task.operations:
            if self.serial == self.task.operations // 2 and self.task.snapshot:
                await self.wait_for_snapshot(Path(self.task.snapshot))
            await self.step()

    async def wait_for_snapshot(self, file: Path) -> None:
        """Have etcd saved, and go on when it is: half of all operations are in no old copy."""
        tell("tell", self.task.number, HALF)
        while not file.exists():
            await asyncio.sleep(PAUSE_SECONDS)

    async def step(self) -> None:
        """Do one operation."""
        roll = self.rng.random()
        if roll < 0.02:
            await self.read()
        elif roll < 0.03:
            await self.reserve(f"greedy-{self.task.number}-{self.serial}", min(self.task.capacity, MAX_ATTEMPTS))
        elif roll < 0.03 + self.task.closings:
            await self.close()
        elif not self.jobs:
            self.opened += 1
            uid = f"job-{self.task.number}-{self.opened}"
            await self.reserve(uid, self.rng.randint(1, max(1, min(MOST_AT_ONCE, self.task.capacity // 4))))
        elif roll < 0.08:
            await self.charge_again()
        else:
            await self.charge()

    async def read(self) -> None:
        """Read the ledger."""
        await self.do("read", "", lambda: self.charging.read(self.budget))

    async def reserve(self, uid: str, count: int) -> None:
        """Open an account; one whose answer was lost is asked for again, which changes nothing."""
        mechanism = Mechanism(noise_multiplier=self.task.noise)

        def ask() -> Awaitable[object]:
            return self.reserving.reserve(self.budget, job_uid=uid, mechanism=mechanism, count=count, claimant="bench")

        while (outcome := await self.do("reserve", uid, ask)) == "unknown":
            pass
        if outcome == "done":
            self.jobs[uid] = Job(uid)

    async def close(self) -> None:
        """Close an account: one's own, or one that the other writer may be charging right now."""
        if not self.others:
            await self.read()
            return
        uid = self.rng.choice(self.others)
        await self.do("close", uid, lambda: self.reserving.close(self.budget, job_uid=uid))
        self.jobs.pop(uid, None)

    async def charge(self) -> None:
        """Charge the next attempt of one's own, now and then with a number left out."""
        job = self.rng.choice(list(self.jobs.values()))
        attempt = job.next_attempt + (self.rng.random() < 0.05)
        job.next_attempt = attempt + 1
        if await self.ask_charge(job, attempt) == "refused":
            self.jobs.pop(job.uid, None)  # closed by the other writer, or used up

    async def charge_again(self) -> None:
        """Ask for an attempt that was asked for before."""
        job = self.rng.choice(list(self.jobs.values()))
        if job.next_attempt:
            await self.ask_charge(job, job.next_attempt - 1)

    async def ask_charge(self, job: Job, attempt: int) -> str:
        """Charge one release."""

        def ask() -> Awaitable[object]:
            noise = self.task.noise
            return self.charging.charge(self.budget, job_uid=job.uid, attempt=attempt, noise_multiplier=noise)

        return await self.do("charge", job.uid, ask, attempt)

    async def do(self, op: Operation, job: str, ask: Callable[[], Awaitable[object]], attempt: int = -1) -> str:
        """Note that something is asked, ask it, note how it ended."""
        entry = Entry(self.serial, op, self.task.budget, job, time.monotonic(), attempt)
        self.serial += 1
        os.write(self.notes, note(entry))
        self.faults.sent = self.faults.answered = 0
        try:
            await ask()
            entry = self.answered(entry)
        except Refused:
            entry = replace(entry, outcome="refused", answered=time.monotonic(), sent=self.faults.sent > 0)
        except FoedusError:
            entry = replace(entry, outcome="unknown", answered=time.monotonic(), sent=self.faults.sent > 0)
        self.faults.reach(BEFORE_NOTE)
        os.write(self.notes, note(entry))
        if entry.outcome == "unknown":
            await self.wait_for_api_server()
        return entry.outcome

    def answered(self, entry: Entry) -> Entry:
        """Return the entry with what the answer says, read here and not by the product's code, which costs more."""
        accounts = (json.loads(self.faults.last).get("status") or {}).get("accounts") or {}
        self.others = tuple(uid for uid, each in accounts.items() if each["state"] == "Open" and uid.startswith("job-"))
        return replace(
            entry,
            outcome="done",
            answered=time.monotonic(),
            sent=self.faults.sent > 0,
            wrote=self.faults.answered > 0,
            version=sum(1 + each["charged"] + (each["state"] == "Closed") for each in accounts.values()),
            charged=accounts[entry.job]["charged"] if entry.job in accounts else -1,
            committed=sum(
                (each["reserved"] if each["state"] == "Open" else each["charged"])
                / each["mechanism"]["noiseMultiplier"] ** 2
                for each in accounts.values()
            ),
        )

    async def wait_for_api_server(self) -> None:
        """Return when it answers."""
        while True:
            try:
                await self.charging.read(self.budget)
            except FoedusError:
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return


def recover(earlier: tuple[Entry, ...]) -> tuple[dict[str, Job], int]:
    """Return the accounts to go on with, and how many were opened: numbers that were asked for are never used again."""
    jobs: dict[str, Job] = {}
    opened = 0
    for entry in earlier:
        if entry.op == "reserve" and entry.job.startswith("job-"):
            opened = max(opened, int(entry.job.rpartition("-")[2]))
        if entry.op == "reserve" and entry.outcome == "done":
            jobs[entry.job] = Job(entry.job)
        if entry.op == "charge" and entry.job in jobs:
            jobs[entry.job].next_attempt = max(jobs[entry.job].next_attempt, entry.attempt + 1)
    return jobs, opened


async def run(task: Task) -> None:
    """Write until all operations are done."""
    rng = random.Random(f"{task.seed}/{task.number}/{len(read_history(Path(task.history)))}")
    faults = Faults(task, rng)
    async with AsyncExitStack() as stack:

        async def ledgers_as(user: str) -> KubeLedgers:
            server = await stack.enter_async_context(connect(await load_configuration(Path(task.kubeconfig))))
            server._client.set_default_header("Impersonate-User", user)
            return KubeLedgers(FaultyServer(server, faults))

        writer = Writer(task, await ledgers_as(OPERATOR), await ledgers_as(LEDGER), faults)
        await writer.wait_for_api_server()
        await writer.work()


def main() -> None:
    """Fork a writer for each task that comes in; the imports, which take the most time, are done once."""
    children: dict[int, int] = {}

    def reap(*_: object) -> None:
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            tell("exit", children.pop(pid), os.waitstatus_to_exitcode(status))

    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        task = Task(**json.loads(line))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # one that ends at once is known by then
        if (pid := os.fork()) == 0:
            write(task)
        children[pid] = task.number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def write(task: Task) -> NoReturn:
    """Be the writer, in a process of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    code = 1
    try:
        asyncio.run(run(task))
        code = 0
    except Exception:  # noqa: BLE001 - it must not become a second parent
        traceback.print_exc()
    os._exit(code)


if __name__ == "__main__":
    main()

"""The accountants in one process beside this one: what they compute takes nothing from the lease and the watches.

Questions and answers are lines of JSON on its standard input and output, by closed schemas:

1. `NAME ARGUMENT` asks for the computation of this name.
2. `= RESULT` answers it, `! "…"` says where it broke.

The process ends with its input, so with the process that started it, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeVar

from pydantic import TypeAdapter, ValidationError

from foedus_contract.errors import Unavailable, describe_defect
from foedus_engine.accounting import Question, answer, measure
from foedus_engine.decide.budget import Used
from foedus_engine.decide.observed import Calibrated, Unplannable
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec

A = TypeVar("A")
T = TypeVar("T")

DEADLINE_SECONDS = 120.0  # a calibration takes seconds, on a loaded machine tens of them
TRIES = 2  # a process that died is replaced once for one question
NICENESS = 10  # who leads must renew the lease first
MAX_ANSWER_BYTES = 64 * 1024  # a few numbers, or a sentence
COMMAND = (sys.executable, "-m", "foedus_operator.accountant")

_WHERE = "the process that does the accounting"
_ANSWERS, _BREAKS = b"= ", b"! "
_SENTENCE = TypeAdapter(str)


@dataclass(frozen=True)
class Computation:
    """A pure function that may be asked for, and how its argument and its result travel."""

    function: Callable[[Any], Any]
    argument: TypeAdapter[Any]
    result: TypeAdapter[Any]

    def ask(self, argument: object) -> bytes:
        """Return the line that asks for it."""
        return b"%s %s\n" % (self.function.__name__.encode(), self.argument.dump_json(argument, by_alias=True))

    def work(self, argument: bytes) -> bytes:
        """Return the line that answers."""
        try:
            found = self.function(self.argument.validate_json(argument, strict=True))
            return b"%s%s\n" % (_ANSWERS, self.result.dump_json(found, by_alias=True))
        except Exception as error:  # noqa: BLE001 - the process's border: a defect is told, and the next question asked
            return b"%s%s\n" % (_BREAKS, _SENTENCE.dump_json(describe_defect(error)))

    def read(self, line: bytes) -> Any:
        """Return the result that a line brings; raises Unavailable for anything else."""
        try:
            if line.startswith(_ANSWERS):
                return self.result.validate_json(line.removeprefix(_ANSWERS), strict=True)
            what = _SENTENCE.validate_json(line.removeprefix(_BREAKS))
        except ValidationError as error:
            what = describe_defect(error)
        raise Unavailable(what, where=_WHERE)


Computations = Mapping[str, Computation]


def named(*computations: Computation) -> Computations:
    """Return the computations by the names that they are asked for by."""
    return {each.function.__name__: each for each in computations}


COMPUTATIONS = named(
    Computation(answer, TypeAdapter(Question), TypeAdapter(Calibrated | Unplannable)),
    Computation(measure, TypeAdapter(BudgetRecord), TypeAdapter(Used)),
)


class Accountant:
    """Has one computation at a time done by a process of its own, which is started when it is first needed."""

    def __init__(self, computations: Computations = COMPUTATIONS, command: Sequence[str] = COMMAND) -> None:
        self._computations = computations
        self._command = command
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    async def __call__(self, function: Callable[[A], T], argument: A, /) -> T:
        """Return what the function returns; raises Unavailable when no process lives long enough to say it."""
        computation = self._computations[function.__name__]
        question = computation.ask(argument)
        async with self._turn:
            for _ in range(TRIES):
                line = await self._answer(question)
                if line.endswith(b"\n"):
                    found: T = computation.read(line)
                    return found
                await self.close()
        raise Unavailable("died", where=_WHERE, cure="see whether the pod has memory and processor time enough")

    async def start(self) -> None:
        """Start the process before it is needed. One that cannot be started is the first question's news."""
        async with self._turn:
            with suppress(OSError):
                await self._started()

    async def close(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.communicate()  # what it has said and nobody has read; then its pipes are closed

    async def _answer(self, question: bytes) -> bytes:
        """Return the process's line; without an end when it died."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                process = await self._started()
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(question)
                await process.stdin.drain()
                return await process.stdout.readline()
        except TimeoutError:
            await self.close()
            raise Unavailable(f"no answer after {DEADLINE_SECONDS:.0f} s", where=_WHERE) from None
        except OSError:  # its pipes are broken, or it cannot be started
            return b""
        except BaseException:
            await self.close()  # else what nobody has waited for would be the next question's answer
            raise

    async def _started(self) -> Process:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, limit=MAX_ANSWER_BYTES
            )
        return self._process


def serve(computations: Computations) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, asked), daemon=True).start()
    while True:
        name, _, argument = asked.get().partition(b" ")
        answers.write(computations[name.decode()].work(argument))


def _listen(questions: BinaryIO, asked: queue.SimpleQueue[bytes]) -> None:
    for line in questions:
        asked.put(line)
    os._exit(0)  # in the middle of a computation, too: nobody waits for it


def warm_up() -> None:
    """Answer one question of each kind, so that no job's pays for what libraries do once, which is most of it."""
    held = Mechanism(noise_multiplier=10.0)
    spec = BudgetSpec(digest=f"sha256:{0:064}", records=100, epsilon=1.0, delta=1e-5)
    unused = BudgetRecord(spec=spec)
    used = BudgetRecord(spec=spec, accounts={"job": Account(mechanism=held, reserved=1, claimant="warm-up")})
    asked = Question(1.0, 1e-5, 1, 0.0, 4, 2, 400, 1000, (("budget", unused.model_dump_json()),), None)
    for question in (replace(asked, budgets=(), held=held), asked):
        answer(question)
    measure(used)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the parent
    os.nice(NICENESS)  # who leads renews the lease first
    warm_up()
    serve(COMPUTATIONS)

"""`Replicated3PCMalicious` beside `Replicated3PC`: time, bytes, and a thousand attempts to falsify an answer.

Cost: two layers of MiniLM's size at 128 tokens (of the second, what follows attention has one row), three parties in
one process whose operations run in step, so no party waits: processor time and wall time are those of all three. The
protocols take turns, after one that warms up; of each the fastest turn counts. What no input decides can be made ahead
and is counted apart, as preprocessing, though a session makes it when it is wanted: random products, and that they are
right; random bits as numbers, likewise; of a rounding's mask the carries, that they are right, and its own overflow.
Online is all else, the checks of what was claimed among it.

Attempts: a thousand, as `mpc_attempts` says; none may falsify the answer, and with each check off its own attack must.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.harness import Benchmark, Outcome
from benchmarks.mpc_attempts import Attempts, attempt, switched_off
from benchmarks.mpc_layer import Spent, drive, make_model
from foedus_contract.mpc_wire import SESSION_BYTES
from foedus_workloads.inference.memory import keep_freed_blocks
from foedus_workloads.mpc.malicious import audit as audits
from foedus_workloads.mpc.malicious import truncation
from foedus_workloads.mpc.malicious.audit import Audit
from foedus_workloads.mpc.malicious.record import Record
from foedus_workloads.mpc.malicious.record import prepare as prepare_checked
from foedus_workloads.mpc.model import (
    Architecture,
    EmbeddedText,
    compile_program,
    dealt,
    execute,
    plan,
    prepare_weights,
    reveal,
    share_input,
    share_weights,
)
from foedus_workloads.mpc.party import PARTIES, Party, Shared
from foedus_workloads.mpc.rounds import Operation
from foedus_workloads.mpc.semi_honest import SEMI_HONEST
from foedus_workloads.mpc.streams import KEY_BYTES, KeyedStreams

TOKENS = 128
SIZES = Architecture(
    kind="bert",
    layers=2,
    heads=12,
    hidden=384,
    intermediate=1536,
    vocabulary=2,
    token_types=2,
    positions=512,
    padding=0,
    epsilon=1e-12,
    labels=("one", "two"),
)
TRIALS, TURNS = 1000, 3
# Nothing of these depends on an input, nor on a message that does.
AHEAD = (
    (audits, "make_products"),
    (Audit, "_check_carries"),
    (Record, "made"),
    (truncation, "deal_carries"),
    (truncation, "convert_wraps"),
)
MOST_TIME, MOST_BYTES, MOST_BYTES_WITH_PREPROCESSING = 5.0, 5.0, 8.0


@dataclass
class Clock:
    """What operations of all parties take, without what lies between their rounds, and the bytes that they send."""

    processor: float = 0.0
    wall: float = 0.0
    sent: int = 0
    depth: int = 0

    def of(self, function: Callable[..., Operation[Any]]) -> Callable[..., Operation[Any]]:
        """Return the operation with its seconds and bytes counted; one inside of another is counted with it."""

        def counted(*args: Any, **kwargs: Any) -> Operation[Any]:
            operation, received = function(*args, **kwargs), None
            while True:
                begin = time.process_time(), time.perf_counter()
                self.depth += 1
                try:
                    exchange = next(operation) if received is None else operation.send(received)
                except StopIteration as end:
                    return end.value
                finally:
                    self.depth -= 1
                    if not self.depth:
                        self.processor += time.process_time() - begin[0]
                        self.wall += time.perf_counter() - begin[1]
                if not self.depth:
                    self.sent += sum(each.nbytes for each in (*exchange.to_previous, *exchange.to_next))
                received = yield exchange

        return counted

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Count what can be made before an input is known."""
        with ExitStack() as stack:
            for target, name in AHEAD:
                stack.enter_context(mock.patch.object(target, name, self.of(getattr(target, name))))
            yield


def make_parties() -> list[Party]:
    """Return three parties with fresh keys."""
    keys = [os.urandom(KEY_BYTES) for _ in range(PARTIES)]
    return [
        Party(i, KeyedStreams({component: keys[component] for component in (i, (i + 1) % PARTIES)}))
        for i in range(PARTIES)
    ]


@dataclass(frozen=True)
class Turn:
    """One run of the program under one protocol; of it, what can be made ahead."""

    all: Clock
    ahead: Clock
    spent: Spent

    @property
    def online(self) -> Clock:
        """What is left when an input is known."""
        return Clock(
            self.all.processor - self.ahead.processor, self.all.wall - self.ahead.wall, self.all.sent - self.ahead.sent
        )


@dataclass(frozen=True)
class Cost:
    """Both protocols on the same shares: of each the turn with the least processor time online, and all turns."""

    honest: Turn
    malicious: Turn
    turns: Sequence[tuple[Turn, Turn]]
    same: float  # how far the two answers are from each other
    planned: bool  # rounds and bytes are the plan's


def measure_cost() -> Cost:
    """Run the program under each protocol in turn; the first turn warms up."""
    program = compile_program(SIZES, TOKENS)
    generator = torch.Generator().manual_seed(0)
    model = make_model(generator, SIZES)
    values = torch.randn(TOKENS, SIZES.hidden, generator=generator, dtype=torch.float64)
    text = EmbeddedText(values, torch.zeros(TOKENS, dtype=torch.float64))
    shares, inputs = share_weights(model, program, os.urandom), share_input(text, program, os.urandom)

    def prepared(prepare: Callable[[Shared], Any]) -> list[Any]:
        return [prepare_weights(i, program, shares[i], prepare=prepare) for i in range(PARTIES)]

    plain, kept = prepared(SEMI_HONEST.prepare), prepared(prepare_checked)

    def curious(party: Party) -> Operation[Shared]:
        return execute(party, program, plain[party.index], inputs[party.index])

    def checked(party: Party) -> Operation[Shared]:
        audit = Audit(party, session, os.urandom)
        mine = inputs[party.index]
        yield from audit.agree(party, dealt(party.index, program, kept[party.index], mine))
        result = yield from execute(party, program, kept[party.index], mine)
        return (yield from audit.release(party, result))

    turns: list[tuple[Turn, Turn]] = []
    for _ in range(TURNS + 1):
        session = os.urandom(SESSION_BYTES)
        turns.append((take_turn(curious), take_turn(checked)))
    honest, malicious = (min(each, key=lambda t: t.online.processor) for each in zip(*turns[1:], strict=True))
    answers = [reveal(each.spent.results, program.fraction) for each in (honest, malicious)]
    same = max(abs(a - b) for a, b in zip(*answers, strict=True))
    total = plan(program, "Replicated3PCMalicious").total
    planned = (total.rounds, list(total.bytes_sent)) == (malicious.spent.rounds, malicious.spent.sent)
    return Cost(honest, malicious, turns[1:], same, planned)


def take_turn(run: Callable[[Party], Operation[Shared]]) -> Turn:
    """Run an operation at three parties with fresh keys."""
    whole, ahead = Clock(), Clock()
    with ahead.ahead():
        spent = drive([whole.of(run)(party) for party in make_parties()])
    return Turn(whole, ahead, spent)


def measure(_folder: Path) -> Outcome:
    """Measure cost, then attack."""
    from tests.support import three_cheaters as cheaters

    torch.set_num_threads(1)
    keep_freed_blocks()  # as a party that serves
    cost = measure_cost()
    honest = [cheaters.play(cheaters.small_program, cheater) for cheater in range(PARTIES)]
    attempts = Attempts()
    for seed in range(TRIALS):
        attempts.add(*attempt(seed, honest, cheaters))
    through = switched_off(honest, cheaters)
    return _outcome(cost, attempts, through)


def _outcome(cost: Cost, attempts: Attempts, through: Mapping[str, bool]) -> Outcome:
    malicious, online, honest = cost.malicious.all, cost.malicious.online, cost.honest.all
    online_bytes, all_bytes = online.sent / honest.sent, malicious.sent / honest.sent
    met = online_bytes <= MOST_BYTES and all_bytes <= MOST_BYTES_WITH_PREPROCESSING
    wall = min(each.all.wall for each, _ in cost.turns)
    met = met and attempts.false == 0 and all(through.values()) and cost.same < 0.05 and cost.planned
    details = {
        "processorTime": {
            "online": online.processor / honest.processor,
            "withPreprocessing": malicious.processor / honest.processor,
        },
        "wallTime": {
            "online": min(each.online.wall for _, each in cost.turns) / wall,
            "withPreprocessing": min(each.all.wall for _, each in cost.turns) / wall,
        },
        "bytes": {"online": online_bytes, "mostOnline": MOST_BYTES},
        "bytesWithPreprocessing": {"all": all_bytes, "most": MOST_BYTES_WITH_PREPROCESSING},
        "Replicated3PC": _row(honest, cost.honest.spent.rounds),
        "Replicated3PCMalicious": _row(malicious, cost.malicious.spent.rounds),
        "preprocessing": _row(cost.malicious.ahead),
        "largestDifferenceOfAnswers": cost.same,
        "measuredAsPlanned": cost.planned,
        "attempts": attempts.ends,
        "attackGetsThroughWithout": through,
    }
    return Outcome(value=online.processor / honest.processor, met=met, details=details)


def _row(clock: Clock, rounds: int | None = None) -> Mapping[str, Any]:
    row = {"processorSeconds": clock.processor, "wallSeconds": clock.wall, "bytesOfAll": clock.sent}
    return row if rounds is None else {**row, "rounds": rounds}


BENCHMARK = Benchmark(
    name="mpc-malicious",
    shows="online processor time of private inference against a party that deviates, over that against curious ones",
    unit="ratio",
    target=MOST_TIME,
    bound="at most",
    measure=measure,
)

"""`Replicated3PCMalicious` beside `Replicated3PC`: time, bytes, and a thousand attempts to falsify an answer.

Cost: two layers of MiniLM's size at 128 tokens (of the second, what follows attention has one row), three parties in
one process whose operations run in step, so no party waits: processor time and wall time are those of all three. The
protocols take turns, after one that warms up; of each the fastest turn counts. What no input decides can be made ahead
and is counted apart, as preprocessing, though a session makes it when it is wanted: random products, and that they are
right; random bits as numbers, likewise; of a rounding's mask the carries, that they are right, and its own overflow.
Online is all else, the checks of what was claimed among it.

Attempts: a small program (linear map and GELU), seeded; a cheater that sees the others' messages of a round first and
whose own checks never fail changes a message, or says what another has just said, or computes on with an error and
makes its shares and tags fit, or is wrong in a claim and in random products alike. An attempt ends the session, or
changes nothing (a top bit that is doubled, a zero that is sent anyway); one that yields another answer is a failure.
Then each check is switched off, and its own attack must get through.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.harness import Benchmark, Outcome
from benchmarks.mpc_layer import Spent, drive, make_model
from foedus_contract.mpc_wire import SESSION_BYTES
from foedus_workloads.mpc.malicious import audit as audits
from foedus_workloads.mpc.malicious import bits, coins, products, truncation
from foedus_workloads.mpc.malicious.audit import Audit
from foedus_workloads.mpc.malicious.buckets import Buckets, fit
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
# Of a mask's carries two decide: with 16 of 64 bits cut, those out of places 46 and 47.
ERRORS = (1 << 13, 1 << 40, 1 << 46, 1 << 47, 1 << 62)  # one that rounding or doubling hides gets nothing through
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


def attempt(seed: int, honest: Sequence[Any], cheaters: Any) -> tuple[str, str]:
    """Return what was attempted, and whether the session ended, the answer stayed, or a false one came."""
    chosen = random.Random(seed)
    cheater = chosen.randrange(PARTIES)
    name, attack, last = _attack(chosen, honest[cheater], cheaters, cheater)
    played = cheaters.play(cheaters.small_program, cheater, attack, last=last)
    if played.values is None:
        return name, "ended"
    return name, "unchanged" if cheaters.is_right(played.values) else "false"


def _attack(chosen: random.Random, honest: Any, cheaters: Any, cheater: int) -> tuple[str, list[Any], Any]:
    kind = chosen.choice(("message", "message", "fault", "fault", "tuples", "coins", "last message"))
    if kind in ("message", "coins"):
        return kind, [_message(chosen, honest, cheaters, _of_coins if kind == "coins" else _anything)], _unchanged
    if kind == "last message":
        return kind, [], lambda shares: _false_copy(chosen, shares, cheater)
    if kind == "tuples":
        return kind, _claim_and_tuples(chosen, honest, cheaters), _unchanged
    step = chosen.choice([each for each in cheaters.FAULTS if honest.calls[each]])  # only dealers have carries
    number = chosen.randrange(len(honest.calls[step]))
    error = chosen.choice((1, -1, 1 << 13, cheaters.TOP if step == "share" else 1 << 14, chosen.getrandbits(62) | 1))
    return f"{kind}: {step}", [cheaters.Fault(step, number, error)], _unchanged


def _unchanged(shares: list[Shared]) -> list[Shared]:
    return shares


def _anything(_: Tensor) -> bool:
    return True


def _of_coins(sent: Tensor) -> bool:
    """Tell commitments and reveals by what they alone are: 32 or 64 single bytes."""
    return sent.dtype is torch.int8 and sent.numel() in (coins.NONCE_BYTES, 2 * coins.NONCE_BYTES)


def _message(chosen: random.Random, honest: Any, cheaters: Any, wanted: Callable[[Tensor], bool]) -> Any:
    """Return a changed tensor of those that are wanted, of a round that is drawn first."""
    places: dict[int, list[tuple[bool, int]]] = {}
    for number, each in enumerate(honest.sent):
        for to_next, payload in ((False, each.to_previous), (True, each.to_next)):
            found = [(to_next, tensor) for tensor, sent in enumerate(payload) if wanted(sent)]
            places[number] = places.get(number, []) + found
    number = chosen.choice([number for number, found in places.items() if found])
    to_next, tensor = chosen.choice(places[number])
    sent = (honest.sent[number].to_next if to_next else honest.sent[number].to_previous)[tensor]
    place, change = chosen.randrange(sent.numel()), chosen.choice(("top", "one", "any", "echo"))
    if change == "echo":
        return cheaters.Rushed(number, to_next, tensor, cheaters.echoed)

    def changed(values: Tensor) -> Tensor:
        flat = values.reshape(-1)
        low = torch.iinfo(values.dtype).min
        if change == "one":
            flat[place] += 1
        else:
            flat[place] ^= low if change == "top" else chosen.randrange(low, -low) or 1
        return values

    return cheaters.Message(number, to_next, tensor, changed)


def _claim_and_tuples(chosen: random.Random, honest: Any, cheaters: Any) -> list[Any]:
    """An error in an early product, and the same in a random one of each row, at guessed places."""
    early, late = _claims_and_random(honest)
    claim, (number, buckets) = chosen.choice(early), chosen.choice(late)
    error = chosen.choice((1, cheaters.TOP))
    places = [row * buckets.size + chosen.randrange(buckets.size) for row in range(buckets.depth)]
    return [cheaters.Fault("share", claim, error), cheaters.Fault("share", number, error, places)]


def _claims_and_random(honest: Any) -> tuple[range, list[tuple[int, Buckets]]]:
    """Return which sharings are of products that will be claimed, and which of random ones, with their rows."""
    shapes = {each.depth * each.size: each for each in map(fit, range(1, 200))}
    late = [(number, shapes[size]) for number, size in enumerate(honest.calls["share"]) if size in shapes]
    return range(late[0][0]), late


def _false_copy(chosen: random.Random, shares: list[Shared], cheater: int) -> list[Shared]:
    parts = [shares[cheater].own.clone(), shares[cheater].next.clone()]
    parts[chosen.randrange(2)].reshape(-1)[0] ^= chosen.choice((1, -(2**63)))
    return [Shared(*parts) if party == cheater else each for party, each in enumerate(shares)]


def _nothing(*_: Any) -> Operation[None]:
    yield from ()


def switched_off(honest: Sequence[Any], cheaters: Any) -> Mapping[str, bool]:
    """Return, by check, whether with that check off some fault of its own kind falsifies the answer."""
    real = products.check_products

    def only(kinds: Sequence[Any]) -> Callable[..., Operation[None]]:
        return lambda party, kind, *rest: real(party, kind, *rest) if kind in kinds else _nothing()

    fault = {step: range(len(honest[0].calls[step])) for step in cheaters.FAULTS}
    off = {
        "products and squares": ("check_products", only([products.ANDS]), "share"),
        "ANDs": ("check_products", only([products.PRODUCTS, products.SQUARES]), "deal"),
        "matrix products": ("check_matrices", _nothing, "share"),
        "bits": ("compare_rows", _nothing, "convert"),
    }
    found = {}
    for name, (check, replacement, step) in off.items():
        with mock.patch.object(bits if check == "compare_rows" else audits, check, replacement):
            played = (
                cheaters.play(cheaters.small_program, 0, [cheaters.Fault(step, number, error)])
                for number, error in itertools.product(fault[step], ERRORS)
            )
            found[name] = any(each.values is not None and not cheaters.is_right(each.values) for each in played)
    with mock.patch.object(coins.Coins, "turn", return_value=0):
        found["turned rows"] = _unturned_passes(honest, cheaters)
    return found


def _unturned_passes(honest: Sequence[Any], cheaters: Any) -> bool:
    """Tell whether a wrong product passes with random ones that are wrong where it meets them without a turn."""
    early, late = _claims_and_random(honest[0])
    for claim, (number, buckets), error in itertools.product(early, late, ERRORS):
        places = [row * buckets.size for row in range(buckets.depth)]
        faults = [cheaters.Fault("share", claim, error), cheaters.Fault("share", number, error, places)]
        played = cheaters.play(cheaters.small_program, 0, faults)
        if played.values is not None and not cheaters.is_right(played.values):
            return True
    return False


@dataclass
class Attempts:
    """How the attempts ended, by kind."""

    ends: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, kind: str, end: str) -> None:
        """Count one."""
        counts = self.ends.setdefault(kind, {"ended": 0, "unchanged": 0, "false": 0})
        counts[end] += 1

    @property
    def false(self) -> int:
        """Attempts that falsified the answer."""
        return sum(counts["false"] for counts in self.ends.values())


def measure(_folder: Path) -> Outcome:
    """Measure cost, then attack."""
    from tests.support import three_cheaters as cheaters

    torch.set_num_threads(1)
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

"""What a program will cost, exactly and before anything runs: its operations driven on tensors without content.

Rounds and bytes depend on shapes and on the number of a step alone, never on a value. So each party's operations run on
torch's `meta` device, are answered with empty tensors of what they expect, and what they would have sent is counted.
Whatever the protocols do, the plan is what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from foedus_contract.mpc_wire import SESSION_BYTES, ProtocolName
from foedus_workloads.mpc.malicious.audit import Audit
from foedus_workloads.mpc.malicious.record import Traces
from foedus_workloads.mpc.malicious.record import prepare as prepare_checked
from foedus_workloads.mpc.model.execute import PartyWeights, build_weights, dealt_weights, run_step
from foedus_workloads.mpc.model.program import LOGITS, Program, Secret, Step
from foedus_workloads.mpc.party import PARTIES, Party, Shared
from foedus_workloads.mpc.primitives import pause
from foedus_workloads.mpc.ring import container
from foedus_workloads.mpc.rounds import Exchange, Expected, Operation, Received
from foedus_workloads.mpc.semi_honest import SEMI_HONEST

_DEMONSTRATION = "three parties under one administrator are a demonstration"
ASSUMPTIONS: Mapping[ProtocolName, str] = {
    "Replicated3PC": "private as long as no two of the three parties put together what they know, and each follows the "
    f"protocol; {_DEMONSTRATION}",
    "Replicated3PCMalicious": "private, and right or no answer at all, as long as no two of the three parties put "
    f"together what they know, whatever one of them does; not externally reviewed; {_DEMONSTRATION}",
}
T = TypeVar("T")
_META = torch.device("meta")
_ELEMENTWISE = frozenset(
    {
        *("__and__", "__or__", "__xor__", "__invert__", "__lshift__", "__rshift__", "bitwise_and", "bitwise_xor"),
        *("__iand__", "__ixor__", "add", "sub", "mul", "neg", "__rsub__"),
    }
)
_SHARES = 2  # components of a secret that each party holds


@dataclass(frozen=True)
class Cost:
    """What something costs: its rounds, and what each party sends; payloads, without headers and TLS."""

    rounds: int = 0
    messages: tuple[int, ...] = (0,) * PARTIES
    bytes_sent: tuple[int, ...] = (0,) * PARTIES

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.rounds + other.rounds,
            tuple(map(sum, zip(self.messages, other.messages, strict=True))),
            tuple(map(sum, zip(self.bytes_sent, other.bytes_sent, strict=True))),
        )

    @property
    def mean_bytes(self) -> float:
        """What a party sends, in the mean of the three."""
        return sum(self.bytes_sent) / PARTIES


@dataclass(frozen=True)
class Plan:
    """A program with the cost of each of its steps."""

    program: Program
    costs: tuple[Cost, ...]
    protocol: ProtocolName = "Replicated3PC"
    checks: Cost = Cost()  # of what was claimed in all steps, and of what parties must hold alike

    @property
    def total(self) -> Cost:
        """The cost of the whole program, between the parties."""
        return sum(self.costs, self.checks)

    @property
    def weight_bytes(self) -> int:
        """What each party keeps of the weights in memory."""
        return _SHARES * sum(map(_bytes, self.program.weights))

    @property
    def input_bytes(self) -> int:
        """What the client sends a party at most: one component in full, the other as a seed, which is left out."""
        return sum(map(_bytes, self.program.inputs))


@dataclass
class _Count:
    rounds: int = 0
    messages: int = 0
    bytes_sent: int = 0

    def add(self, exchange: Exchange) -> None:
        self.rounds += 1
        for payload in (exchange.to_previous, exchange.to_next):
            self.messages += bool(payload)
            self.bytes_sent += sum(each.numel() * each.itemsize for each in payload)


class _NoStreams:
    """Streams of tensors without content."""

    def draw(self, component: int, step: int, slot: int, bits: int, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of `shape`."""
        return torch.empty(shape, dtype=container(bits), device=_META)


class Elementwise(TorchFunctionMode):
    """Integers keep type and shape in these: said here, since `meta` finds it in Python, for most of a plan's time."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the first operand, which is as empty as the result; call everything else."""
        if getattr(func, "__name__", "") in _ELEMENTWISE and not kwargs and _alike(*args):
            return args[0]
        return func(*args, **(kwargs or {}))


def _alike(left: Any, right: Any = 0) -> bool:
    """Return whether the result of an operation on both has the type and shape of `left`."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and left.shape == right.shape
    return isinstance(left, Tensor) and isinstance(right, int)


def plan(program: Program, protocol: ProtocolName = "Replicated3PC") -> Plan:
    """Return rounds, messages and bytes of every step of `program`, at each party."""
    if protocol == "Replicated3PCMalicious":
        return _plan_with_checks(program)
    secrets = {secret.name: _empty(secret) for secret in program.weights}
    weights = build_weights(program, secrets.__getitem__, SEMI_HONEST.prepare)
    values = {secret.name: _empty(secret) for secret in program.inputs}
    # Equal steps that begin with the same roles cost the same, and layers repeat them.
    known: dict[tuple[str, int], _Outcome] = {}
    costs, begun = [], 0
    for step in program.steps:
        key = (str(step), begun % PARTIES)
        if key not in known:
            known[key] = _outcome(program, step, begun, values, weights)
        outcome = known[key]
        costs.append(outcome.cost)
        begun += outcome.steps
        values.update(zip(step.writes, outcome.made, strict=True))
    return Plan(program, tuple(costs))


@dataclass(frozen=True)
class _Outcome:
    """What came of a step: its cost, how many of the protocol's steps it took, and what it made."""

    cost: Cost
    steps: int
    made: tuple[Shared, ...]


def _outcome(program: Program, step: Step, begun: int, values: Mapping[str, Shared], weights: PartyWeights) -> _Outcome:
    counts, parties = [], []
    made: tuple[Shared, ...] = ()
    for index in range(PARTIES):
        party = Party(index, _NoStreams(), fraction=program.fraction, steps=begun)
        count, made = _drive(run_step(party, step, values, weights))
        counts.append(count)
        parties.append(party)
    return _Outcome(_cost(counts, parties), parties[0].steps - begun, made)


def _cost(counts: Sequence[_Count], parties: Sequence[Party]) -> Cost:
    if len({count.rounds for count in counts}) != 1 or len({party.steps for party in parties}) != 1:
        raise RuntimeError("parties differ in their rounds")
    messages, sent = zip(*((count.messages, count.bytes_sent) for count in counts), strict=True)
    return Cost(counts[0].rounds, messages, sent)


def _plan_with_checks(program: Program) -> Plan:
    """Return the plan of a program whose claims are checked, together, when there are many and at the end."""
    secrets = {secret.name: _empty(secret) for secret in program.weights}
    weights = build_weights(program, secrets.__getitem__, prepare_checked)
    values = {secret.name: _empty(secret) for secret in program.inputs}
    parties = [Party(index, _NoStreams(), fraction=program.fraction) for index in range(PARTIES)]
    audits = [Audit(party, bytes(SESSION_BYTES), bytes) for party in parties]

    def cost(operation: Callable[[int], Operation[T]]) -> tuple[Cost, T]:
        counts, made = zip(*(_drive(operation(index)) for index in range(PARTIES)), strict=True)
        return _cost(counts, parties), made[0]

    dealt = [*dealt_weights(weights), *values.values()]
    checks, _ = cost(lambda i: audits[i].agree(parties[i], dealt))
    # As above, of steps for which there were random bits in stock, and where there are again.
    known: dict[tuple[str, int], tuple[_Outcome, Traces]] = {}
    costs = []
    for step in program.steps:
        begun, mark = parties[0].steps, audits[0].mark()
        key = (str(step), begun % PARTIES)
        if key in known and all(audit.repeat(known[key][1]) for audit in audits):
            outcome = known[key][0]
            for party in parties:
                party.steps += outcome.steps
        else:
            taken, made = cost(lambda i, step=step: run_step(parties[i], step, values, weights))  # type: ignore[misc]
            outcome = _Outcome(taken, parties[0].steps - begun, made)
            if traces := audits[0].traces(mark):
                known[key] = outcome, traces
        costs.append(outcome.cost)
        values.update(zip(step.writes, outcome.made, strict=True))
        checks += cost(lambda i: pause(parties[i]))[0]
    logits = values[LOGITS].map(lambda t: t.reshape(-1))
    checks += cost(lambda i: audits[i].release(parties[i], logits))[0]
    return Plan(program, tuple(costs), "Replicated3PCMalicious", checks)


def _drive(operation: Operation[T]) -> tuple[_Count, T]:
    """Run one party's operation alone, each answer as it is expected and without content."""
    count, received = _Count(), None
    with _META, Elementwise():  # constants that operations make are without content, too
        while True:
            try:
                exchange = next(operation) if received is None else operation.send(received)
            except StopIteration as end:
                return count, end.value
            count.add(exchange)
            received = Received(_answers(exchange.from_previous), _answers(exchange.from_next))


def _answers(expected: tuple[Expected, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.empty(each.shape, dtype=each.dtype, device=_META) for each in expected)


def _empty(secret: Secret) -> Shared:
    tensor = torch.empty(secret.shape, dtype=torch.int64, device=_META)
    return Shared(tensor, tensor)


def _bytes(secret: Secret) -> int:
    return prod(secret.shape) * torch.int64.itemsize

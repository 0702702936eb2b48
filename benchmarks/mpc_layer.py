"""One layer of BERT-base at 128 tokens on shares, three parties in one process: where its processor time goes.

The parties' operations run in step in one thread with nothing between them, so the seconds are those of the protocol's
local work: no network, no TLS, no waiting. Each step is listed with its processor seconds, rounds and bytes, and the
layer with the seconds of its exact ring products and of its random streams; what is left is passes over elements and
Python. Weights and input are random, spread so that scores and the values before GELU vary as a trained model's do;
the result is held to float64. Of each step the fastest turn counts.

The value is the layer's processor time over that of the same ring products, alone and by torch's int64 `@`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Benchmark, Outcome
from foedus_workloads.mpc import ring
from foedus_workloads.mpc.model import (
    Architecture,
    EmbeddedText,
    PartyWeights,
    PlainModel,
    Program,
    Shares,
    compile_program,
    prepare_weights,
    share_input,
    share_weights,
)
from foedus_workloads.mpc.model.evaluate import evaluate_steps
from foedus_workloads.mpc.model.execute import run_step
from foedus_workloads.mpc.model.program import Step
from foedus_workloads.mpc.model.sharing import held
from foedus_workloads.mpc.party import PARTIES, Party, Shared
from foedus_workloads.mpc.rounds import Exchange, Operation, Received
from foedus_workloads.mpc.streams import KEY_BYTES, KeyedStreams

TOKENS, TURNS = 128, 5
# Two layers: after the last one's attention only one token is left, so the first is the one to look at.
SIZES = Architecture(
    kind="bert",
    layers=2,
    heads=12,
    hidden=768,
    intermediate=3072,
    vocabulary=2,
    token_types=2,
    positions=512,
    padding=0,
    epsilon=1e-12,
    labels=("one",),
)
LARGEST_ERROR = 0.05


@dataclass
class Clock:
    """Processor seconds of something that is called often."""

    seconds: float = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            result = function(*args, **kwargs)
            self.seconds += time.process_time() - begin
            return result

        return timed


@dataclass
class Spent:
    """What a step took: processor seconds of all three parties, rounds, and the bytes that each party sent."""

    seconds: float = 0.0
    rounds: int = 0
    sent: list[int] = field(default_factory=lambda: [0] * PARTIES)
    results: list[Any] = field(default_factory=lambda: [None] * PARTIES)


def drive(operations: Sequence[Operation[Any]]) -> Spent:
    """Run one operation a party to its end; what is received is copied, as from a connection, outside of the clock."""
    spent, received = Spent(), [None] * PARTIES
    while True:
        exchanges = [_advanced(spent, party, operations[party], received[party]) for party in range(PARTIES)]
        if exchanges[0] is None:
            return spent
        spent.rounds += 1
        received = [_delivered(exchanges, party) for party in range(PARTIES)]


def _advanced(spent: Spent, party: int, operation: Operation[Any], received: Received | None) -> Exchange | None:
    begin = time.process_time()
    try:
        exchange = next(operation) if received is None else operation.send(received)
    except StopIteration as end:
        spent.results[party] = end.value
        return None
    finally:
        spent.seconds += time.process_time() - begin
    spent.sent[party] += sum(each.nbytes for each in (*exchange.to_previous, *exchange.to_next))
    return exchange


def _delivered(exchanges: Sequence[Any], party: int) -> Any:
    before, after = exchanges[(party - 1) % PARTIES], exchanges[(party + 1) % PARTIES]
    return Received(tuple(map(Tensor.clone, before.to_next)), tuple(map(Tensor.clone, after.to_previous)))


def make_model(generator: torch.Generator, sizes: Architecture = SIZES) -> PlainModel:
    """Return a model of random weights; attention's entropy and GELU's spread are about those of a trained one."""
    tensors = {}
    for secret in compile_program(sizes, TOKENS).weights:
        normal = torch.randn(secret.shape[::-1], generator=generator)
        spread = 1.5 if "query" in secret.name or "key" in secret.name else 1.0
        if "LayerNorm" in secret.name:
            tensors[secret.name] = normal * 0.1 + float(secret.name.endswith("weight"))
        else:
            tensors[secret.name] = normal * (spread * secret.shape[0] ** -0.5 if normal.dim() == 2 else 0.05)
    return PlainModel(sizes, "sha256:" + "0" * 64, tensors, None)


@dataclass(frozen=True)
class Layer:
    """The steps of the first layer, and all that is needed to run them at three parties."""

    program: Program
    model: PlainModel
    text: EmbeddedText
    weights: tuple[PartyWeights, ...]
    inputs: Shares

    @property
    def steps(self) -> tuple[Step, ...]:
        """The first layer's."""
        return tuple(step for step in self.program.steps if step.name.startswith("encoder.layer.0."))

    def exact(self) -> Tensor:
        """Return what the layer makes in float64."""
        made = dict(evaluate_steps(self.model, self.program, self.text))
        return made[self.steps[-1]][0]


def make_layer() -> Layer:
    """Return the layer with fresh shares of random weights and a random text."""
    generator = torch.Generator().manual_seed(0)
    model = make_model(generator)
    program = compile_program(SIZES, TOKENS)
    hidden = torch.randn(TOKENS, SIZES.hidden, generator=generator, dtype=torch.float64)
    text = EmbeddedText(hidden, torch.zeros(TOKENS, dtype=torch.float64))
    shares = share_weights(model, program, os.urandom)
    weights = tuple(prepare_weights(party, program, shares[party]) for party in range(PARTIES))
    return Layer(program, model, text, weights, share_input(text, program, os.urandom))


def run_layer(layer: Layer, streams: Clock) -> tuple[list[Spent], Sequence[Shared]]:
    """Run the layer once; return what each step took, and each party's share of the result."""
    keys = [os.urandom(KEY_BYTES) for _ in range(PARTIES)]
    parties, values = [], []
    for index in range(PARTIES):
        keyed = KeyedStreams({component: keys[component] for component in (index, (index + 1) % PARTIES)})
        keyed.draw = streams.around(keyed.draw)  # type: ignore[method-assign]
        parties.append(Party(index, keyed, fraction=layer.program.fraction))
        values.append({each.name: held(index, each, layer.inputs[index]) for each in layer.program.inputs})
    spent = []
    for step in layer.steps:
        done = drive([run_step(p, step, values[p.index], layer.weights[p.index]) for p in parties])
        for index, made in enumerate(done.results):
            values[index].update(zip(step.writes, made, strict=True))
        spent.append(done)
    return spent, [each[layer.steps[-1].writes[0]] for each in values]


def largest_error(layer: Layer, shares: Sequence[Shared]) -> float:
    """Return how far the result is from float64 at most."""
    total = sum(share.own for share in shares)
    return float((total / 2.0**layer.program.fraction - layer.exact()).abs().max())


@dataclass(frozen=True)
class Turn:
    """One run of the layer."""

    steps: list[Spent]
    products: float
    streams: float
    shapes: list[tuple[torch.Size, torch.Size]]
    error: float


def take_turn(layer: Layer) -> Turn:
    """Run the layer once with all clocks."""
    products, streams, original = Clock(), Clock(), ring.matmul
    timed, shapes = products.around(original), []

    def matmul(left: Tensor, right: ring.Factor) -> Tensor:
        shapes.append((left.shape, torch.Size(right.shape)))
        result: Tensor = timed(left, right)
        return result

    ring.matmul = matmul
    try:
        spent, shares = run_layer(layer, streams)
    finally:
        ring.matmul = original
    return Turn(spent, products.seconds, streams.seconds, shapes, largest_error(layer, shares))


def by_torch(shapes: Sequence[tuple[torch.Size, torch.Size]]) -> float:
    """Return the processor seconds of products of these shapes by torch."""
    total = 0.0
    for shape in shapes:
        left, right = (torch.randint(-(2**63), 2**63 - 1, each) for each in shape)
        begin = time.process_time()
        left @ right
        total += time.process_time() - begin
    return total


def measure(_folder: Path) -> Outcome:
    """Run the layer and torch's products in turn; the first turn warms up."""
    torch.set_num_threads(1)
    layer, turns, reference = make_layer(), [], []
    for _ in range(TURNS + 1):
        turns.append(take_turn(layer))
        reference.append(by_torch(turns[-1].shapes))
    return _outcome(layer, turns[1:], min(reference))


def _outcome(layer: Layer, turns: Sequence[Turn], reference: float) -> Outcome:
    table = {
        step.name.removeprefix("encoder.layer.0."): _row([turn.steps[index] for turn in turns])
        for index, step in enumerate(layer.steps)
    }
    seconds = sum(row["seconds"] for row in table.values())
    error = max(turn.error for turn in turns)
    sent = [sum(each.sent[party] for each in turns[0].steps) for party in range(PARTIES)]
    details = {
        "seconds": seconds,
        "productSeconds": min(turn.products for turn in turns),
        "torchProductSeconds": reference,
        "streamSeconds": min(turn.streams for turn in turns),
        "rounds": sum(row["rounds"] for row in table.values()),
        "bytesSent": sent,
        "largestError": error,
        "steps": table,
    }
    return Outcome(value=seconds / reference, met=error < LARGEST_ERROR, details=details)


def _row(turns: Sequence[Spent]) -> Mapping[str, Any]:
    return {
        "seconds": min(turn.seconds for turn in turns),
        "rounds": turns[0].rounds,
        "meanBytesSent": sum(turns[0].sent) / PARTIES,
    }


BENCHMARK = Benchmark(
    name="mpc-layer",
    shows="processor time of a layer of BERT-base on shares, three parties, over that of its products by torch's `@`",
    unit="ratio",
    target=1.0,
    bound="at most",
    measure=measure,
)

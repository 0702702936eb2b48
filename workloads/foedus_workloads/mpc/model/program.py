"""A program: what three parties compute of a model for texts of one padded length, step by step.

It is made from the architecture and the number of tokens alone, so all three parties and the client make the same one
and compare digests. Its steps are data: `execute` runs them on shares, `evaluate` on float64, `plan` counts what they
send.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from foedus_contract.canonical import digest
from foedus_contract.errors import InvalidInput
from foedus_workloads.mpc.model.architecture import Architecture

MIN_TOKENS = 2  # a softmax over one entry is no softmax, and a text has two marks anyway
SMALLEST_LENGTH = 16

# Values that steps read and write; a value is overwritten when a step writes its name again.
EMBEDDED, MASK, HIDDEN, LOGITS = "embedded", "mask", "hidden", "logits"
FIRST, QUERY, KEY, VALUE, CONTEXT, INNER = "first", "query", "key", "value", "context", "inner"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Map:
    """One linear map of a step: x W + b times `scale`, which the weights' owner takes into W and b."""

    module: str
    reads: str
    writes: str
    inputs: int
    outputs: int
    scale: float = 1.0


@dataclass(frozen=True)
class Linear:
    """Linear maps of `rows` rows that do not need each other and share their rounds."""

    name: str
    maps: tuple[Map, ...]
    rows: tuple[int, ...]  # of each map

    @property
    def writes(self) -> tuple[str, ...]:
        """The values that the step makes."""
        return tuple(each.writes for each in self.maps)

    def __str__(self) -> str:
        """Say each map as [rows × inputs → outputs]."""
        parts = [f"[{n}×{m.inputs}→{m.outputs}]" for m, n in zip(self.maps, self.rows, strict=True)]
        return f"linear {' '.join(parts)}"


@dataclass(frozen=True)
class Attention:
    """softmax(q kᵀ + mask) v in each head; the queries come divided by the root of the head's size."""

    name: str
    heads: int
    queries: int
    keys: int
    size: int
    writes: tuple[str, ...] = (CONTEXT,)

    def __str__(self) -> str:
        """Say heads, scores and the heads' size."""
        return f"attention {self.heads} heads [{self.queries}×{self.keys}] of {self.size}"


@dataclass(frozen=True)
class AddNorm:
    """Layer normalisation of a value and what is added to it."""

    name: str
    reads: tuple[str, str]
    rows: int
    width: int
    epsilon: float
    writes: tuple[str, ...] = (HIDDEN,)

    def __str__(self) -> str:
        """Say the shape."""
        return f"add, layer norm [{self.rows}×{self.width}]"


@dataclass(frozen=True)
class Activation:
    """A function of each entry, in place."""

    name: str
    function: Literal["gelu", "tanh"]
    rows: int
    width: int
    writes: tuple[str, ...] = (INNER,)

    def __str__(self) -> str:
        """Say function and shape."""
        return f"{self.function} [{self.rows}×{self.width}]"


@dataclass(frozen=True)
class FirstToken:
    """Of a value, the first token's row: local, and all that what follows the last attention needs."""

    name: str
    reads: str
    width: int
    writes: tuple[str, ...] = (FIRST,)

    def __str__(self) -> str:
        """Say the shape that is left."""
        return f"first token [1×{self.width}]"


Step = Linear | Attention | AddNorm | Activation | FirstToken


@dataclass(frozen=True)
class Secret:
    """A tensor that is shared: its name, its shape, and how many bits stand after the point."""

    name: str
    shape: Shape
    bits: int


@dataclass(frozen=True)
class Program:
    """Steps in their order, for one architecture, number of tokens and fixed point."""

    architecture: Architecture
    tokens: int
    fraction: int
    steps: tuple[Step, ...]

    @property
    def digest(self) -> str:
        """Return `sha256:…` of all that the parties must agree on: architecture, length, fixed point and steps."""
        common: dict[str, Any] = {
            "architecture": self.architecture.model_dump(),
            "tokens": self.tokens,
            "fraction": self.fraction,
            "steps": [[type(step).__name__, asdict(step)] for step in self.steps],
        }
        return digest("foedus/mpc/program", common)

    @property
    def inputs(self) -> tuple[Secret, ...]:
        """What the client shares: the embedded text, and what is added to the scores of each token."""
        return (
            Secret(EMBEDDED, (self.tokens, self.architecture.hidden), self.fraction),
            Secret(MASK, (self.tokens,), self.fraction),
        )

    @property
    def weights(self) -> tuple[Secret, ...]:
        """What the model's owner shares, in the steps' order; the same for every number of tokens."""
        return tuple(secret for step in self.steps for secret in _weights(step, self.fraction))

    @property
    def output(self) -> Shape:
        """The shape of the result: one number a label."""
        return (len(self.architecture.labels),)

    def __str__(self) -> str:
        """Return a line a step."""
        width = max(len(step.name) for step in self.steps)
        return "\n".join(f"{step.name:<{width}}  {step}" for step in self.steps)


def padded_length(tokens: int, most: int) -> int:
    """Return the length to which a text is padded: the next power of two from 16, at most the model's own most.

    It is what the parties learn of a text's length.
    """
    return min(max(SMALLEST_LENGTH, 1 << (tokens - 1).bit_length()), most)


def compile_program(architecture: Architecture, tokens: int, fraction: int = 16) -> Program:
    """Return the program for texts that are padded to `tokens`; raises InvalidInput for a length it cannot take."""
    if not MIN_TOKENS <= tokens <= architecture.positions:
        raise InvalidInput(
            f"{tokens} tokens are asked for, the model takes {MIN_TOKENS} to {architecture.positions}",
            where="tokens",
            cure="choose another number",
        )
    steps = [*_encoder(architecture, tokens), *_head(architecture)]
    return Program(architecture, tokens, fraction, tuple(steps))


def _encoder(sizes: Architecture, tokens: int) -> Iterator[Step]:
    for layer in range(sizes.layers):
        source = EMBEDDED if layer == 0 else HIDDEN
        # After the last layer's attention nothing but the first token is read.
        yield from _layer(sizes, f"encoder.layer.{layer}", source, tokens, last=layer == sizes.layers - 1)


def _layer(sizes: Architecture, layer: str, source: str, tokens: int, *, last: bool) -> Iterator[Step]:
    width, rows = sizes.hidden, 1 if last else tokens
    kept = FIRST if last else source
    if last:
        yield FirstToken(f"{layer}.first", source, width)
    yield _projections(sizes, layer, source, kept, tokens, rows)
    yield Attention(f"{layer}.attention.self", sizes.heads, rows, tokens, sizes.head_size)
    output = f"{layer}.attention.output"
    yield _one(f"{output}.dense", CONTEXT, CONTEXT, width, width, rows)
    yield AddNorm(f"{output}.LayerNorm", (CONTEXT, kept), rows, width, sizes.epsilon)
    yield _one(f"{layer}.intermediate.dense", HIDDEN, INNER, width, sizes.intermediate, rows)
    yield Activation(f"{layer}.intermediate.gelu", "gelu", rows, sizes.intermediate)
    yield _one(f"{layer}.output.dense", INNER, INNER, sizes.intermediate, width, rows)
    yield AddNorm(f"{layer}.output.LayerNorm", (INNER, HIDDEN), rows, width, sizes.epsilon)


def _projections(sizes: Architecture, layer: str, source: str, kept: str, tokens: int, rows: int) -> Linear:
    module, width = f"{layer}.attention.self", sizes.hidden
    maps = (
        Map(f"{module}.query", kept, QUERY, width, width, sizes.head_size**-0.5),
        Map(f"{module}.key", source, KEY, width, width),
        Map(f"{module}.value", source, VALUE, width, width),
    )
    return Linear(f"{module}.projections", maps, (rows, tokens, tokens))


def _head(sizes: Architecture) -> Iterator[Step]:
    dense, out = sizes.head_modules
    yield _one(dense, HIDDEN, INNER, sizes.hidden, sizes.hidden, 1)
    yield Activation(f"{dense}.tanh", "tanh", 1, sizes.hidden)
    yield _one(out, INNER, LOGITS, sizes.hidden, len(sizes.labels), 1)


def _one(module: str, reads: str, writes: str, inputs: int, outputs: int, rows: int) -> Linear:
    return Linear(module, (Map(module, reads, writes, inputs, outputs),), (rows,))


def _weights(step: Step, fraction: int) -> Iterator[Secret]:
    if isinstance(step, Linear):
        for each in step.maps:
            yield Secret(f"{each.module}.weight", (each.inputs, each.outputs), fraction)
            # At twice the fraction, as the product has it, so that both are rounded together.
            yield Secret(f"{each.module}.bias", (each.outputs,), 2 * fraction)
    elif isinstance(step, AddNorm):
        yield Secret(f"{step.name}.weight", (step.width,), fraction)
        yield Secret(f"{step.name}.bias", (step.width,), fraction)

"""A program's run at one party: its steps on shares, driving the operations of `layers` and `activations`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from foedus_workloads.mpc import layers
from foedus_workloads.mpc.activations import gelu, tanh
from foedus_workloads.mpc.model.program import (
    INNER,
    KEY,
    LOGITS,
    MASK,
    QUERY,
    VALUE,
    Activation,
    AddNorm,
    Attention,
    FirstToken,
    Linear,
    Program,
    Step,
)
from foedus_workloads.mpc.model.sharing import held
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.primitives import Weight, pause
from foedus_workloads.mpc.rounds import Operation, together
from foedus_workloads.mpc.semi_honest import SEMI_HONEST

Prepare = Callable[[Shared], Weight]
Observe = Callable[[Step, tuple[Shared, ...]], None]
_FUNCTIONS = {"gelu": gelu, "tanh": tanh}


@dataclass(frozen=True)
class PartyWeights:
    """A party's shares of a model, prepared once for all sessions and lengths."""

    linears: Mapping[str, layers.Linear] = field(repr=False)
    norms: Mapping[str, layers.Norm] = field(repr=False)


def prepare_weights(
    party: int, program: Program, shares: Mapping[str, Tensor], *, prepare: Prepare = SEMI_HONEST.prepare
) -> PartyWeights:
    """Return what `execute` wants of a party's shares of the weights; raises InvalidInput when one does not fit.

    `prepare` is the protocol's.
    """
    secrets = {secret.name: secret for secret in program.weights}
    return build_weights(program, lambda name: held(party, secrets[name], shares), prepare)


def build_weights(program: Program, share: Callable[[str], Shared], prepare: Prepare) -> PartyWeights:
    """Return the program's layers over the shares that `share` finds by name."""
    linears, norms = {}, {}
    for step in program.steps:
        if isinstance(step, Linear):
            for each in step.maps:
                factor = prepare(share(f"{each.module}.weight"))
                linears[each.module] = layers.Linear(factor, share(f"{each.module}.bias"))
        elif isinstance(step, AddNorm):
            weight, bias = (share(f"{step.name}.{part}") for part in ("weight", "bias"))
            norms[step.name] = layers.Norm(weight, bias, step.epsilon)
    return PartyWeights(linears, norms)


def dealt_weights(weights: PartyWeights) -> Iterator[Shared]:
    """Yield a party's shares of all weights, where the protocol has kept them beside what it prepared."""
    for linear in weights.linears.values():
        yield linear.weight.shares
        yield linear.bias
    for norm in weights.norms.values():
        yield norm.weight
        yield norm.bias


def dealt(party: int, program: Program, weights: PartyWeights, inputs: Mapping[str, Tensor]) -> Iterator[Shared]:
    """Yield a party's shares of all that owner and client have shared."""
    yield from dealt_weights(weights)
    for secret in program.inputs:
        yield held(party, secret, inputs)


def execute(
    party: Party,
    program: Program,
    weights: PartyWeights,
    inputs: Mapping[str, Tensor],
    *,
    observe: Observe | None = None,
) -> Operation[Shared]:
    """Return this party's share of the logits, one a label.

    `inputs` are what the client has sent this party (`share_input`); raises InvalidInput when they do not fit.
    `observe` is shown what each step made: this party's shares, for measuring errors where all three are at hand.
    """
    if party.fraction != program.fraction:
        raise ValueError("party and program have different fixed points")
    values = {secret.name: held(party.index, secret, inputs) for secret in program.inputs}
    for step in program.steps:
        made = yield from run_step(party, step, values, weights)
        values.update(zip(step.writes, made, strict=True))
        if observe is not None:
            observe(step, made)
        yield from pause(party)
    return values[LOGITS].map(lambda t: t.reshape(-1))


def run_step(
    party: Party, step: Step, values: Mapping[str, Shared], weights: PartyWeights
) -> Operation[tuple[Shared, ...]]:
    """Return what a step makes of the values that it reads."""
    match step:
        case Linear():
            maps = [layers.linear(party, values[each.reads], weights.linears[each.module]) for each in step.maps]
            return (yield from together(maps))
        case Attention():
            return ((yield from _attention(party, step, values)),)
        case AddNorm():
            left, right = (values[name] for name in step.reads)
            return ((yield from layers.layer_norm(party, left + right, weights.norms[step.name])),)
        case Activation():
            return ((yield from _FUNCTIONS[step.function](party, values[INNER])),)
        case FirstToken():
            return (values[step.reads].map(lambda t: t[:1]),)


def _attention(party: Party, step: Attention, values: Mapping[str, Shared]) -> Operation[Shared]:
    query, key, value = (values[name].map(lambda t: split_heads(t, step)) for name in (QUERY, KEY, VALUE))
    context = yield from layers.attention(party, query, key, value, mask=values[MASK])
    return context.map(join_heads)


def split_heads(t: Tensor, step: Attention) -> Tensor:
    """Return [tokens, hidden] as [heads, tokens, size]."""
    return t.reshape(-1, step.heads, step.size).transpose(0, 1)


def join_heads(t: Tensor) -> Tensor:
    """Return [heads, tokens, size] as [tokens, hidden]."""
    return t.transpose(0, 1).flatten(1)

"""A program's run at one party: its steps on shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from foedus_contract.mpc_wire import DEALER
from foedus_workloads.mpc.crypten.deals import masked_input, pieces, zero
from foedus_workloads.mpc.crypten.functions import Norm, attention, gelu, layer_norm, tanh
from foedus_workloads.mpc.crypten.openings import Opening, Operation, together
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.crypten.sharing import MASK, OPEN, SHARE, check, held, shipped, weights_shipped
from foedus_workloads.mpc.crypten.truncation import truncate
from foedus_workloads.mpc.model.execute import join_heads, split_heads
from foedus_workloads.mpc.model.program import (
    INNER,
    KEY,
    LOGITS,
    QUERY,
    VALUE,
    Activation,
    AddNorm,
    Attention,
    FirstToken,
    Linear,
    Map,
    Program,
    Step,
)
from foedus_workloads.mpc.model.program import MASK as KEYS_MASK
from foedus_workloads.mpc.ring import Factor, matmul, prepare

Find = Callable[[str, tuple[int, ...]], Tensor]  # a share by its name, for its shape
_FUNCTIONS = {"gelu": gelu, "tanh": tanh}


@dataclass(frozen=True)
class Joined:
    """Linear maps of one value side by side: `factor` is W - B above the party's share of B, prepared once."""

    reads: str
    outputs: tuple[int, ...]
    writes: tuple[str, ...]
    name: str  # under which the dealer has B
    factor: Factor = field(repr=False)
    bias: Tensor = field(repr=False)


@dataclass(frozen=True)
class PartyWeights:
    """A party's side of a model, prepared once for all sessions and lengths."""

    linears: Mapping[str, tuple[Joined, ...]] = field(repr=False)  # by step
    norms: Mapping[str, Norm] = field(repr=False)


def prepare_weights(program: Program, party: int, parties: int, shares: Mapping[str, Tensor]) -> PartyWeights:
    """Return what `execute` wants of a party's files; raises InvalidInput when one does not fit."""
    check(dict(weights_shipped(program, party, parties)), shares, party)
    return build_weights(program, lambda name, shape: held(shares, name, shape))


def prepare_masks(program: Program, parties: int, shares: Mapping[str, Tensor]) -> dict[str, Factor]:
    """Return the weights' masks for the dealer; raises InvalidInput when a seed is missing."""
    check(dict(weights_shipped(program, DEALER, parties)), shares, DEALER)
    return {
        maps[0].module: prepare(
            torch.cat([held(shares, f"{each.module}.weight.{MASK}", (each.inputs, each.outputs)) for each in maps], -1)
        )
        for step in program.steps
        if isinstance(step, Linear)
        for maps in _side_by_side(step)
    }


def build_weights(program: Program, find: Find) -> PartyWeights:
    """Return the program's layers over the shares that `find` finds."""
    linears, norms = {}, {}
    for step in program.steps:
        if isinstance(step, Linear):
            linears[step.name] = tuple(_joined(maps, find) for maps in _side_by_side(step))
        elif isinstance(step, AddNorm):
            weight, bias = (find(f"{step.name}.{part}.{SHARE}", (step.width,)) for part in ("weight", "bias"))
            norms[step.name] = Norm(weight, bias, step.epsilon)
    return PartyWeights(linears, norms)


def _side_by_side(step: Linear) -> Iterator[tuple[Map, ...]]:
    """Yield a step's maps by what they read: one mask of the input does for all that read it."""
    for _, maps in groupby(step.maps, lambda each: each.reads):
        yield tuple(maps)


def _joined(maps: tuple[Map, ...], find: Find) -> Joined:
    def beside(part: str) -> Tensor:
        return torch.cat([find(f"{each.module}.weight.{part}", (each.inputs, each.outputs)) for each in maps], -1)

    bias = torch.cat([find(f"{each.module}.bias.{SHARE}", (each.outputs,)) for each in maps], -1)
    factor = prepare(torch.cat([beside(OPEN), beside(MASK)], -2))
    outputs, writes = tuple(each.outputs for each in maps), tuple(each.writes for each in maps)
    return Joined(maps[0].reads, outputs, writes, maps[0].module, factor, bias)


def execute(party: Party, program: Program, weights: PartyWeights, inputs: Mapping[str, Tensor]) -> Operation[Tensor]:
    """Return this party's summand of the logits under a fresh mask: what it sends the client.

    `inputs` are what the client has sent this party; raises InvalidInput when they do not fit.
    """
    check(shipped(program.inputs, party.index, party.parties), inputs, party.index)
    values = {secret.name: held(inputs, f"{secret.name}.{SHARE}", secret.shape) for secret in program.inputs}
    for step in program.steps:
        values.update((yield from run_step(party, step, values, weights)))
    return masked(party, values[LOGITS].reshape(-1))


def masked(party: Party, result: Tensor) -> Tensor:
    """Return a result's share under a fresh mask of zero: without it the client would see what truncation drew."""
    (mask,) = party.deals.take(zero(tuple(result.shape)))
    return result + mask


def run_step(
    party: Party, step: Step, values: Mapping[str, Tensor], weights: PartyWeights
) -> Operation[dict[str, Tensor]]:
    """Return what a step makes of the values that it reads, by their names."""
    match step:
        case Linear():
            joined = weights.linears[step.name]
            results = yield from together(*(linear(party, values[each.reads], each) for each in joined))
            made: dict[str, Tensor] = {}
            for each, result in zip(joined, results, strict=True):
                made.update(zip(each.writes, pieces(result, each.outputs), strict=True))
            return made
        case Attention():
            query, key, value = (split_heads(values[name], step) for name in (QUERY, KEY, VALUE))
            context = yield from attention(party, query, key, value, values[KEYS_MASK])
            return {step.writes[0]: join_heads(context)}
        case AddNorm():
            left, right = (values[name] for name in step.reads)
            return {step.writes[0]: (yield from layer_norm(party, left + right, weights.norms[step.name]))}
        case Activation():
            return {step.writes[0]: (yield from _FUNCTIONS[step.function](party, values[INNER]))}
        case FirstToken():
            return {step.writes[0]: values[step.reads][:1]}


def linear(party: Party, x: Tensor, layer: Joined) -> Operation[Tensor]:
    """Return the share of x W + b: 2 rounds, one for x under its mask and one for the truncation.

    1. The dealer deals A and A B. 2. Open E = x - A. 3. x W = x (W - B) + E B + A B, where W - B and E are known to all
    parties: one product of twice the inner length.
    """
    mask, product = party.deals.take(masked_input(tuple(x.shape), layer.name, sum(layer.outputs)))
    opened = yield Opening(sums=(x - mask,))
    share = matmul(torch.cat([x, opened.sums[0]], -1), layer.factor) + product + layer.bias
    return (yield from truncate(party, share, party.fraction))

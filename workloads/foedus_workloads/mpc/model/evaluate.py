"""The same program in float64 with exact functions, and how far shares were from it after each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foedus_workloads.mpc.model.checkpoint import PlainModel
from foedus_workloads.mpc.model.execute import join_heads, split_heads
from foedus_workloads.mpc.model.program import (
    EMBEDDED,
    INNER,
    KEY,
    MASK,
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
from foedus_workloads.mpc.model.text import EmbeddedText
from foedus_workloads.mpc.party import Shared

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": torch.nn.functional.gelu, "tanh": torch.tanh}


@dataclass(frozen=True)
class StepError:
    """How far one value of a step on shares was from float64, over its entries, and how far those spread."""

    step: str
    value: str
    largest: float
    mean: float
    spread: float  # the standard deviation of the float64 entries


def evaluate(model: PlainModel, program: Program, embedded: EmbeddedText) -> list[float]:
    """Return the logits in float64."""
    *_, (_, (logits,)) = evaluate_steps(model, program, embedded)
    return [float(value) for value in logits.reshape(-1)]


def evaluate_steps(
    model: PlainModel, program: Program, embedded: EmbeddedText
) -> Iterator[tuple[Step, tuple[Tensor, ...]]]:
    """Yield each step with what it makes, in float64."""
    values = {EMBEDDED: embedded.values, MASK: embedded.mask}
    for step in program.steps:
        made = _run(model, step, values)
        values.update(zip(step.writes, made, strict=True))
        yield step, made


def step_errors(
    model: PlainModel, program: Program, embedded: EmbeddedText, observed: Sequence[Sequence[tuple[Shared, ...]]]
) -> list[StepError]:
    """Return the errors of a run on shares, step by step; `observed` is what each party's `execute` let observe.

    The errors of a step contain those of all before it. Rows of padding count as others do: they are computed alike.
    """
    errors = []
    for (step, exact), *shares in zip(evaluate_steps(model, program, embedded), *observed, strict=True):
        for index, (name, want) in enumerate(zip(step.writes, exact, strict=True)):
            total = torch.stack([each[index].own for each in shares]).sum(0)
            difference = (total.double() / 2.0**program.fraction - want).abs()
            spread = float(want.std()) if want.numel() > 1 else 0.0
            errors.append(StepError(step.name, name, float(difference.max()), float(difference.mean()), spread))
    return errors


def _run(model: PlainModel, step: Step, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    match step:
        case Linear():
            return tuple(_linear(model, each, values[each.reads]) for each in step.maps)
        case Attention():
            query, key, value = (split_heads(values[name], step) for name in (QUERY, KEY, VALUE))
            weights = (query @ key.transpose(-1, -2) + values[MASK]).softmax(-1)
            return (join_heads(weights @ value),)
        case AddNorm():
            left, right = (values[name] for name in step.reads)
            weight, bias = (model.tensors[f"{step.name}.{part}"].double() for part in ("weight", "bias"))
            return (torch.nn.functional.layer_norm(left + right, (step.width,), weight, bias, step.epsilon),)
        case Activation():
            return (_FUNCTIONS[step.function](values[INNER]),)
        case FirstToken():
            return (values[step.reads][:1],)


def _linear(model: PlainModel, each: Map, x: Tensor) -> Tensor:
    weight, bias = (model.tensors[f"{each.module}.{part}"].double() for part in ("weight", "bias"))
    return (x @ weight.t() + bias) * each.scale

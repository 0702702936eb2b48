"""How far the functions on shares are from float64 over their ranges, beside what their formulas err by themselves."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.mpc_layer import drive
from foedus_workloads.mpc.activations import CLIP, GELU, GELU_LIMIT, ROOT_OF_EXP, exponential, gelu, softmax, tanh
from foedus_workloads.mpc.arithmetic import deal, dealt_to
from foedus_workloads.mpc.comparison import maximum
from foedus_workloads.mpc.layers import VARIANCES, Norm, layer_norm
from foedus_workloads.mpc.model import (
    EmbeddedText,
    PlainModel,
    compile_program,
    execute,
    prepare_weights,
    share_input,
    share_weights,
)
from foedus_workloads.mpc.model.evaluate import step_errors
from foedus_workloads.mpc.normalisation import ROOT, Powers, inverse_root, reciprocal
from foedus_workloads.mpc.party import PARTIES, Party, Shared
from foedus_workloads.mpc.polynomials import Quartic
from foedus_workloads.mpc.ring import Ring
from foedus_workloads.mpc.rounds import Operation
from foedus_workloads.mpc.streams import KEY_BYTES, KeyedStreams

FRACTION, POINTS = 16, 8001
EPSILON = 1e-12  # of a layer normalisation
SUMS = Powers(-1, 8)
Function = Callable[[Party, Shared], Operation[Shared]]
Formula = Callable[[Tensor], Tensor]


def make_parties() -> list[Party]:
    """Return three parties with fresh keys."""
    keys = [os.urandom(KEY_BYTES) for _ in range(PARTIES)]
    pairs = ((index, (index + 1) % PARTIES) for index in range(PARTIES))
    return [Party(one, KeyedStreams({one: keys[one], other: keys[other]}), fraction=FRACTION) for one, other in pairs]


def on_shares(function: Function, x: Tensor) -> Tensor:
    """Return what three parties make of fresh shares of x."""
    dealt = deal((x * 2.0**FRACTION).round().to(torch.int64), (os.urandom(32), os.urandom(32)), Ring())
    parties = make_parties()
    results = drive([function(party, dealt_to(party.index, dealt, Ring())) for party in parties]).results
    total: Tensor = sum(share.own for share in results)
    return total.double() / 2.0**FRACTION


def quartic(form: Quartic, z: Tensor) -> Tensor:
    """Return the polynomial in float64."""
    y = (z + form.shift) ** 2 / 2**form.halvings
    value: Tensor = (y + form.constant) * (form.quartic * y + form.linear * z + form.other) / 2**16
    return value


def exp_formula(x: Tensor) -> Tensor:
    """Return e^x by its formula."""
    return torch.where(x < CLIP, 0.0, quartic(ROOT_OF_EXP, x.clamp_min(CLIP)) ** 8)


def gelu_formula(x: Tensor) -> Tensor:
    """Return GELU by its formula."""
    between = x / 2 + quartic(GELU, x.clamp(-4, 4) ** 2)
    return torch.where(x < -GELU_LIMIT, 0.0, torch.where(x < GELU_LIMIT, between, x))


def tanh_formula(x: Tensor) -> Tensor:
    """Return tanh by the formula of e^x."""
    decay = exp_formula(-2 * x.abs())
    return x.sign() * (1 - decay) / (1 + decay)


def root_formula(v: Tensor) -> Tensor:
    """Return 1 / sqrt(v) by its polynomial on [1, 2)."""
    power = v.log2().floor()
    x = v / 2**power - 1.5
    return sum(factor * x**degree for degree, factor in enumerate(ROOT)) * 2 ** (-power / 2)


def reciprocal_formula(v: Tensor) -> Tensor:
    """Return 1 / v by a line and two steps of Goldschmidt on [1, 2)."""
    power = v.log2().floor()
    c = v / 2**power
    w = (24 - 8 * c) / 17
    e = 1 - c * w
    return w * (1 + e) * (1 + e * e) / 2**power


def softmax_formula(x: Tensor) -> Tensor:
    """Return softmax of rows by the formulas of e^x and 1/v."""
    weights = exp_formula(x - x.max(-1, keepdim=True).values)
    return weights * reciprocal_formula(weights.sum(-1, keepdim=True))


def norm_formula(x: Tensor) -> Tensor:
    """Return rows' layer normalisation by the formula of 1/sqrt(v)."""
    return (x - x.mean(-1, keepdim=True)) * root_formula(x.var(-1, correction=0, keepdim=True) + EPSILON)


def plain_norm(x: Tensor) -> Tensor:
    """Return rows' layer normalisation in float64."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=EPSILON)


def norm(party: Party, x: Shared) -> Operation[Shared]:
    """Return rows' layer normalisation on shares, scaled by shares of 1 and shifted by shares of 0."""
    zero = Shared(*(torch.zeros(x.shape[-1], dtype=torch.int64) for _ in range(2)))
    return layer_norm(party, x, Norm(party.add_public(zero, party.encode(1)), zero, EPSILON))


def _line(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, POINTS, dtype=torch.float64)


def _rows(spread: float) -> Tensor:
    return torch.randn(64, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * spread


# Name: inputs, the function on shares, float64's own, the formula's own.
TABLE: Mapping[str, tuple[Tensor, Function, Formula, Formula | None]] = {
    "exp on [-40, 0]": (_line(-40, 0), exponential, torch.exp, exp_formula),
    "gelu on [-10, 10]": (_line(-10, 10), gelu, torch.nn.functional.gelu, gelu_formula),
    "tanh on [-10, 10]": (_line(-10, 10), tanh, torch.tanh, tanh_formula),
    "1/v on [1, 128]": (
        _line(1, 128),
        lambda party, v: reciprocal(party, v, SUMS, bits=FRACTION),
        torch.reciprocal,
        reciprocal_formula,
    ),
    "1/sqrt(v) on [2^-12, 2^12)": (
        2 ** _line(VARIANCES.low, VARIANCES.high)[:-1],
        lambda party, v: inverse_root(party, v, VARIANCES),
        torch.rsqrt,
        root_formula,
    ),
    **{
        f"softmax of 128, spread {spread:g}": (_rows(spread), softmax, lambda x: x.softmax(-1), softmax_formula)
        for spread in (1.0, 2.0, 4.0)
    },
    **{
        f"layer norm of 128, spread {spread:g}": (_rows(spread), norm, plain_norm, norm_formula)
        for spread in (0.1, 1.0, 10.0)
    },
    "maximum of 128, spread 4": (_rows(4.0), maximum, lambda x: x.max(-1, keepdim=True).values, None),
}


def function_errors() -> Mapping[str, Mapping[str, float]]:
    """Return largest and mean errors of every function, and of its formula in float64 where that is one formula."""
    found = {}
    for name, (inputs, function, exact, formula) in TABLE.items():
        x = (inputs * 2.0**FRACTION).round() / 2.0**FRACTION  # what is shared
        found[name] = _row("largest", "mean", on_shares(function, x) - exact(x))
        if formula is not None:
            found[name] |= _row("formulaLargest", "formulaMean", formula(x) - exact(x))
    return found


def _row(largest: str, mean: str, difference: Tensor) -> dict[str, float]:
    return {largest: float(difference.abs().max()), mean: float(difference.abs().mean())}


def _keep(seen: list[tuple[Shared, ...]], _: object, made: tuple[Shared, ...]) -> None:
    seen.append(made)


def layer_errors(model: PlainModel, text: EmbeddedText) -> Sequence[Mapping[str, Any]]:
    """Return largest and mean errors of each value of each step, three parties in this process, beside its spread."""
    program = compile_program(model.architecture, text.tokens)
    weights, inputs = share_weights(model, program, os.urandom), share_input(text, program, os.urandom)
    observed: list[list[tuple[Shared, ...]]] = [[] for _ in range(PARTIES)]
    runs = [
        execute(
            party,
            program,
            prepare_weights(party.index, program, weights[party.index]),
            inputs[party.index],
            observe=partial(_keep, observed[party.index]),
        )
        for party in make_parties()
    ]
    drive(runs)
    return [asdict(each) for each in step_errors(model, program, text, observed)]

"""Each function against float64 over its range; what the formulas themselves err by is in the module's comments."""

from __future__ import annotations

import math

import pytest
import torch

from foedus_workloads.mpc.activations import exponential, gelu, softmax, tanh
from foedus_workloads.mpc.arithmetic import prepare
from foedus_workloads.mpc.layers import Linear, Norm, attention, layer_norm, linear
from foedus_workloads.mpc.normalisation import Powers, inverse_root, reciprocal
from foedus_workloads.mpc.party import Party, Shared
from support.three_parties import encoded, parties, revealed, run, shared

F = 16


def applied(function, *inputs, bits=F, fraction=F):
    """Run on shares of fixed-point inputs; return the result as float64, and rounds and bytes."""
    shares = [shared(encoded(x, fraction), seed=7 + 2 * i) for i, x in enumerate(inputs)]
    done = run(parties(fraction=fraction), lambda p: function(p, *(share[p.index] for share in shares)))
    return revealed(done.results).double() / 2**bits, done


def errors(got, want):
    difference = (got - want).abs()
    return difference.max().item(), difference.mean().item()


LINE = torch.linspace(-10, 10, 4001, dtype=torch.float64)
# Range, function, float64's own, largest error, mean error, rounds.
TABLE = {
    "exp": (torch.linspace(-40, 0, 4001, dtype=torch.float64), exponential, torch.exp, 4e-4, 1e-5, 12),
    "gelu": (LINE, gelu, torch.nn.functional.gelu, 0.0043, 0.00055, 8),
    "tanh": (LINE, tanh, torch.tanh, 3e-4, 4e-5, 31),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("fraction", [16, 18])
def test_activations_against_float64(name, fraction):
    x, function, exact, largest, mean, rounds = TABLE[name]
    got, done = applied(function, x, bits=fraction, fraction=fraction)
    worst, average = errors(got, exact(x))
    assert (worst < largest, average < mean, done.rounds) == (True, True, rounds), (worst, average)


def test_activations_far_out():
    x = torch.linspace(-1020, 1020, 20001, dtype=torch.float64)
    assert errors(applied(gelu, x)[0], torch.nn.functional.gelu(x))[0] < 0.0043
    assert errors(applied(exponential, x.abs() * -32)[0], (x.abs() * -32).exp())[0] < 4e-4
    assert errors(applied(tanh, x * 16)[0], (x * 16).tanh())[0] < 3e-4


def test_gelu_of_a_spread_of_one_errs_by_less_than_a_thousandth_in_the_mean():
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert errors(applied(gelu, x)[0], torch.nn.functional.gelu(x))[1] < 0.0009


@pytest.mark.parametrize("power", range(-6, 9))
def test_reciprocal_within_its_range(power):
    v = torch.linspace(1, 1.999, 200, dtype=torch.float64) * 2.0**power
    got, done = applied(lambda p, x: reciprocal(p, x, Powers(-6, 9), bits=26), v, bits=26)
    # c = v 2^-j is rounded at 16 bits, v itself too: for small v that is what is left of it.
    assert ((got * encoded(v) / 2**F - 1).abs().max() < 1e-4, done.rounds) == (True, 20)


@pytest.mark.parametrize("power", range(-6, 9))
def test_inverse_root_within_its_range(power):
    v = torch.linspace(1, 1.999, 200, dtype=torch.float64) * 2.0**power
    got, done = applied(lambda p, x: inverse_root(p, x, Powers(-6, 9)), v)
    exact = 1 / (encoded(v) / 2**F).sqrt()
    assert ((got - exact).abs() < 2.5e-4 * exact + 3 / 2**F).all()
    assert done.rounds == 18


@pytest.mark.parametrize(("spread", "largest"), [(1, 4e-4), (2, 4e-4), (4, 4e-4)])
def test_softmax_against_float64(spread, largest):
    generator = torch.Generator().manual_seed(spread)
    x = torch.randn(64, 128, generator=generator, dtype=torch.float64) * spread
    got, done = applied(softmax, x)
    assert errors(got, x.softmax(-1))[0] < largest
    assert (got.sum(-1) - 1).abs().max() < 5e-4
    assert done.rounds == 7 * 9 + 34


def test_softmax_leaves_masked_columns_out():
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mask = (torch.arange(20) < 13).long()
    got, _ = applied(lambda p, s: softmax(p, s, mask=mask), x)
    assert got[:, 13:].abs().max() < 2 / 2**F  # a zero is rounded too
    assert errors(got[:, :13], x[:, :13].softmax(-1))[0] < 1e-3


def test_softmax_of_far_apart_and_of_equal_entries():
    x = torch.tensor([[0.0, -100.0, -5000.0, -3.0], [2.5, 2.5, 2.5, 2.5]], dtype=torch.float64)
    assert errors(applied(softmax, x)[0], x.softmax(-1))[0] < 1e-3


@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_layer_norm_against_float64(scale):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(20, 384, generator=generator, dtype=torch.float64) * scale + scale
    weight, bias = (torch.randn(384, generator=generator, dtype=torch.float64) for _ in range(2))
    got, done = applied(lambda p, s, w, b: layer_norm(p, s, Norm(w, b, 1e-12)), x, weight, bias)
    want = torch.nn.functional.layer_norm(x, (384,), weight, bias, 1e-12)
    # What the input's own 16 bits allow grows as its spread falls.
    assert errors(got, want)[0] < 4e-3 + 2e-4 / scale
    assert done.rounds == 24


def test_linear_and_attention_against_float64():
    generator = torch.Generator().manual_seed(5)
    x, w = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((9, 48), (48, 32)))
    b = torch.randn(32, generator=generator, dtype=torch.float64)
    w = w / math.sqrt(48)
    got, done = applied(lambda p, s, u, v: linear(p, s, Linear(prepare(u), v * (1 << F))), x, w, b)
    assert (errors(got, x @ w + b)[0] < 6e-4, done.rounds) == (True, 2)
    q, k, v = (torch.randn(4, 16, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    got, done = applied(attention, q, k, v)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)
    assert (errors(got, want)[0] < 5e-3, done.rounds) == (True, 4 * 9 + 34 + 2)


TOKENS, WIDTH, HEADS = 16, 64, 4
SHAPES = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH), "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}


def heads(t: torch.Tensor) -> torch.Tensor:
    return t.reshape(TOKENS, HEADS, -1).transpose(0, 1)


def joined(t: torch.Tensor) -> torch.Tensor:
    return t.transpose(0, 1).reshape(TOKENS, WIDTH)


def plain_layer(x, weights):
    def apply(name, t):
        return t @ weights[name][0] + weights[name][1]

    query, key, value = (heads(t) for t in apply("qkv", x).split(WIDTH, -1))
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    x = torch.nn.functional.layer_norm(x + apply("out", joined(attended)), (WIDTH,), eps=1e-12)
    hidden = apply("down", torch.nn.functional.gelu(apply("up", x)))
    return torch.nn.functional.layer_norm(x + hidden, (WIDTH,), eps=1e-12)


def shared_layer(party: Party, x: Shared, weights: dict[str, Linear], norm: Norm):
    qkv = yield from linear(party, x, weights["qkv"])
    query, key, value = (qkv.columns(i * WIDTH, (i + 1) * WIDTH).map(heads) for i in range(3))
    attended = yield from attention(party, query, key, value)
    x = yield from layer_norm(party, x + (yield from linear(party, attended.map(joined), weights["out"])), norm)
    hidden = yield from gelu(party, (yield from linear(party, x, weights["up"])))
    return (yield from layer_norm(party, x + (yield from linear(party, hidden, weights["down"])), norm))


def test_a_whole_encoder_layer_against_float64():
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(TOKENS, WIDTH)
    weights = {name: (normal(*s) / math.sqrt(s[0]), normal(s[1]) / 10) for name, s in SHAPES.items()}
    x_shares, one, zero = (shared(encoded(t), seed=3) for t in (x, torch.ones(WIDTH), torch.zeros(WIDTH)))
    shares = {name: (shared(encoded(w), seed=20), shared(encoded(b), seed=30)) for name, (w, b) in weights.items()}

    def operation(p: Party):
        own = {name: Linear(prepare(w[p.index]), b[p.index] * (1 << F)) for name, (w, b) in shares.items()}
        return shared_layer(p, x_shares[p.index], own, Norm(one[p.index], zero[p.index], 1e-12))

    done = run(parties(), operation)
    assert errors(revealed(done.results).double() / 2**F, plain_layer(x, weights))[0] < 0.01
    # Four products with a weight, scores, softmax of 16 (with the values meanwhile), GELU, two layer normalisations.
    assert done.rounds == 4 * 2 + 2 + (4 * 9 + 34) + 8 + 2 * 24

"""Sizes, κ and the grid, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus_contract.plan import LoraPlan
from foedus_engine.decide.observed import ModelView
from foedus_engine.decide.size import adapted_modules, grid_per_clip, kappa, training_size
from support.brain import bert_modules

MINILM = ModelView(digest="sha256:" + "0" * 64, hidden_size=384, layers=6, modules=bert_modules(384, 1536))


def lora(rank: int, *targets: str, layers: int = 1) -> LoraPlan:
    return LoraPlan(rank=rank, alpha=1, target_modules=targets, last_layers=layers)


@pytest.mark.parametrize(
    ("plan", "factor_a", "factor_b", "head"),
    [
        (None, 0, 0, 1925),  # 5 · 384 + 5
        (lora(1, "query", "value"), 768, 768, 1925),
        (lora(8, "query", "value", layers=6), 36_864, 36_864, 1925),
        (lora(1, "intermediate.dense"), 384, 1536, 1925),
        (lora(1, "dense"), 384 + 384 + 1536, 384 + 1536 + 384, 1925),
        (lora(1, "query", "self.query"), 384, 384, 1925),  # one map, named twice
    ],
)
def test_size_of_minilm_with_five_labels(plan: LoraPlan | None, factor_a: int, factor_b: int, head: int) -> None:
    size = training_size(plan, 5, MINILM)

    assert (size.factor_a, size.factor_b, size.head) == (factor_a, factor_b, head)
    assert size.coordinates == max(factor_a, factor_b) + head
    assert size.trainable == factor_a + factor_b + head


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("query", ("attention.self.query",)),
        ("output.dense", ("attention.output.dense", "output.dense")),
        ("uery", ()),
        ("q_proj", ()),
    ],
)
def test_targets_match_as_peft_matches_them(target: str, found: tuple[str, ...]) -> None:
    assert adapted_modules(target, MINILM) == found


@pytest.mark.parametrize(
    ("sigma", "silos", "honest", "coordinates", "records", "expected"),
    [
        (16.7, 10, 10, 2601, 1700, 0.501),  # the dimension rule: N = 1,700 allows d of about 2,600
        (16.7, 10, 6, 2601, 1700, 0.6468),  # with the noise of n shares, n_min = 6
        (2.0, 4, 1, 100, 20, 2.0),
    ],
)
def test_kappa(sigma: float, silos: int, honest: int, coordinates: int, records: int, expected: float) -> None:
    assert kappa(sigma, silos, honest, coordinates, records) == pytest.approx(expected, rel=1e-3)


def test_grid_of_the_documented_example() -> None:
    # (2^31 − 1) / (1780 + 8 · 17 · √(10/6)) = 1,098,133.99; ⌈√2693 / 2⌉ = 26
    assert grid_per_clip(17.0, 10, 6, 2693, 1780) == 1_098_133 - 26


@given(
    sigma=st.floats(0.1, 1000),
    silos=st.integers(4, 50),
    colluders=st.integers(0, 2),
    coordinates=st.integers(1, 1 << 24),
    records=st.integers(1, 5_000_000),
)
def test_sum_and_noise_never_leave_the_ring(
    sigma: float, silos: int, colluders: int, coordinates: int, records: int
) -> None:
    honest = 2 * silos // 3 + 1 - colluders
    grid = grid_per_clip(sigma, silos, honest, coordinates, records)
    sensitivity = grid + math.ceil(math.sqrt(coordinates) / 2)

    assert sensitivity * (records + 8 * sigma * math.sqrt(silos / honest)) < 2**31

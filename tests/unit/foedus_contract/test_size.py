"""What LoRA adapts and how many numbers a round releases, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from foedus_contract.plan import LoraPlan
from foedus_contract.size import bert_modules, named_by, training_size

MINILM = bert_modules(384, 1536)


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
    size = training_size(plan, 5, 384, MINILM)

    assert (size.factor_a, size.factor_b, size.head) == (factor_a, factor_b, head)
    assert size.coordinates == max(factor_a, factor_b) + head
    assert size.released == ({"B": factor_b + head, "A": factor_a + head} if plan else {"None": head})
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
    assert named_by(target, MINILM) == found

"""Materialised per-example gradients equal what autograd gives for each example alone."""

import numpy as np
import pytest
import torch

from foedus_contract.plan import LoraPlan, ModelPlan
from foedus_workloads.training.base import check_base
from foedus_workloads.training.gradients import example_gradients
from foedus_workloads.training.model import AdaptedModel
from support.tiny_bert import SENTENCES, write_tiny_bert
from support.training_plans import LABELS

TARGETS = torch.tensor([0, 1, 1, 0, 1])
EVERYTHING = ("query", "key", "value", "output.dense", "intermediate.dense")
CASES = [
    (LoraPlan(rank=2, alpha=4, target_modules=("query", "value"), last_layers=1), 0.0, "B"),
    (LoraPlan(rank=2, alpha=4, target_modules=("query", "value"), last_layers=1), 0.0, "A"),
    (LoraPlan(rank=1, alpha=1, target_modules=EVERYTHING, last_layers=2), 0.0, "B"),
    (LoraPlan(rank=2, alpha=1, target_modules=("query", "value"), last_layers=2), 0.5, "A"),
    (LoraPlan(rank=1, alpha=3, target_modules=("value", "query"), last_layers=1), 1.0, "B"),
    (LoraPlan(rank=3, alpha=1, target_modules=EVERYTHING, last_layers=2), 0.0, "A"),
    (LoraPlan(rank=2, alpha=2, target_modules=("output.dense", "intermediate.dense"), last_layers=1), 0.0, "A"),
    (LoraPlan(rank=1, alpha=2, target_modules=("intermediate.dense",), last_layers=1), 0.0, "B"),
    (None, 0.0, "None"),
    (None, 0.5, "None"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_bert(tmp_path_factory.mktemp("gradients") / "tiny")


def trained(folder, lora, damping):
    """A model whose every trained number differs from zero."""
    plan = ModelPlan(digest=check_base(folder).digest, labels=LABELS, max_tokens=16, lora=lora, query_damping=damping)
    model = AdaptedModel.load(folder, plan, seed=3)
    generator = np.random.default_rng(0)
    for factor in model.factors:
        model.add(factor, 0.3 * generator.normal(size=model.coordinates(factor)))
    return model


def one_by_one(model, factor):
    """The oracle: the whole peft model on one text at a time, plain autograd on its parameters."""
    parameters = [parameter for parameter in model.peft.parameters() if parameter.requires_grad]
    rank = 0 if model.plan.lora is None else model.plan.lora.rank
    rows = []
    for text, label in zip(SENTENCES, TARGETS, strict=True):
        encoding = model._tokenizer.encode(text)
        ids, mask = torch.tensor([encoding.ids]), torch.tensor([encoding.attention_mask])
        loss = torch.nn.functional.cross_entropy(model.peft(input_ids=ids, attention_mask=mask).logits, label[None])
        loss.backward()
        # A damped query has one rank more, the last, which nobody trains.
        lora = [
            module.A.weight.grad[:rank] if factor == "A" else module.B.weight.grad[:, :rank] for module in model.modules
        ]
        weight, bias = model.head.weight.grad.clone(), model.head.bias.grad.clone()
        centred = weight - bias[:, None] * model.centre  # the chain rule of Δb = 0.1 Δb' − ΔW c
        parts = [*(lora if model.plan.lora is not None else []), centred, 0.1 * bias]
        rows.append(torch.cat([part.ravel() for part in parts]))
        for parameter in parameters:
            parameter.grad = None
    return torch.stack(rows)


@pytest.mark.parametrize(("lora", "damping", "factor"), CASES)
def test_they_equal_a_loop_over_single_examples(folder, lora, damping, factor):
    model = trained(folder, lora, damping)
    got = example_gradients(model, factor, model.encode(SENTENCES, batch=5), TARGETS)
    want = one_by_one(model, factor)
    assert got.shape == want.shape == (5, model.coordinates(factor))
    assert want.abs().max() > 0.1
    assert (got - want).abs().max() <= 1e-5


def test_every_block_has_a_gradient(folder):
    """A silent no-update would leave a factor at zero while the loss falls."""
    model = trained(folder, CASES[0][0], damping=0.0)
    got = example_gradients(model, "A", model.encode(SENTENCES, batch=5), TARGETS)
    blocks = torch.split(got, [parameter.numel() for _, parameter in model._active("A")], dim=1)
    assert all(block.abs().amax(dim=1).min() > 0 for block in blocks)


def test_while_b_is_zero_a_has_no_gradient_and_b_has(folder):
    plan = ModelPlan(digest=check_base(folder).digest, labels=LABELS, max_tokens=16, lora=CASES[0][0])
    model = AdaptedModel.load(folder, plan, seed=3)
    model.add("B", np.concatenate([np.zeros(128), np.ones(66)]) * np.arange(194))  # the head alone moves
    encoded = model.encode(SENTENCES, batch=5)
    lora = slice(0, -model.head_coordinates())
    assert not example_gradients(model, "A", encoded, TARGETS)[:, lora].any()
    assert example_gradients(model, "B", encoded, TARGETS)[:, lora].any()


def test_no_hook_and_no_gradient_stays_behind(folder):
    model = trained(folder, CASES[0][0], damping=0.0)
    example_gradients(model, "B", model.encode(SENTENCES, batch=5), TARGETS)
    assert all(parameter.grad is None for parameter in model.peft.parameters())
    assert not any(module._forward_hooks for module in model.peft.modules())

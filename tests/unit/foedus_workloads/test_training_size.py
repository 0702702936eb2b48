"""The size that the engine plans with is that of the model which peft and transformers make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertModel

from foedus.base_model import read_model
from foedus_contract.plan import LoraPlan, ModelPlan
from foedus_contract.size import training_size
from foedus_engine.decide.training_plan import size_on
from foedus_workloads.training.base import check_base
from foedus_workloads.training.model import AdaptedModel
from support.example_jobs import NO_CLAIM, example_job, example_model_path, example_plan
from support.tiny_bert import write_tiny_bert
from support.training_plans import LABELS

EVERY_MAP = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("size") / "tiny", layers=3)


def test_a_layers_maps_are_those_of_transformers_in_its_order(folder: Path) -> None:
    layer = BertModel.from_pretrained(folder).encoder.layer[0]
    linear = {
        name: (module.in_features, module.out_features)
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert list(linear.items()) == list(check_base(folder).modules.items())


@pytest.mark.parametrize("targets", [*((target,) for target in EVERY_MAP), ("dense",), ("self.key", "key"), EVERY_MAP])
@pytest.mark.parametrize(("rank", "layers"), [(1, 1), (3, 2)])
def test_what_is_trained_is_what_peft_trains(folder: Path, targets: tuple[str, ...], rank: int, layers: int) -> None:
    base = check_base(folder)
    lora = LoraPlan(rank=rank, alpha=1, target_modules=targets, last_layers=layers)
    model = AdaptedModel.load(folder, ModelPlan(digest=base.digest, labels=LABELS, max_tokens=16, lora=lora), 1)
    trained = sum(parameter.numel() for parameter in model.peft.parameters() if parameter.requires_grad)
    assert training_size(lora, len(LABELS), base.hidden, base.modules).trainable == trained


@pytest.mark.parametrize("name", ["bbc-news", "tweets"])
def test_an_examples_rounds_are_as_long_as_the_engine_planned(name: str) -> None:
    job = example_job(name)
    size = size_on(job, read_model(job.spec.model.source, NO_CLAIM))
    model = AdaptedModel.load(example_model_path(job), example_plan(job, records=170, sigma=17.0).model, 1)
    assert size.released == {factor: model.coordinates(factor) for factor in model.factors}
    assert size.trainable == model.trainable_parameters

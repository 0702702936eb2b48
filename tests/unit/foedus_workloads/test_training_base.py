"""Only a complete plain BERT with safetensors is taken, it is named by all its files, and nothing of it is executed."""

import json
import shutil

import pytest

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import LoraPlan, ModelPlan
from foedus_contract.run_spec import ModelSource
from foedus_workloads.training.base import check_base, check_plan, resolve
from support.tiny_bert import write_tiny_bert


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_tiny_bert(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "tiny")


def lora(*targets: str, layers: int = 1, rank: int = 1) -> LoraPlan:
    return LoraPlan(rank=rank, alpha=1, target_modules=targets, last_layers=layers)


def plan(digest: str, tokens: int = 16, adapter: LoraPlan | None = None) -> ModelPlan:
    return ModelPlan(digest=digest, labels=("a", "b", "c"), max_tokens=tokens, lora=adapter)


def test_sizes_come_from_the_config(original):
    base = check_base(original)
    assert (base.hidden, base.intermediate, base.layers, base.positions) == (32, 64, 2, 64)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_the_digest_covers_every_file_and_not_the_place(original, folder, name):
    assert check_base(folder).digest == check_base(original).digest
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(
        content[:-1] + bytes([content[-1] ^ 1]) if name == "model.safetensors" else content + b" "
    )
    assert check_base(folder).digest != check_base(original).digest


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("config.json", lambda _: b"{", "not valid JSON"),
        ("config.json", lambda _: b"[]", "not a JSON object"),
        ("config.json", lambda old: old.replace(b'"bert"', b'"gpt2"'), "not BERT"),
        ("config.json", lambda old: old.replace(b"{", b'{"auto_map": {"AutoModel": "evil.Model"}, ', 1), "auto_map"),
        ("config.json", lambda old: old.replace(b'attention": false', b'attention": true'), "add_cross_attention"),
        ("config.json", lambda old: old.replace(b'"hidden_size": 32', b'"hidden_size": "32"'), "hidden_size"),
        ("config.json", lambda old: old.replace(b'"num_hidden_layers": 2', b'"num_hidden_layers": 3'), "layer.2"),
        ("model.safetensors", lambda old: old[:-1], "cut off"),
        ("model.safetensors", lambda old: old[:5], "cut off"),
        ("model.safetensors", lambda _: b"\x80\x04\x95not a pickle either", "cut off or not safetensors"),
        ("model.safetensors", lambda _: (2).to_bytes(8, "little") + b"[]", "header is broken"),
        ("model.safetensors", lambda old: old.replace(b"pooler.dense.bias", b"pooler.dense.bios"), "pooler.dense.bias"),
        ("tokenizer.json", lambda _: b"", "not valid JSON"),
    ],
)  # fmt: skip
def test_a_broken_model_is_refused_with_file_and_cure(folder, name, change, says):
    file = folder / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InvalidInput, match=says) as caught:
        check_base(folder)
    assert caught.value.where.startswith(str(folder))
    assert caught.value.cure
    assert caught.value.code is ExitCode.INVALID_MODEL


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(InvalidInput, match="cannot be read"):
        check_base(folder)


@pytest.mark.parametrize(
    ("adapter", "modules"),
    [
        (
            lora("value", "query"),
            [("encoder.layer.1.attention.self.query", 32, 32), ("encoder.layer.1.attention.self.value", 32, 32)],
        ),
        (
            lora("output.dense"),
            [("encoder.layer.1.attention.output.dense", 32, 32), ("encoder.layer.1.output.dense", 32, 64)],
        ),
        (
            lora("intermediate.dense", layers=2),
            [("encoder.layer.0.intermediate.dense", 64, 32), ("encoder.layer.1.intermediate.dense", 64, 32)],
        ),
    ],
)
def test_targets_name_modules_as_peft_does(original, adapter, modules):
    assert list(check_base(original).adapted_modules(adapter)) == modules


@pytest.mark.parametrize(
    ("adapter", "tokens", "where"),
    [
        (lora("query", "q_proj"), 16, "spec.lora.targetModules"),
        (lora("uery"), 16, "spec.lora.targetModules"),
        (lora("query", layers=3), 16, "spec.lora.lastLayers"),
        (None, 65, "spec.model.maxTokens"),
    ],
)
def test_a_plan_that_does_not_fit_the_model_is_refused(original, adapter, tokens, where):
    base = check_base(original)
    with pytest.raises(InvalidInput) as caught:
        check_plan(base, plan(base.digest, tokens, adapter))
    assert caught.value.where == where


def test_another_model_than_the_plans_is_refused(original):
    with pytest.raises(InvalidInput, match="the plan was made for"):
        check_plan(check_base(original), plan("sha256:" + "0" * 64))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (ModelSource(), "exactly one"),
        (ModelSource(path="/x", package="y"), "exactly one"),
        (ModelSource(path="/no/such/folder"), "does not exist"),
        (ModelSource(package="no-such-package-here", package_path="model"), "is not installed"),
        (ModelSource(package="pydantic", package_path="../pip"), "not a folder inside"),
        (ModelSource(package="pydantic", package_path="/etc"), "not a folder inside"),
        (ModelSource(package="pydantic", package_path=""), "holds no config.json"),
        (ModelSource(package="pydantic", package_path="numpy"), "holds no numpy/config.json"),
    ],
)
def test_a_source_that_names_no_model_is_refused(source, says):
    with pytest.raises(InvalidInput, match=says):
        resolve(source, None)


def test_a_folder_is_looked_for_below_the_root(original):
    assert resolve(ModelSource(path="/tiny"), original.parent) == original


def test_a_package_is_found_without_being_imported(tmp_path, monkeypatch, original):
    site = tmp_path / "site"
    shutil.copytree(original, site / "evil" / "model")
    (site / "evil" / "__init__.py").write_text("raise SystemExit('executed')")
    info = site / "evil_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil-model\nVersion: 1.0\n")
    (info / "RECORD").write_text("evil/__init__.py,,\nevil/model/config.json,,\n")
    monkeypatch.syspath_prepend(site)
    found = resolve(ModelSource(package="evil-model", package_path="evil/model"), None)
    assert json.loads((found / "config.json").read_text())["model_type"] == "bert"

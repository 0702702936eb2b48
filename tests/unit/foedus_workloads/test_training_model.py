"""The adapted model computes what transformers and peft compute, in one documented order of its trained numbers."""

import numpy as np
import pytest
import safetensors.numpy
import torch

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import LoraPlan, ModelPlan
from foedus_contract.size import training_size
from foedus_workloads.training.base import check_base
from foedus_workloads.training.model import AdaptedModel
from support.tiny_bert import SENTENCES, write_tiny_bert
from support.training_plans import LABELS

TEXTS = [*SENTENCES, "short", "", " ".join(SENTENCES)]  # one is cut, one is empty
LORAS = {
    "one layer": LoraPlan(rank=2, alpha=4, target_modules=("query", "value"), last_layers=1),
    "two layers": LoraPlan(rank=1, alpha=1, target_modules=("key", "output.dense"), last_layers=2),
    "after attention": LoraPlan(rank=2, alpha=1, target_modules=("intermediate.dense", "output.dense"), last_layers=1),
    "head alone": None,
}
# Name: LoRA, and how much of the first token's query is taken back.
ADAPTERS = {
    **{name: (lora, 0.0) for name, lora in LORAS.items()},
    "damped query": (LoraPlan(rank=2, alpha=3, target_modules=("query", "value"), last_layers=2), 0.5),
    "head alone on a damped query": (None, 0.5),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_bert(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(params=ADAPTERS.values(), ids=ADAPTERS.keys())
def model(folder, request):
    lora, damping = request.param
    return load(folder, lora, damping=damping)


def load(folder, lora, seed=1, damping=0.0):
    digest = check_base(folder).digest
    plan = ModelPlan(digest=digest, labels=LABELS, max_tokens=16, lora=lora, query_damping=damping)
    return AdaptedModel.load(folder, plan, seed)


def shake(model, seed=0):
    generator = np.random.default_rng(seed)
    for factor in model.factors:
        model.add(factor, 0.3 * generator.normal(size=model.coordinates(factor)))


def plain_logits(model, texts):
    """What transformers and peft compute by themselves, all layers and all tokens."""
    encodings = model._tokenizer.encode_batch(list(texts))
    with torch.no_grad():
        return model.peft(
            input_ids=torch.tensor([encoding.ids for encoding in encodings]),
            attention_mask=torch.tensor([encoding.attention_mask for encoding in encodings]),
        ).logits


def test_cached_activations_and_the_first_token_alone_give_the_whole_models_scores(model):
    shake(model)
    with torch.no_grad():
        ours = model.logits(model.encode(TEXTS, batch=3))
    plain = plain_logits(model, TEXTS)
    assert plain.std() > 0.1
    assert torch.allclose(ours, plain, atol=2e-6, rtol=0)


def test_a_fresh_adapter_changes_nothing(model):
    assert plain_logits(model, TEXTS).abs().max() == 0
    fixed = ("head.centre", "encoder.layer.1.attention.self.query.B" if model.plan.query_damping else "")
    assert all(not value.any() for name, value in model.adapter().items() if not name.endswith((".A", *fixed)))


def test_only_adapter_and_head_may_move_and_nothing_is_dropped_out(model):
    free = {name for name, parameter in model.peft.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "classifier.modules_to_save" in name for name in free)
    assert not any(module.training for module in model.peft.modules())


def test_the_seed_decides_a_and_nothing_else_is_touched(folder):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, same, other = (load(folder, LORAS["one layer"], seed).adapter_bytes() for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_order_of_the_vector_is_layers_modules_rows_then_weight_then_bias(folder):
    model = load(folder, LORAS["two layers"])
    before = model.adapter()
    model.add("B", np.arange(model.coordinates("B"), dtype=np.float64))
    grown = {name: value - before[name] for name, value in model.adapter().items()}
    start = 0
    for layer in (0, 1):
        for path in ("attention.self.key", "attention.output.dense", "output.dense"):
            moved = grown[f"encoder.layer.{layer}.{path}.B"]
            assert moved.ravel().tolist() == list(range(start, start + 32))
            assert not grown[f"encoder.layer.{layer}.{path}.A"].any()
            start += 32
    assert grown["head.weight"].ravel().tolist() == list(range(start, start + 64))
    plain_bias = 0.1 * np.array([start + 64, start + 65]) - grown["head.weight"] @ model.centre.numpy()
    assert grown["head.bias"] == pytest.approx(plain_bias, rel=1e-4, abs=1e-3)


def test_a_step_in_centred_coordinates_is_a_step_of_the_scores_around_the_centre(folder):
    model = load(folder, None)
    step = np.random.default_rng(0).normal(size=model.coordinates("None"))
    model.add("None", step)
    weight, bias = torch.tensor(step[:64].reshape(2, 32)).float(), torch.tensor(0.1 * step[64:]).float()
    at_centre = model.logits(model.encode([""], batch=1))[0].detach()
    assert torch.allclose(at_centre, bias, atol=1e-5)
    encoded = model.encode(TEXTS, batch=8)
    want = (model._pooled(encoded) - model.centre) @ weight.T + bias
    assert torch.allclose(model.logits(encoded), want, atol=1e-5)


LORAS_WITH_QUERY = [
    LoraPlan(rank=2, alpha=3, target_modules=("query", "value"), last_layers=1),
    LoraPlan(rank=1, alpha=1, target_modules=("query",), last_layers=2),
    None,
]


def first_token_queries(model, texts):
    """What the last layer's query makes of the first token, by transformers and peft alone."""
    seen = []
    query = model._bert.encoder.layer[-1].attention.self.query
    hook = query.register_forward_hook(lambda _module, _inputs, output: seen.append(output[:, 0].detach()))
    plain_logits(model, texts)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("lora", LORAS_WITH_QUERY, ids=["two ranks", "two layers", "head alone"])
@pytest.mark.parametrize("damping", [0.25, 0.5, 1.0])
def test_a_damped_query_is_lower_at_the_first_token(folder, lora, damping):
    plain = first_token_queries(load(folder, lora), [""])
    model = load(folder, lora, damping=damping)
    assert torch.allclose(first_token_queries(model, [""]), (1 - damping) * plain, atol=1e-5)


def test_nobody_trains_the_damping(folder):
    lora, damping = ADAPTERS["damped query"]
    model, undamped = load(folder, lora, damping=damping), load(folder, lora)
    name = "encoder.layer.1.attention.self.query"
    before = {factor: model.adapter()[f"{name}.{factor}"] for factor in "AB"}
    shake(model)
    after = {factor: model.adapter()[f"{name}.{factor}"] for factor in "AB"}
    assert np.array_equal(before["A"][2], after["A"][2])
    assert np.array_equal(before["B"][:, 2], after["B"][:, 2])
    assert not np.isclose(before["A"][:2], after["A"][:2]).any()
    assert not np.isclose(before["B"][:, :2], after["B"][:, :2]).any()
    assert [model.coordinates(factor) for factor in "BA"] == [undamped.coordinates(factor) for factor in "BA"]
    assert model.trainable_parameters == undamped.trainable_parameters == 2 * 2 * (2 * 32 + 2 * 32) + 2 * 33


def test_the_centre_is_the_public_texts_mean_and_moves_no_score(model):
    shake(model)
    before = plain_logits(model, TEXTS)
    model.centre_on(model.encode(SENTENCES, batch=2), batch=2)
    encodings = model._tokenizer.encode_batch(list(SENTENCES))
    with torch.no_grad():
        pooled = model._bert(
            input_ids=torch.tensor([encoding.ids for encoding in encodings]),
            attention_mask=torch.tensor([encoding.attention_mask for encoding in encodings]),
        ).pooler_output
    assert torch.allclose(model.centre, pooled.mean(dim=0), atol=1e-6)
    assert torch.equal(plain_logits(model, TEXTS), before)


def test_silos_take_the_centre_from_the_broadcast(folder):
    coordinator, silo = load(folder, LORAS["one layer"]), load(folder, LORAS["one layer"])
    coordinator.centre_on(coordinator.encode(SENTENCES, batch=2), batch=2)
    assert not torch.equal(silo.centre, coordinator.centre)
    silo.load_adapter_bytes(coordinator.adapter_bytes())
    assert torch.equal(silo.centre, coordinator.centre)


@pytest.mark.parametrize(("number", "factor"), [(0, "B"), (1, "A"), (2, "B"), (19, "A")])
def test_factors_alternate_with_b_first(folder, number, factor):
    assert load(folder, LORAS["one layer"]).factor_of_round(number) == factor
    assert load(folder, None).factor_of_round(number) == "None"


def test_lengths_agree_with_the_plans_arithmetic(model):
    size = training_size(model.plan.lora, len(model.plan.labels), model.base.hidden, model.base.modules)
    assert {factor: model.coordinates(factor) for factor in model.factors} == size.released
    assert model.head_coordinates() == 66
    with pytest.raises(InvalidInput, match="not trained by this plan"):
        model.coordinates("C")


def test_an_adapter_travels_as_bytes_and_means_the_same(folder):
    model, other = load(folder, LORAS["one layer"], 1), load(folder, LORAS["one layer"], 2)
    shake(model)
    payload = model.adapter_bytes()
    other.load_adapter_bytes(payload)
    assert other.adapter_bytes() == payload
    assert payload == other.adapter_bytes()
    assert torch.equal(plain_logits(model, TEXTS), plain_logits(other, TEXTS))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t | {"more": np.zeros(1, np.float32)}, "other names"),
        (lambda t: {name: value for name, value in t.items() if name != "head.bias"}, "other names"),
        (lambda t: t | {"head.bias": np.zeros(3, np.float32)}, "head.bias has another shape"),
        (lambda t: t | {"head.bias": np.zeros(2, np.float64)}, "head.bias has another shape or type"),
        (lambda t: t | {"head.bias": np.array([0, np.nan], np.float32)}, "head.bias is not finite"),
    ],
)
def test_an_adapter_of_another_model_is_refused_whole(folder, change, says):
    model = load(folder, LORAS["one layer"])
    before = model.adapter_bytes()
    with pytest.raises(InvalidInput, match=says) as caught:
        model.load_adapter_bytes(safetensors.numpy.save(change(model.adapter())))
    assert caught.value.code is ExitCode.INVALID_MODEL
    assert model.adapter_bytes() == before


@pytest.mark.parametrize("payload", [b"", b"\x00" * 7, b"\xff" * 64, (2).to_bytes(8, "little") + b"[]"])
def test_bytes_that_are_no_adapter_are_refused(folder, payload):
    with pytest.raises(InvalidInput, match="not safetensors"):
        load(folder, None).load_adapter_bytes(payload)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    folder = write_tiny_bert(tmp_path / "tiny")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(InvalidInput, match="not finite"):
        load(folder, None)


def test_a_tokenizer_that_is_none_is_refused(tmp_path):
    folder = write_tiny_bert(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"tokenizer\.json cannot be loaded"):
        load(folder, None)


def test_encoding_reports_how_far_it_is(folder):
    told = []
    load(folder, None).encode(TEXTS, batch=3, report=lambda done, total: told.append((done, total)))
    assert told == [(3, 8), (6, 8), (8, 8)]

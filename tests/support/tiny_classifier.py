"""Small encoders with a classification head whose activations spread as a trained encoder's do on real text."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from foedus_workloads.mpc.model.checkpoint import PlainModel
from foedus_workloads.mpc.model.evaluate import evaluate_steps
from foedus_workloads.mpc.model.execute import split_heads
from foedus_workloads.mpc.model.program import Activation, Attention, Linear, Program
from foedus_workloads.mpc.model.text import EmbeddedText
from support.tiny_bert import SENTENCES, train_tokenizer

LABELS = ("business", "politics", "sport")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def write_classifier(folder: Path, kind: str, seed: int = 0) -> tuple[Path, torch.nn.Module]:
    """Write a random classifier as `transformers` saves one; return the folder and the classifier itself."""
    model, tokenizer = _bert() if kind == "bert" else _roberta()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_drawn(name, parameter, generator))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, model.eval()


def logits(model: torch.nn.Module, ids: list[int]) -> list[float]:
    """Return what `transformers` says of a text's tokens."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0].tolist()


def activity(model: PlainModel, program: Program, embedded: EmbeddedText) -> tuple[float, float]:
    """Return attention's mean entropy over its largest, and the spread before GELU; of real tokens only."""
    real = int((embedded.mask == 0).sum())
    entropies, before_gelu, projected, inner = [], [], (), torch.empty(0)
    for step, made in evaluate_steps(model, program, embedded):
        if isinstance(step, Linear):
            projected, inner = made, made[0]
        elif isinstance(step, Attention):
            query, key = (split_heads(each, step)[:, :real] for each in projected[:2])
            weights = (query @ key.transpose(-1, -2)).softmax(-1)
            entropies.append(-(weights * weights.clamp_min(1e-30).log()).sum(-1).mean() / torch.tensor(real).log())
        elif isinstance(step, Activation) and step.function == "gelu":
            before_gelu.append(inner[:real].std())
    return float(torch.stack(entropies).mean()), float(torch.stack(before_gelu).mean())


def _bert() -> tuple[torch.nn.Module, object]:
    tokenizer = train_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, num_labels=3, **_named(), **SIZES
    )
    return BertForSequenceClassification(config), tokenizer


def _roberta() -> tuple[torch.nn.Module, object]:
    tokenizer = train_tokenizer(ROBERTA_SPECIAL, unknown="<unk>", ends=("<s>", "</s>"))
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=1,
        layer_norm_eps=1e-5,
        **_named(),
        **SIZES,
    )
    return RobertaForSequenceClassification(config), tokenizer


def _named() -> dict[str, object]:
    return {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}


def _drawn(name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Return weights under which scores and what goes into GELU spread as a trained model's, unlike a fresh one's."""
    noise = torch.randn(parameter.shape, generator=generator)
    if "LayerNorm.weight" in name:
        return 1 + 0.2 * noise
    if parameter.ndim == 1:
        return 0.2 * noise
    if "embeddings" in name:
        return noise
    gain = 1.7 if name.endswith(("query.weight", "key.weight")) else 1.0
    return noise * (gain / parameter.shape[1] ** 0.5)


__all__ = ["LABELS", "SENTENCES", "activity", "logits", "write_classifier"]

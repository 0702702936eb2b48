"""Sizes and kind of an encoder with a classification head: public, and all that a program is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from foedus_contract import limits
from foedus_contract.models import ContractModel
from foedus_workloads.model_folder import CONFIG_FILE, positive, read_config, refuse

Kind = Literal["bert", "roberta"]
KINDS: tuple[Kind, ...] = ("bert", "roberta")
HEADS: Mapping[Kind, tuple[str, str]] = {
    "bert": ("pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
}
Size = Annotated[int, Field(ge=1, lt=2**24)]
_LABEL_LETTERS = 256
# Before the first token's position RoBERTa's table has rows up to its padding id, which is 1 in all its checkpoints.
_ROBERTA_PADDING = 1


class Architecture(ContractModel):
    """An encoder and its head, as the owner tells the parties: nothing of weights, nothing of texts."""

    kind: Kind
    layers: Annotated[int, Field(ge=1, le=256)]
    heads: Size
    hidden: Size
    intermediate: Size
    vocabulary: Size
    token_types: Size
    positions: Size  # tokens that a text may have, the marks at its ends among them
    padding: Annotated[int, Field(ge=0)]  # the padding token's id
    epsilon: Annotated[float, Field(gt=0, lt=1)]
    labels: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=_LABEL_LETTERS)], ...],
        Field(min_length=1, max_length=limits.MAX_LABELS),
    ]

    @property
    def head_size(self) -> int:
        """Entries of a query, key or value of one head."""
        return self.hidden // self.heads

    @property
    def first_position(self) -> int:
        """The row of the position table that the first token takes."""
        return self.padding + 1 if self.kind == "roberta" else 0

    @property
    def head_modules(self) -> tuple[str, str]:
        """Return the names of the head's two linear maps; between them is a tanh."""
        return HEADS[self.kind]


def read_architecture(folder: Path, count: int, labels: tuple[str, ...] | None = None) -> Architecture:
    """Return the architecture of the model in `folder` with a head of `count` classes, named `labels` if they are.

    Raises InvalidInput naming what of the config is not supported.
    """
    config = read_config(folder, KINDS)
    where = str(folder / CONFIG_FILE)
    _check_activation(config, where)
    kind = config["model_type"]
    hidden, heads = positive(config, "hidden_size", folder), positive(config, "num_attention_heads", folder)
    if hidden % heads:
        refuse(where, f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}", "repair the folder")
    padding = _padding(config, kind, where)
    positions = positive(config, "max_position_embeddings", folder) - (padding + 1 if kind == "roberta" else 0)
    if positions < 1:
        refuse(where, "max_position_embeddings leaves no position for a token", "repair the model's folder")
    return Architecture(
        kind=kind,
        layers=positive(config, "num_hidden_layers", folder),
        heads=heads,
        hidden=hidden,
        intermediate=positive(config, "intermediate_size", folder),
        vocabulary=positive(config, "vocab_size", folder),
        token_types=positive(config, "type_vocab_size", folder),
        positions=positions,
        padding=padding,
        epsilon=_epsilon(config, where),
        labels=tuple(label[:_LABEL_LETTERS] for label in labels or _named(config, count)),
    )


def _check_activation(config: Mapping[str, Any], where: str) -> None:
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        refuse(where, f"the activation {json.dumps(activation)} is not supported (hidden_act)", "use a model with gelu")


def _padding(config: Mapping[str, Any], kind: str, where: str) -> int:
    padding = config.get("pad_token_id", _ROBERTA_PADDING if kind == "roberta" else 0)
    if not isinstance(padding, int) or isinstance(padding, bool) or padding < 0:
        refuse(where, "pad_token_id is not a token's id", "repair the model's folder")
    return padding


def _epsilon(config: Mapping[str, Any], where: str) -> float:
    epsilon = config.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        refuse(where, "layer_norm_eps is not a number between 0 and 1", "repair the model's folder")
    return epsilon


def _named(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the classes' names; those that `transformers` invents where the config names none that fit."""
    named = config.get("id2label")
    if isinstance(named, dict) and sorted(named) == sorted(str(index) for index in range(count)):
        return tuple(str(named[str(index)]) for index in range(count))
    return tuple(f"LABEL_{index}" for index in range(count))

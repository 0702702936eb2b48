"""The client's side of a text: tokens, embedding and its layer normalisation in the clear, padded to a public length.

Embedding tables and tokenizer are the client's to have. What the parties get are shares of the embedded text and of
what is added to the scores of each token: they learn the padded length, and neither the tokens nor how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_workloads.model_folder import refuse
from foedus_workloads.mpc.model.architecture import Architecture
from foedus_workloads.mpc.model.program import MIN_TOKENS, padded_length

# Added to the scores of padding: below every real score by more than the softmax's reach, as long as scores of a model
# lie within a few thousand of each other.
MASKED = -(2.0**14)
_PADDING_TOKENS = frozenset({"[PAD]", "<pad>"})


@dataclass(frozen=True)
class EmbeddedText:
    """A text as the encoder's first layer takes it, and what is added to the scores of each token."""

    values: Tensor = field(repr=False)  # tokens × hidden, float64
    mask: Tensor = field(repr=False)  # tokens, float64: 0 for a token, MASKED for padding

    @property
    def tokens(self) -> int:
        """The padded length, which is public."""
        return int(self.values.shape[0])


@dataclass(frozen=True)
class Embeddings:
    """Tokenizer and tables with which a client embeds its texts."""

    architecture: Architecture
    tensors: Mapping[str, Tensor] = field(repr=False)
    tokenizer: Any = field(repr=False)

    def encode(self, text: str, tokens: int | None = None) -> EmbeddedText:
        """Return the text embedded and padded; raises InvalidInput, which does not cite it, if it is too long."""
        sizes = self.architecture
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            _refuse_text("the text holds half a surrogate pair", "save it as valid Unicode")
        ids = list(self.tokenizer.encode(text).ids)
        most = sizes.positions if tokens is None else min(tokens, sizes.positions)
        if len(ids) > most:
            _refuse_text(f"the text has {len(ids)} tokens, {most} are taken", "shorten it")
        length = padded_length(max(len(ids), MIN_TOKENS), sizes.positions) if tokens is None else most
        mask = torch.zeros(length, dtype=torch.float64)
        mask[len(ids) :] = MASKED
        return EmbeddedText(self._embedded(ids, length), mask)

    def _embedded(self, ids: list[int], length: int) -> Tensor:
        sizes, missing = self.architecture, length - len(ids)
        word, position, kind = (
            self.tensors[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        rows = torch.arange(length) + sizes.first_position
        if sizes.kind == "roberta":
            rows[len(ids) :] = sizes.padding  # its padding has a row of its own
        words = torch.tensor([*ids, *[sizes.padding] * missing])
        total = word[words].double() + position[rows].double() + kind[0].double()
        weight, bias = (self.tensors[f"embeddings.LayerNorm.{part}"].double() for part in ("weight", "bias"))
        return torch.nn.functional.layer_norm(total, (sizes.hidden,), weight, bias, sizes.epsilon)


def _refuse_text(what: str, cure: str) -> NoReturn:
    raise InvalidInput(what, where="text", cure=cure, code=ExitCode.INVALID_DATA)


def check_vocabulary(tokenizer: Any, sizes: Architecture, folder: Path) -> None:
    """Raise InvalidInput unless every token that the tokenizer makes has a row in the model's table."""
    words = tokenizer.get_vocab_size()
    if words > sizes.vocabulary:
        refuse(
            str(folder),
            f"the tokenizer has {words} tokens, the model's table {sizes.vocabulary} rows",
            "take tokenizer.json and weights from the same model",
        )
    if tokenizer.id_to_token(sizes.padding) not in _PADDING_TOKENS:
        refuse(
            str(folder),
            f"the token {sizes.padding} is not the tokenizer's padding (pad_token_id)",
            "take tokenizer.json and config.json from the same model",
        )

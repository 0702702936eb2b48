"""The adapted model: a frozen BERT classifier with LoRA factors in its last layers and one trained linear head.

Trained are, for each adapted module, B (outputs × rank) and A (rank × inputs), added as alpha/rank · B·A, and the
head (labels × hidden, and one bias a label). Pooler and everything below stay frozen; there is no dropout.

With the plan's `query_damping` λ the last layer's query has one rank more, which is fixed: it lowers the query q that
the first token makes of its usual input x by λ q, so that attention spreads over the text instead of resting on a few
marks. x and q are the empty text's at the bare base model, so public.

The one order of a round's vector: the active factor of each adapted module, layer by layer in the order of
`foedus_contract.size`, each row by row; then the head's weight row by row; then its bias.

The head's part is in centred coordinates: scores = W (z − c) + β b', where c is public: the mean pooled output of the
job's public records at the start, or of the empty text where there are none. It is broadcast with the adapter.
Pooled outputs share a large constant part, on which a clipped gradient would spend its norm instead of on what tells
the classes apart; β < 1 keeps the bias, which every example pulls at, from taking the rest.
`add` turns a step (ΔW, Δb') into the plain head's: ΔW, Δb = β Δb' − ΔW c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch
from torch import Tensor

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import LoraPlan, ModelPlan
from foedus_workloads.training.base import BaseModel, check_base, check_plan
from foedus_workloads.training.bert import QUERY, load_classifier, load_tokenizer

Floats = npt.NDArray[np.float32]

ADAPTER = "default"  # the name under which peft keeps the one adapter
HEAD_WEIGHT, HEAD_BIAS, HEAD_CENTRE = "head.weight", "head.bias", "head.centre"
BIAS_SCALE = 0.1  # β
# With no LoRA asked for, peft still needs one adapted module to save the head with: its trained rank's B stays zero.
HEAD_ONLY = LoraPlan(rank=1, alpha=1, target_modules=("query",), last_layers=1)


@dataclass(frozen=True)
class Encoded:
    """Activations below what is adapted, one row a text, with the attention mask (1 where a token is).

    What only the first token needs is kept of it alone: see `AdaptedModel.kept_tokens`.
    """

    hidden: Tensor  # count × kept tokens × hidden size
    mask: Tensor  # count × kept tokens

    @property
    def count(self) -> int:
        """How many texts these are."""
        return int(self.hidden.shape[0])

    def rows(self, start: int, size: int) -> Encoded:
        """Return `size` rows from `start`, filled up with null records (all zero, first token visible)."""
        hidden, mask = self.hidden[start : start + size], self.mask[start : start + size]
        missing = size - hidden.shape[0]
        if missing == 0:
            return Encoded(hidden, mask)
        null_mask = mask.new_zeros((missing, mask.shape[1]))
        null_mask[:, 0] = 1
        return Encoded(
            torch.cat([hidden, hidden.new_zeros((missing, *hidden.shape[1:]))]), torch.cat([mask, null_mask])
        )


@dataclass(frozen=True)
class AdaptedModule:
    """One adapted linear module: its name, peft's two factor modules, and how many of their ranks are trained."""

    name: str
    A: torch.nn.Linear
    B: torch.nn.Linear
    rank: int

    def trained(self, factor: str) -> Tensor:
        """Return a view of the trained ranks of a factor: rows of A, columns of B."""
        return self.A.weight[: self.rank] if factor == "A" else self.B.weight[:, : self.rank]


class AdaptedModel:
    """A base model with its adapter; the adapter's values change, everything else is fixed at loading."""

    def __init__(self, base: BaseModel, plan: ModelPlan, peft_model: Any, tokenizer: Any) -> None:
        self.base = base
        self.plan = plan
        self.peft = peft_model
        self._tokenizer = tokenizer
        self._classifier = peft_model.get_base_model()
        self._bert = self._classifier.bert
        lora = plan.lora or HEAD_ONLY
        self._first_adapted = base.layers if plan.lora is None else base.layers - lora.last_layers
        self.modules = tuple(self._adapted(name) for name, _, _ in base.adapted_modules(lora))
        inside = any(".attention.self." in module.name for module in self.modules)
        self._after_attention = lora.last_layers == 1 and not inside
        self.head: torch.nn.Linear = self._classifier.classifier.modules_to_save[ADAPTER]
        self.centre = torch.zeros(base.hidden)

    @classmethod
    def load(cls, path: Path, plan: ModelPlan, seed: int) -> Self:
        """Load the base model of `plan` from `path` with a fresh adapter.

        A is drawn from `seed`, B and the head are zero.
        """
        base = check_base(path)
        check_plan(base, plan)
        lora = plan.lora or HEAD_ONLY
        model = cls(base, plan, load_classifier(base, plan, lora), load_tokenizer(base, plan.max_tokens))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in model.modules:
                # Rows of unit length on average, so that the scale of x·Aᵀ does not depend on the module's width.
                weight = module.A.weight
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
                module.B.weight.zero_()
            model.head.weight.zero_()
            model.head.bias.zero_()
            if plan.query_damping > 0:
                model._damp_query(lora)
            model.centre.copy_(model._pooled(model.encode([""], batch=1))[0])
        return model

    @property
    def factors(self) -> tuple[str, ...]:
        """The active factors in the order in which rounds take them."""
        return ("None",) if self.plan.lora is None else ("B", "A")

    def factor_of_round(self, number: int) -> str:
        """Return the active factor of round `number`: B first, since A has no gradient while B is zero."""
        return self.factors[number % len(self.factors)]

    def coordinates(self, factor: str) -> int:
        """Return the length of a round's vector."""
        return sum(parameter.numel() for _, parameter in self._active(factor))

    @property
    def trainable_parameters(self) -> int:
        """How many numbers the rounds can change."""
        return sum({name: part.numel() for factor in self.factors for name, part in self._active(factor)}.values())

    def head_coordinates(self) -> int:
        """Return how many of the last coordinates of every round's vector belong to the head."""
        return self.head.weight.numel() + self.head.bias.numel()

    def add(self, factor: str, update: npt.NDArray[np.floating]) -> None:
        """Add a vector in the module's one order, the head's part in centred coordinates."""
        sizes = [parameter.numel() for _, parameter in self._active(factor)]
        parts = torch.split_with_sizes(torch.from_numpy(np.asarray(update, dtype=np.float32)), sizes)
        *others, bias = parts
        with torch.no_grad():
            for (_, parameter), part in zip(self._active(factor), [*others, BIAS_SCALE * bias], strict=True):
                parameter.add_(part.reshape(parameter.shape))
            self.head.bias.sub_(others[-1].reshape(self.head.weight.shape) @ self.centre)

    def adapter(self) -> dict[str, Floats]:
        """Return a copy of the adapter's tensors by name, the head's centre among them."""
        return {name: parameter.detach().numpy().copy() for name, parameter in self._named()}

    def load_adapter(self, tensors: Mapping[str, Floats]) -> None:
        """Replace the adapter; raises InvalidInput unless names, shapes and types are the model's and all is finite."""
        own = dict(self._named())
        if set(tensors) != set(own):
            raise _bad_adapter("its tensors have other names")
        for name, parameter in own.items():
            value = tensors[name]
            if value.dtype != np.float32 or value.shape != tuple(parameter.shape):
                raise _bad_adapter(f"{name} has another shape or type")
            if not np.isfinite(value).all():
                raise _bad_adapter(f"{name} is not finite")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(tensors[name])))

    def adapter_bytes(self) -> bytes:
        """Return the adapter as safetensors; the same values give the same bytes."""
        return bytes(safetensors.numpy.save(self.adapter()))

    def load_adapter_bytes(self, payload: bytes) -> None:
        """Replace the adapter by one that `adapter_bytes` wrote; raises InvalidInput on anything else."""
        try:
            tensors = safetensors.numpy.load(payload)
        except (safetensors.SafetensorError, ValueError, KeyError):
            raise _bad_adapter("it is not safetensors") from None
        self.load_adapter(tensors)

    @property
    def kept_tokens(self) -> int:
        """How many vectors of a text are kept.

        All tokens' for an adapted attention; the first token's and its attention's outcome where only what follows the
        last layer's attention is adapted; the first token's at the pooler for a head alone.
        """
        if self.plan.lora is None:
            return 1
        return 2 if self._after_attention else self.plan.max_tokens

    def encoded_bytes(self, count: int) -> int:
        """Return the memory that `count` encoded texts take."""
        return count * self.kept_tokens * self.base.hidden * 4  # float32

    def encode(self, texts: Sequence[str], *, batch: int, report: Callable[[int, int], None] | None = None) -> Encoded:
        """Tokenise at the fixed length and run everything below what is adapted, `batch` texts at a time.

        The last batch is padded to the same size, so that a text's activations do not depend on how many there are.
        `report` is told (texts done, texts in all) after each batch.
        """
        parts = []
        for start in range(0, len(texts), batch):
            parts.append(self._encode_batch(texts[start : start + batch], batch))
            if report is not None:
                report(min(start + batch, len(texts)), len(texts))
        return Encoded(torch.cat([part.hidden for part in parts]), torch.cat([part.mask for part in parts]))

    def logits(self, encoded: Encoded) -> Tensor:
        """Return the class scores of already encoded texts, with the graph that gradients need."""
        return self.head(self._pooled(encoded))  # type: ignore[no-any-return]

    def scores(self, encoded: Encoded, *, batch: int) -> Tensor:
        """Return the class scores without a graph, `batch` texts at a time."""
        return _in_batches(self.logits, encoded, batch)

    def centre_on(self, encoded: Encoded, *, batch: int) -> None:
        """Move the head's centre to the mean pooled output of public texts; the scores stay as they are."""
        self.centre.copy_(_in_batches(self._pooled, encoded, batch).mean(dim=0))

    def _damp_query(self, lora: LoraPlan) -> None:
        """Set the fixed rank of the last layer's query: A x = 1 and s·B = −λ q at the empty text's first token."""
        module = next(module for module in self.modules if module.name.endswith(f"{self.base.layers - 1}.{QUERY}"))
        first = self._run([""], self.base.layers - 1).hidden[0, 0]
        query = self._bert.encoder.layer[-1].attention.self.query.base_layer(first)
        module.A.weight[-1] = first / first.square().sum()
        module.B.weight[:, -1] = -self.plan.query_damping * query * lora.rank / lora.alpha

    def _pooled(self, encoded: Encoded) -> Tensor:
        """Return the pooler's output; it reads the first token alone, so the last layer is run for that one."""
        hidden, last = encoded.hidden, self._bert.encoder.layer[-1]
        if self.plan.lora is None:
            return self._bert.pooler(hidden)  # type: ignore[no-any-return]
        if self._after_attention:
            first, context = hidden[:, :1], hidden[:, 1:]
        else:
            mask = _additive(encoded.mask)
            for layer in self._bert.encoder.layer[self._first_adapted : -1]:
                hidden = layer(hidden, mask)
            first, context = hidden[:, :1], _first_context(last, hidden, mask)
        return self._bert.pooler(last.feed_forward_chunk(last.attention.output(context, first)))  # type: ignore[no-any-return]

    def _encode_batch(self, texts: Sequence[str], batch: int) -> Encoded:
        encoded = self._run([*texts, *[""] * (batch - len(texts))], self._first_adapted)
        if self.kept_tokens < self.plan.max_tokens:
            kept = [encoded.hidden[:, :1]]
            if self.plan.lora is not None:
                with torch.no_grad():
                    last, mask = self._bert.encoder.layer[-1], _additive(encoded.mask)
                    kept.append(_first_context(last, encoded.hidden, mask))
            encoded = Encoded(torch.cat(kept, dim=1), encoded.mask[:, : len(kept)].clone())
        return encoded.rows(0, len(texts))

    def _run(self, texts: Sequence[str], layers: int) -> Encoded:
        """Return what leaves the first `layers` layers."""
        encodings = self._tokenizer.encode_batch(list(texts))
        ids = torch.tensor([encoding.ids for encoding in encodings])
        mask = torch.tensor([encoding.attention_mask for encoding in encodings])
        additive = _additive(mask)
        with torch.no_grad():
            hidden = self._bert.embeddings(input_ids=ids)
            for layer in self._bert.encoder.layer[:layers]:
                hidden = layer(hidden, additive)
        return Encoded(hidden, mask)

    def _adapted(self, name: str) -> AdaptedModule:
        module = self._bert.get_submodule(name)
        return AdaptedModule(name, module.lora_A[ADAPTER], module.lora_B[ADAPTER], (self.plan.lora or HEAD_ONLY).rank)

    def _active(self, factor: str) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, parameter) of a round's vector, in its order."""
        if factor not in self.factors:
            raise InvalidInput(f"the factor {factor!r} is not trained by this plan", where="attempt")
        if self.plan.lora is not None:
            for module in self.modules:
                yield f"{module.name}.{factor}", module.trained(factor)
        yield HEAD_WEIGHT, self.head.weight
        yield HEAD_BIAS, self.head.bias

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, parameter) of all that the adapter consists of."""
        if self.plan.lora is not None:
            for module in self.modules:
                yield f"{module.name}.A", module.A.weight
                yield f"{module.name}.B", module.B.weight
        yield HEAD_WEIGHT, self.head.weight
        yield HEAD_BIAS, self.head.bias
        yield HEAD_CENTRE, self.centre


def _in_batches(compute: Callable[[Encoded], Tensor], encoded: Encoded, batch: int) -> Tensor:
    """Return a row a text; the last batch is filled up with null records, whose rows are cut off."""
    with torch.no_grad():
        parts = [compute(encoded.rows(start, batch)) for start in range(0, encoded.count, batch)]
    return torch.cat(parts)[: encoded.count]


def _additive(mask: Tensor) -> Tensor:
    """Return the mask as BERT adds it to attention scores: 0 where a token is, the lowest number elsewhere."""
    return (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


def _first_context(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return what the first token's attention of a BERT layer gathers: keys and values come from all tokens."""
    attention = layer.attention.self
    heads = (attention.num_attention_heads, attention.attention_head_size)
    first = hidden[:, :1]
    query = attention.query(first).unflatten(-1, heads).transpose(1, 2)
    key = attention.key(hidden).unflatten(-1, heads).transpose(1, 2)
    value = attention.value(hidden).unflatten(-1, heads).transpose(1, 2)
    weights = torch.softmax(query @ key.transpose(2, 3) * attention.scaling + mask, dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)  # type: ignore[no-any-return]


def _bad_adapter(what: str) -> InvalidInput:
    return InvalidInput(
        f"the adapter does not fit the model: {what}",
        where="adapter",
        cure="coordinator and silos must run the same plan and version",
        code=ExitCode.INVALID_MODEL,
    )

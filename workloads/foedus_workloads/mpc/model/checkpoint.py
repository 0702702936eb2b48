"""A model as its owner has it: read from its folder, checked by name and shape, an adapter merged in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foedus_contract.canonical import digest
from foedus_workloads.model_folder import (
    ORIGIN_FILE,
    WEIGHT_TYPES,
    WEIGHTS_FILE,
    Origin,
    base_digest,
    open_tokenizer,
    read_config,
    refuse,
    safetensors_header,
)
from foedus_workloads.mpc.model.adapter import Adapter, read_adapter, read_tensors
from foedus_workloads.mpc.model.architecture import HEADS, KINDS, Architecture, Kind, read_architecture
from foedus_workloads.mpc.model.program import MIN_TOKENS, compile_program
from foedus_workloads.mpc.model.text import EmbeddedText, Embeddings, check_vocabulary

_NO_HEAD = "the model has no classification head"


@dataclass(frozen=True)
class PlainModel:
    """A model in the clear: for its owner, and for a client the part of it that embeds texts."""

    architecture: Architecture
    digest: str
    tensors: Mapping[str, Tensor] = field(repr=False)  # by name, as the checkpoint has them, adapter merged
    tokenizer: Any = field(repr=False)

    def encode_text(self, text: str, tokens: int | None = None) -> EmbeddedText:
        """Return the text as the client shares it, padded to `tokens`, or to the length that its own asks for.

        Raises InvalidInput for a text that is longer.
        """
        return Embeddings(self.architecture, self.tensors, self.tokenizer).encode(text, tokens)


@dataclass(frozen=True)
class _Folder:
    """What a model's folder and an adapter's hold, before weights are loaded."""

    base: Path
    digest: str  # of the base model
    architecture: Architecture
    names: Mapping[str, str]  # in the weights file, by the name below the encoder's prefix
    adapter: Adapter | None


def check_model(base: Path, adapter: Path | None = None) -> Architecture:
    """Return the architecture of a model that can be compiled; raises InvalidInput naming what cannot."""
    return _check(base, adapter).architecture


def read_model(base: Path, adapter: Path | None = None) -> PlainModel:
    """Read the model in `base` with the adapter merged in; raises InvalidInput naming what is not supported."""
    folder = _check(base, adapter)
    sizes = folder.architecture
    tokenizer = open_tokenizer(base)
    check_vocabulary(tokenizer, sizes, base)
    tensors = _load(folder)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            refuse(str(base), f"the tensor {name} is not finite", "take a complete copy of the model")
    files: dict[str, Any] = {"base": folder.digest, "adapter": dict(folder.adapter.digests) if folder.adapter else None}
    return PlainModel(sizes, digest("foedus/mpc/model", files), tensors, tokenizer)


def _check(base: Path, adapter_path: Path | None) -> _Folder:
    kind: Kind = read_config(base, KINDS)["model_type"]
    adapter = read_adapter(adapter_path, kind) if adapter_path else None
    file = base / WEIGHTS_FILE
    header = safetensors_header(file)
    names = {name.removeprefix(f"{kind}."): name for name in header if name != "__metadata__"}
    shapes = {inner: _shape(header[name], inner, file) for inner, name in names.items()}
    if adapter is not None:
        shapes |= {name: tuple(tensor.shape) for name, tensor in adapter.replaced.items()}
    count = _count_labels(shapes, kind, file)
    found = base_digest(base)
    origin = adapter.origin if adapter else None
    if adapter is not None and origin is not None:
        _check_origin(origin, adapter.path / ORIGIN_FILE, found, count)
    sizes = read_architecture(base, count, origin.labels if origin else None)
    wanted = dict(wanted_tensors(sizes))
    for name, shape in wanted.items():
        if shapes.get(name) != shape:
            _refuse_tensor(file, name, shapes.get(name), shape)
    if adapter is not None:
        _check_adapter(adapter, wanted)
    return _Folder(base, found, sizes, names, adapter)


def _check_origin(origin: Origin, file: Path, base: str, count: int) -> None:
    if len(origin.labels) != count:
        what = f"the adapter names {len(origin.labels)} labels, its head has {count}"
        refuse(str(file), what, "take a complete copy of the adapter")
    if origin.base_model != base:
        what = f"the adapter was trained on {origin.base_model}, the model is {base}"
        refuse(str(file), what, "name the model that the adapter's README.md names")


def wanted_tensors(sizes: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (name, shape) of all that inference reads, as a checkpoint has it: linear weights are outputs × inputs."""
    yield "embeddings.word_embeddings.weight", (sizes.vocabulary, sizes.hidden)
    yield "embeddings.position_embeddings.weight", (sizes.positions + sizes.first_position, sizes.hidden)
    yield "embeddings.token_type_embeddings.weight", (sizes.token_types, sizes.hidden)
    yield "embeddings.LayerNorm.weight", (sizes.hidden,)
    yield "embeddings.LayerNorm.bias", (sizes.hidden,)
    for secret in compile_program(sizes, MIN_TOKENS).weights:
        yield secret.name, secret.shape[::-1]


def _shape(entry: Mapping[str, Any], name: str, file: Path) -> tuple[int, ...]:
    if entry.get("dtype") not in WEIGHT_TYPES:
        return ()  # positions' ids and the like; what is wanted has a shape
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
        refuse(str(file), f"the tensor {name} has no shape", "take a complete copy of the model")
    return tuple(shape)


def _count_labels(shapes: Mapping[str, tuple[int, ...]], kind: Kind, file: Path) -> int:
    """Return how many classes the head has; raises InvalidInput when there is none."""
    name = f"{HEADS[kind][1]}.weight"
    shape = shapes.get(name, ())
    if len(shape) != 2:
        refuse(str(file), f"{_NO_HEAD} ({name})", "name an adapter that brings one, or a fine-tuned model")
    return shape[0]


def _check_adapter(adapter: Adapter, wanted: Mapping[str, tuple[int, ...]]) -> None:
    for name in adapter.replaced:
        if name not in wanted:
            refuse(str(adapter.path), f"the adapter's tensor {name} is not supported", "use plain LoRA with a head")
    for module, factors in adapter.factors.items():
        name, shape = f"{module}.weight", (factors.b.shape[0], factors.a.shape[1])
        if name not in wanted or ".LayerNorm" in name or name.startswith("embeddings."):
            refuse(str(adapter.path), f"the adapted module {module} is not supported", "use LoRA on linear maps")
        if wanted[name] != shape:
            _refuse_tensor(adapter.path, module, shape, wanted[name])


def _refuse_tensor(file: Path, name: str, found: tuple[int, ...] | None, wanted: tuple[int, ...]) -> None:
    shape = "×".join(map(str, wanted))
    what = f"the tensor {name} is missing" if not found else f"the tensor {name} is {'×'.join(map(str, found))}"
    refuse(str(file), f"{what}, wanted in floating point and of shape {shape}", "take a complete copy of the model")


def _load(folder: _Folder) -> dict[str, Tensor]:
    stored = read_tensors(folder.base / WEIGHTS_FILE)
    adapter = folder.adapter
    replaced = adapter.replaced if adapter else {}
    tensors = {}
    for name, _ in wanted_tensors(folder.architecture):
        tensors[name] = replaced[name] if name in replaced else stored[folder.names[name]]
    for module, factors in adapter.factors.items() if adapter else ():
        tensors[f"{module}.weight"] = factors.merged(tensors[f"{module}.weight"])
    return tensors

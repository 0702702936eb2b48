"""A LoRA adapter as `peft` writes it: merged into the weights in float64, before anything is shared.

What an adapter's config asks for beyond plain LoRA is refused by its name: merged otherwise than it was trained, it
would give other answers without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from foedus_workloads.model_folder import (
    WEIGHT_TYPES,
    Origin,
    file_digests,
    read_json,
    read_origin,
    refuse,
    safetensors_header,
)

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of all names in peft's file
_FACTORS = {".lora_A.weight": "A", ".lora_B.weight": "B"}
# Settings that change what the factors mean, with the values that leave it as it is.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (None, False),
    "use_rslora": (None, False),
    "use_qalora": (None, False),
    "use_bdlora": (None, False),
    "fan_in_fan_out": (None, False),
    "lora_bias": (None, False),
    "alora_invocation_tokens": (None,),
    "layer_replication": (None,),
    "target_parameters": (None,),
    "trainable_token_indices": (None,),
}
# A pattern's words as peft matches them, literal but for the escaped dots: no expression of a file is run.
_PATTERN = re.compile(r"[A-Za-z0-9_]+(\\?\.[A-Za-z0-9_]+)*")


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to one weight: scale B A."""

    a: Tensor = field(repr=False)
    b: Tensor = field(repr=False)
    scale: float

    def merged(self, weight: Tensor) -> Tensor:
        """Return the weight with the product added, in float64."""
        return weight.double() + self.scale * (self.b.double() @ self.a.double())


@dataclass(frozen=True)
class Adapter:
    """An adapter's factors by module, the tensors that it replaces (its head), its files' digests, its origin."""

    path: Path
    factors: Mapping[str, Factors]
    replaced: Mapping[str, Tensor] = field(repr=False)
    digests: Mapping[str, str]
    origin: Origin | None


def read_adapter(folder: Path, kind: str) -> Adapter:
    """Read the adapter in `folder` for a model of `kind`; raises InvalidInput naming what is not supported."""
    config = read_json(folder / ADAPTER_CONFIG)
    _check_settings(config, folder / ADAPTER_CONFIG)
    file = folder / ADAPTER_WEIGHTS
    for name, entry in safetensors_header(file).items():
        if name != "__metadata__" and entry.get("dtype") not in WEIGHT_TYPES:
            refuse(str(file), f"the tensor {name} is not floating point", "use an adapter as peft writes it")
    factors: dict[str, dict[str, Tensor]] = {}
    replaced = {}
    for name, tensor in read_tensors(file).items():
        inner = name.removeprefix(_PREFIX).removeprefix(f"{kind}.")
        ending = next((ending for ending in _FACTORS if inner.endswith(ending)), None)
        if ending is None:
            replaced[inner] = tensor
        else:
            factors.setdefault(inner.removesuffix(ending), {})[_FACTORS[ending]] = tensor
    merged = {module: _factors(module, parts, config, file) for module, parts in factors.items()}
    digests = file_digests(folder, (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    return Adapter(folder, merged, replaced, digests, read_origin(folder))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return all tensors of a file whose header has been checked; raises InvalidInput if it is broken all the same."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, OSError):
        refuse(str(file), "the weights file is broken", "take a complete copy of it")


def _check_settings(config: Mapping[str, Any], file: Path) -> None:
    for name, values in _NEUTRAL.items():
        if not any(config.get(name) is value or config.get(name) == value for value in values):
            refuse(str(file), f"{name} {config.get(name)!r} is not supported", "use plain LoRA without these settings")


def _factors(module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], file: Path) -> Factors:
    if set(parts) != {"A", "B"} or any(part.ndim != 2 for part in parts.values()):
        refuse(str(file), f"{module} lacks one of its two factors", "use an adapter as peft writes it")
    rank = _setting("rank_pattern", "r", module, config, file)
    alpha = _setting("alpha_pattern", "lora_alpha", module, config, file)
    if (parts["A"].shape[0], parts["B"].shape[1]) != (rank, rank):
        refuse(str(file), f"{module} has factors of another rank than {rank:g}", "use an adapter as peft writes it")
    return Factors(parts["A"], parts["B"], alpha / rank)


def _setting(patterns: str, default: str, module: str, config: Mapping[str, Any], file: Path) -> float:
    """Return a module's rank or alpha: that of the first pattern that fits, else the adapter's own."""
    chosen = config.get(default)
    for pattern, value in (config.get(patterns) or {}).items():
        if not _PATTERN.fullmatch(pattern):
            refuse(
                str(file.parent / ADAPTER_CONFIG),
                f"the pattern {pattern!r} in {patterns} is not supported",
                "name modules, or their last parts",
            )
        words = pattern.replace("\\.", ".")
        if module == words or module.endswith(f".{words}"):
            chosen = value
            break
    if isinstance(chosen, bool) or not isinstance(chosen, int | float) or chosen <= 0:
        refuse(str(file.parent / ADAPTER_CONFIG), f"{default} is not a positive number", "repair the adapter's folder")
    return chosen

"""The base model: where it lies, whether it can be adapted, and the digest that names it.

Nothing of the model's folder is executed: only BERT's own code from `transformers` runs, weights come from
safetensors, the tokenizer from tokenizer.json. No training framework is imported here.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from foedus_contract.exit_codes import ExitCode
from foedus_contract.paths import locate
from foedus_contract.plan import LoraPlan, ModelPlan
from foedus_contract.run_spec import ModelSource
from foedus_contract.size import Modules, adapted_by, bert_modules, named_by
from foedus_workloads.model_folder import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHT_TYPES,
    WEIGHTS_FILE,
    base_digest,
    both_parts,
    encoder_tensors,
    positive,
    read_config,
    read_json,
    refuse,
    safetensors_header,
)


@dataclass(frozen=True)
class BaseModel:
    """A checked base model: its folder, digest, and the sizes that the plan's arithmetic needs."""

    path: Path
    digest: str
    hidden: int
    intermediate: int
    layers: int
    positions: int

    @property
    def modules(self) -> Modules:
        """Return the linear maps of one layer."""
        return bert_modules(self.hidden, self.intermediate)

    def adapted_modules(self, lora: LoraPlan) -> tuple[tuple[str, int, int], ...]:
        """Return (name, outputs, inputs) of each adapted linear module, in the order of the gradient vector.

        Raises InvalidInput for a target that matches nothing.
        """
        for target in lora.target_modules:
            if not named_by(target, self.modules):
                refuse(
                    "spec.lora.targetModules",
                    f"{target!r} is not a module that LoRA can adapt",
                    "choose from query, key, value, attention.output.dense, intermediate.dense, output.dense",
                )
        if lora.last_layers > self.layers:
            refuse(
                "spec.lora.lastLayers",
                f"{lora.last_layers} layers are to be adapted, the model has {self.layers}",
                "lower it",
            )
        return tuple(
            (f"encoder.layer.{layer}.{path}", outputs, inputs)
            for layer in range(self.layers - lora.last_layers, self.layers)
            for path, (inputs, outputs) in adapted_by(lora, self.modules).items()
        )


def resolve(source: ModelSource, root: Path | None) -> Path:
    """Return the folder of the base model, executing nothing; raises InvalidInput when there is none."""
    if (source.path is None) == (source.package is None):
        refuse("model source", "exactly one of path and package is needed", "give one of them", ExitCode.INVALID_SPEC)
    if source.path is not None:
        folder = locate(source.path, root=root)
    else:
        folder = _inside_package(str(source.package), source.package_path)
    if not folder.is_dir():
        refuse(str(folder), "the base model's folder does not exist", "check spec.model.source")
    return folder


def check_base(path: Path) -> BaseModel:
    """Check that `path` holds an adaptable BERT with safetensors and tokenizer, and return it with its digest."""
    config = read_config(path, ("bert",))
    sizes = {
        "hidden": positive(config, "hidden_size", path),
        "intermediate": positive(config, "intermediate_size", path),
        "layers": positive(config, "num_hidden_layers", path),
        "positions": positive(config, "max_position_embeddings", path),
    }
    _check_weights(path, config)
    read_json(path / TOKENIZER_FILE)
    return BaseModel(path=path, digest=base_digest(path), **sizes)


def check_plan(base: BaseModel, model: ModelPlan) -> None:
    """Raise InvalidInput unless `base` is the model that the plan names and can be adapted as it says."""
    if base.digest != model.digest:
        refuse(
            str(base.path),
            f"the base model is {base.digest}, the plan was made for {model.digest}",
            "use the same model files everywhere",
        )
    if model.max_tokens > base.positions:
        refuse(
            "spec.model.maxTokens",
            f"{model.max_tokens} tokens are asked for, the model takes {base.positions}",
            "lower it",
        )
    if model.lora is not None:
        base.adapted_modules(model.lora)


def _inside_package(package: str, inside: str) -> Path:
    parts = PurePosixPath(inside)
    if parts.is_absolute() or ".." in parts.parts:
        refuse(
            "spec.model.source.package.path",
            "not a folder inside the package",
            "write it relative, without '..'",
            ExitCode.INVALID_SPEC,
        )
    try:
        distribution = importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        refuse("spec.model.source.package", f"the package {package!r} is not installed", f"pip install {package}")
    config = parts / CONFIG_FILE
    # The package's own file list decides, so that its name cannot stand for another package's folder.
    if not any(PurePosixPath(file) == config for file in distribution.files or ()):
        refuse(
            "spec.model.source.package.path",
            f"the package {package!r} holds no {config}",
            "name the folder with config.json",
        )
    return Path(str(distribution.locate_file(str(parts))))


def _check_weights(path: Path, config: Mapping[str, Any]) -> None:
    """Check by its header that the weights file is whole and holds every tensor of the encoder and the pooler."""
    file = path / WEIGHTS_FILE
    header = safetensors_header(file)
    prefix = "bert." if any(name.startswith("bert.") for name in header) else ""
    for name in encoder_tensors(int(config["num_hidden_layers"])) + both_parts(["pooler.dense"]):
        entry = header.get(prefix + name)
        if not isinstance(entry, dict) or entry.get("dtype") not in WEIGHT_TYPES:
            refuse(str(file), f"the tensor {name} is missing or not floating point", "use a complete BertModel")

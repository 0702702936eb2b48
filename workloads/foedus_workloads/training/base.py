"""The base model: where it lies, whether it can be adapted, and the digest that names it.

Nothing of the model's folder is executed: only BERT's own code from `transformers` runs, weights come from
safetensors, the tokenizer from tokenizer.json. No training framework is imported here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from foedus_contract.canonical import digest
from foedus_contract.durable import read_at_most
from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.paths import locate
from foedus_contract.plan import LoraPlan, ModelPlan
from foedus_contract.run_spec import ModelSource
from foedus_contract.size import Modules, adapted_by, bert_modules, named_by

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
MAX_JSON_BYTES = 64 * 1024 * 1024  # a tokenizer of 250,000 words is below 20 MiB
MAX_SAFETENSORS_HEADER = 100_000_000  # the safetensors format's own bound
WEIGHT_TYPES = frozenset({"F32", "F16", "BF16"})


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
                _refuse(
                    "spec.lora.targetModules",
                    f"{target!r} is not a module that LoRA can adapt",
                    "choose from query, key, value, attention.output.dense, intermediate.dense, output.dense",
                )
        if lora.last_layers > self.layers:
            _refuse(
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
        _refuse("model source", "exactly one of path and package is needed", "give one of them", ExitCode.INVALID_SPEC)
    if source.path is not None:
        folder = locate(source.path, root=root)
    else:
        folder = _inside_package(str(source.package), source.package_path)
    if not folder.is_dir():
        _refuse(str(folder), "the base model's folder does not exist", "check spec.model.source")
    return folder


def check_base(path: Path) -> BaseModel:
    """Check that `path` holds an adaptable BERT with safetensors and tokenizer, and return it with its digest."""
    config = _config(path)
    sizes = {
        "hidden": _positive(config, "hidden_size", path),
        "intermediate": _positive(config, "intermediate_size", path),
        "layers": _positive(config, "num_hidden_layers", path),
        "positions": _positive(config, "max_position_embeddings", path),
    }
    _check_weights(path, config)
    _read_json(path / TOKENIZER_FILE)
    parts = {name: _file_digest(path / name) for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE)}
    return BaseModel(path=path, digest=digest("foedus/model", parts), **sizes)


def check_plan(base: BaseModel, model: ModelPlan) -> None:
    """Raise InvalidInput unless `base` is the model that the plan names and can be adapted as it says."""
    if base.digest != model.digest:
        _refuse(
            str(base.path),
            f"the base model is {base.digest}, the plan was made for {model.digest}",
            "use the same model files everywhere",
        )
    if model.max_tokens > base.positions:
        _refuse(
            "spec.model.maxTokens",
            f"{model.max_tokens} tokens are asked for, the model takes {base.positions}",
            "lower it",
        )
    if model.lora is not None:
        base.adapted_modules(model.lora)


def _inside_package(package: str, inside: str) -> Path:
    parts = PurePosixPath(inside)
    if parts.is_absolute() or ".." in parts.parts:
        _refuse(
            "spec.model.source.package.path",
            "not a folder inside the package",
            "write it relative, without '..'",
            ExitCode.INVALID_SPEC,
        )
    try:
        distribution = importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        _refuse("spec.model.source.package", f"the package {package!r} is not installed", f"pip install {package}")
    config = parts / CONFIG_FILE
    # The package's own file list decides, so that its name cannot stand for another package's folder.
    if not any(PurePosixPath(file) == config for file in distribution.files or ()):
        _refuse(
            "spec.model.source.package.path",
            f"the package {package!r} holds no {config}",
            "name the folder with config.json",
        )
    return Path(str(distribution.locate_file(str(parts))))


def _config(path: Path) -> Mapping[str, Any]:
    config = _read_json(path / CONFIG_FILE)
    where = str(path / CONFIG_FILE)
    if config.get("model_type") != "bert":
        _refuse(where, "the base model is not BERT (model_type)", "use a BERT model such as MiniLM")
    for field, wanted in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    ):
        if config.get(field, wanted) != wanted:
            _refuse(where, f"{field} must be {json.dumps(wanted)}", "use a plain BERT encoder")
    for field in ("auto_map", "quantization_config"):
        if field in config:
            _refuse(where, f"{field} is not supported", "use a plain BERT encoder in floating point")
    return config


def _positive(config: Mapping[str, Any], field: str, path: Path) -> int:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _refuse(str(path / CONFIG_FILE), f"{field} is not a positive integer", "repair the model's folder")
    return value


def _check_weights(path: Path, config: Mapping[str, Any]) -> None:
    """Check by its header that the weights file is whole and holds every tensor of the encoder and the pooler."""
    file = path / WEIGHTS_FILE
    header = _safetensors_header(file)
    prefix = "bert." if any(name.startswith("bert.") for name in header) else ""
    for name in _needed(int(config["num_hidden_layers"])):
        entry = header.get(prefix + name)
        if not isinstance(entry, dict) or entry.get("dtype") not in WEIGHT_TYPES:
            _refuse(str(file), f"the tensor {name} is missing or not floating point", "use a complete BertModel")


def _safetensors_header(file: Path) -> dict[str, Any]:
    cure = f"the folder must hold a complete {WEIGHTS_FILE}; other formats can run code and are not read"
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_SAFETENSORS_HEADER):
                _refuse(str(file), "the weights file is cut off or not safetensors", cure)
            header = json.loads(stream.read(length))
        if not isinstance(header, dict):
            raise ValueError("not an object")
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except OSError:
        _refuse(str(file), "the weights file cannot be read", cure)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        _refuse(str(file), "the weights file's header is broken", cure)
    if not ends or max(ends) != size - 8 - length:
        _refuse(str(file), "the weights file is cut off", cure)
    return header


def _needed(layers: int) -> list[str]:
    """Return the names of all weights and biases of a BertModel with pooler."""
    linears, norms = bert_modules(1, 1), ["attention.output.LayerNorm", "output.LayerNorm"]  # by name alone
    modules = ["embeddings.LayerNorm", "pooler.dense"]
    modules += [f"encoder.layer.{layer}.{path}" for layer in range(layers) for path in [*linears, *norms]]
    tables = [f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    return tables + [f"{module}.{part}" for module in modules for part in ("weight", "bias")]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        text = read_at_most(file, MAX_JSON_BYTES)
        if len(text) > MAX_JSON_BYTES:
            _refuse(str(file), f"the file is larger than {MAX_JSON_BYTES} bytes", "the base model's folder is damaged")
        value = json.loads(text)
    except OSError:
        _refuse(str(file), "the file cannot be read", "the base model's folder is incomplete")
    except (ValueError, RecursionError):
        _refuse(str(file), "the file is not valid JSON", "the base model's folder is damaged")
    if not isinstance(value, dict):
        _refuse(str(file), "the file is not a JSON object", "the base model's folder is damaged")
    return value


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _refuse(where: str, what: str, cure: str, code: ExitCode = ExitCode.INVALID_MODEL) -> NoReturn:
    raise InvalidInput(what, where=where, cure=cure, code=code)

"""A model's folder as it is published: config, weights and tokenizer, read as data; nothing in it is executed.

What trains and what infers read the same folders, by the same checks. No training framework is imported here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import Field

from foedus_contract import limits
from foedus_contract.canonical import digest
from foedus_contract.durable import read_at_most
from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.models import ContractModel, Digest, Label
from foedus_contract.size import bert_modules

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
ORIGIN_FILE = "foedus.json"  # of an adapter: what peft does not keep
MAX_JSON_BYTES = 64 * 1024 * 1024  # a tokenizer of 250,000 words is below 20 MiB
MAX_SAFETENSORS_HEADER = 100_000_000  # the safetensors format's own bound
WEIGHT_TYPES = frozenset({"F32", "F16", "BF16"})
NAMES = {"bert": "BERT", "roberta": "RoBERTa"}  # by model_type, as people write them
NORMS = ("attention.output.LayerNorm", "output.LayerNorm")  # of one layer


def read_config(path: Path, kinds: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the folder's config; raises InvalidInput unless it is a plain encoder of one of `kinds` (model_type)."""
    config = read_json(path / CONFIG_FILE)
    where = str(path / CONFIG_FILE)
    if config.get("model_type") not in kinds:
        names = " or ".join(NAMES[kind] for kind in kinds)
        found = json.dumps(config.get("model_type"))
        refuse(where, f"the base model is not {names} (model_type {found})", f"use a {names} model such as MiniLM")
    for field, wanted in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    ):
        if config.get(field, wanted) != wanted:
            refuse(where, f"{field} must be {json.dumps(wanted)}", "use a plain BERT encoder")
    for field in ("auto_map", "quantization_config"):
        if field in config:
            refuse(where, f"{field} is not supported", "use a plain BERT encoder in floating point")
    return config


def positive(config: Mapping[str, Any], field: str, path: Path) -> int:
    """Return a positive integer of the config."""
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        refuse(str(path / CONFIG_FILE), f"{field} is not a positive integer", "repair the model's folder")
    return value


def encoder_tensors(layers: int) -> list[str]:
    """Return the names of all tensors of an encoder, which BERT and RoBERTa name alike below their prefix."""
    modules = ["embeddings.LayerNorm"]
    linears = bert_modules(1, 1)  # by name alone
    modules += [f"encoder.layer.{layer}.{path}" for layer in range(layers) for path in [*linears, *NORMS]]
    tables = [f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    return tables + both_parts(modules)


def both_parts(modules: list[str]) -> list[str]:
    """Return the names of the modules' weights and biases."""
    return [f"{module}.{part}" for module in modules for part in ("weight", "bias")]


def safetensors_header(file: Path) -> dict[str, Any]:
    """Return the file's header after checking that the file is whole."""
    cure = f"the folder must hold a complete {file.name}; other formats can run code and are not read"
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_SAFETENSORS_HEADER):
                refuse(str(file), "the weights file is cut off or not safetensors", cure)
            header = json.loads(stream.read(length))
        if not isinstance(header, dict):
            raise ValueError("not an object")
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except OSError:
        refuse(str(file), "the weights file cannot be read", cure)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        refuse(str(file), "the weights file's header is broken", cure)
    if not ends or max(ends) != size - 8 - length:
        refuse(str(file), "the weights file is cut off", cure)
    return header


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`, of a bounded size."""
    value = _parsed(file)
    if not isinstance(value, dict):
        refuse(str(file), "the file is not a JSON object", "the model's folder is damaged")
    return value


class Origin(ContractModel):
    """What an adapter's folder says beside peft's files: its classes in the order of the head's rows, its base model.

    `base_model` is the digest that `base_digest` gives: merged into another model, an adapter answers nonsense.
    """

    labels: Annotated[tuple[Label, ...], Field(min_length=1, max_length=limits.MAX_LABELS)]
    base_model: Digest


def read_origin(folder: Path) -> Origin | None:
    """Return what an adapter's folder says of it, None where peft alone has written it."""
    file = folder / ORIGIN_FILE
    if not file.exists():
        return None
    try:
        return Origin.from_json(json.dumps(_parsed(file)))
    except InvalidInput as error:
        refuse(str(file), f"the file is damaged ({error.what})", "take a complete copy of the adapter")


def base_digest(folder: Path) -> str:
    """Return the digest that names a base model: of its config, weights and tokenizer."""
    return digest("foedus/model", file_digests(folder, (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE)))


def _parsed(file: Path) -> Any:
    try:
        text = read_at_most(file, MAX_JSON_BYTES)
        if len(text) > MAX_JSON_BYTES:
            refuse(str(file), f"the file is larger than {MAX_JSON_BYTES} bytes", "the model's folder is damaged")
        return json.loads(text)
    except OSError:
        refuse(str(file), "the file cannot be read", "the model's folder is incomplete")
    except (ValueError, RecursionError):
        refuse(str(file), "the file is not valid JSON", "the model's folder is damaged")


def open_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer, which cuts and pads nothing; raises InvalidInput if it is broken."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception:  # noqa: BLE001 - the library raises bare Exception
        refuse(str(folder), "tokenizer.json cannot be loaded", "take a complete copy of the model")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def file_digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Return the SHA-256 of each file, in hex; raises InvalidInput for one that cannot be read."""
    digests = {}
    for name in names:
        try:
            with (folder / name).open("rb") as stream:
                digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            refuse(str(folder / name), "the file cannot be read", "take a complete copy of the model")
    return digests


def refuse(where: str, what: str, cure: str, code: ExitCode = ExitCode.INVALID_MODEL) -> NoReturn:
    """Raise InvalidInput about a model."""
    raise InvalidInput(what, where=where, cure=cure, code=code)

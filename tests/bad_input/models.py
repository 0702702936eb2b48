"""What can be wrong with a base model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bad_input.command_line import E, case, change, model_is


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def own_code(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text("utf-8").replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1), "utf-8")


MODEL = (
    case(
        "no such package",
        change(model__source={"package": {"name": "no-such-model"}}),
        E.INVALID_MODEL,
        "error: InvalidModel: spec.model.source.package: the package 'no-such-model' is not installed; pip install no-such-model",
    ),
    case(
        "no such volume",
        change(model__source={"persistentVolumeClaim": {"claimName": "nowhere"}}),
        E.INVALID_MODEL,
        "error: InvalidModel: spec.model.source.persistentVolumeClaim: no volume nowhere; make a folder of that name below --volumes",
    ),
    case(
        "no model folder",
        model_is(shutil.rmtree),
        E.INVALID_MODEL,
        "error: InvalidModel: …/volumes/base/model/config.json: the file cannot be read; the model's folder is incomplete",
    ),
    case(
        "weights cut off",
        model_is(truncated),
        E.INVALID_MODEL,
        "error: InvalidModel: …/volumes/base/model/model.safetensors: the weights file is cut off; the folder must hold a complete model.safetensors; other formats can run code and are not read",
    ),
    case(
        "pickled weights only",
        model_is(pickle_only),
        E.INVALID_MODEL,
        "error: InvalidModel: …/volumes/base/model/model.safetensors: the weights file cannot be read; the folder must hold a complete model.safetensors; other formats can run code and are not read",
    ),
    case(
        "a model that brings code of its own",
        model_is(own_code),
        E.INVALID_MODEL,
        "error: InvalidModel: …/volumes/base/model/config.json: auto_map is not supported; use a plain BERT encoder in floating point",
    ),
    case(
        "not a PEFT target",
        change(lora__targetModules=["qkv_proj"]),
        E.INVALID_MODEL,
        "error: InvalidModel: spec.lora.targetModules: 'qkv_proj' is no linear layer of the base model; choose from query, key, value, attention.output.dense, intermediate.dense, output.dense",
    ),
    case(
        "more layers to adapt than there are",
        change(lora__lastLayers=3),
        E.INVALID_MODEL,
        "error: InvalidModel: spec.lora.lastLayers: 3 is more than the 2 layers of the base model; lower it",
    ),
    case(
        "more tokens than the model takes",
        change(model__maxTokens=128),
        E.INVALID_MODEL,
        "error: InvalidModel: spec.model.maxTokens: 128 tokens are asked for, the base model takes 64; lower it",
    ),
)

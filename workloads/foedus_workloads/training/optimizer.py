"""The coordinator's optimiser: heavy-ball momentum on the noisy mean, post-processing that costs no privacy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from foedus_contract.plan import OptimizerPlan

Floats = npt.NDArray[np.float64]
HEAD = "head"


@dataclass(frozen=True)
class ServerOptimizer:
    """Learning rates and one velocity a block: each LoRA factor keeps its own, the head's is updated in every round."""

    plan: OptimizerPlan
    head_coordinates: int
    velocity: Mapping[str, Floats]

    @classmethod
    def fresh(cls, plan: OptimizerPlan, head_coordinates: int) -> Self:
        """Return an optimiser that has not moved yet."""
        return cls(plan, head_coordinates, {})

    def moving(self, velocity: Mapping[str, Floats]) -> Self:
        """Return the optimiser with the velocities of an earlier process."""
        return replace(self, velocity=dict(velocity))

    def step(self, factor: str, mean: Floats, *, progress: float) -> tuple[Self, Floats]:
        """Return (next optimiser, update to add) for the mean gradient of `factor` and the head.

        Per block: v ← momentum·v + mean, update = −rate·v. Rates are scaled from 1 at `progress` 0, the first round,
        linearly to the plan's end factor at 1, the last.
        """
        cut = len(mean) - self.head_coordinates
        lora = self._moved(factor, mean[:cut])
        head = self._moved(HEAD, mean[cut:])
        update = np.concatenate([-self.plan.learning_rate * lora, -self.plan.head_learning_rate * head])
        fall = 1 + (self.plan.end_factor - 1) * progress
        return replace(self, velocity={**self.velocity, factor: lora, HEAD: head}), fall * update

    def _moved(self, block: str, mean: Floats) -> Floats:
        before = self.velocity.get(block)
        return mean.copy() if before is None else self.plan.momentum * before + mean

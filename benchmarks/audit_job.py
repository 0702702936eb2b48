"""What a whole job releases whose records say nothing: the shipped coordinator and silos, over TLS, with ledgers.

Only the gradient is replaced, by zero, and the model is tiny: so what the coordinator applies is noise alone. All run
as tasks of this process; a silo's driver decides when noise is drawn, and for which attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from tests.support.training_world import World, build_world

from foedus_contract.plan import LoraPlan
from foedus_workloads.privacy.noise import Sampler
from foedus_workloads.privacy.quantise import from_ring
from foedus_workloads.training.job_effects import ApplySum
from foedus_workloads.training.local_step import LocalStep

Integers = npt.NDArray[np.int64]
SILOS = 5
RANK = 16  # some thousand coordinates a round


def noise_of_a_job(folder: Path, rounds: int, sampler: Callable[[], Sampler]) -> tuple[Integers, float]:
    """Run a job of `rounds`; return what was released, rounds × coordinates, and the standard deviation promised."""
    world = build_world(folder, silos=SILOS, rounds=rounds, spare=0)
    model = world.plan.model.model_copy(
        update={"lora": LoraPlan(rank=RANK, alpha=RANK, target_modules=("query", "value"), last_layers=1)}
    )
    world = replace(world, plan=world.plan.model_copy(update={"model": model}))
    released: list[Integers] = []

    def watch(effect: object) -> None:
        if isinstance(effect, ApplySum):
            released.append(from_ring(effect.total))

    with patch.object(LocalStep, "integer_sum", _nothing):
        asyncio.run(_run(replace(world, around=replace(world.around, watch=watch)), sampler))
    noise = np.stack(released)  # query and value are square, so both factors have as many coordinates
    return noise, world.plan.share_scale(noise.shape[1]) * SILOS**0.5


async def _run(world: World, sampler: Callable[[], Sampler]) -> None:
    silos = [world.client(silo, sampler=sampler()) for silo in world.silos]
    await asyncio.gather(world.coordinator(), world.publish_policy(), *silos)


def _nothing(step: LocalStep, factor: str) -> Integers:
    return np.zeros(step._model.coordinates(factor), dtype=np.int64)

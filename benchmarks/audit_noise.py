"""The noise of a release as it comes out of the whole path, against what the plan promises; and broken builds.

Records without any gradient: clipping, rounding, a silo's noise share, masks, dropouts and unmasking are the production
code, so what is released is noise alone. They are called one after the other in memory, by the driver that the tests of
secure aggregation have, with the numbers of silos, colluders and losses that matter; and a whole job with drivers,
ledgers and connections releases its rounds (`audit_job`). What comes out is put to two tests:

variance  the sum of squares over its promised variance is χ² with one degree a coordinate (the fourth moment of a
          discrete Gaussian this wide is the normal one's);
shape     counts in cells of equal probability under the rounded normal, which a sum of discrete Gaussians of more
          than 64 grid units is to within 1e-300 a coordinate (`foedus_ledger.gap`), by Pearson's χ².

The promise counts n_min shares, so the tests are run where exactly these are left: all silos that may be lost are
lost, and the colluders among the survivors add nothing. A retry is tested through the difference of two attempts.
Each broken build is an effect that a test injects; no setting of the product leads there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, norm
from tests.support.secagg_world import make_world, outcome, play

from benchmarks.audit_job import noise_of_a_job
from benchmarks.harness import Benchmark, Outcome
from foedus_contract.plan import TrainingPlan, min_honest_for, threshold_for
from foedus_contract.scale import finest_grid
from foedus_ledger.calibration import calibrate
from foedus_workloads.privacy.clipping import clip_rows
from foedus_workloads.privacy.noise import OpenDpSampler, Sampler
from foedus_workloads.privacy.quantise import from_ring, quantise_rows
from foedus_workloads.secagg.effects import Released
from foedus_workloads.training.local_step import noised

Integers = npt.NDArray[np.int64]
COORDINATES = 1 << 17
SILOS, COLLUDERS, ATTEMPTS, RECORDS = 10, 1, 21, 170
CELLS = 256
CAUGHT = 1e-6
JOB_ROUNDS = 96  # of 1,090 coordinates: above 10⁵
JOB_ROUNDS_BROKEN = 4
GONE_BEFORE_UPLOAD = 2  # the stage at which a silo that is lost has no part in the sum


def audit_plan(noise: str = "Distributed", coordinates: int = COORDINATES, silos: int = SILOS) -> TrainingPlan:
    """Return a plan at ε = 1, calibrated and put on the grid as the engine does."""
    threshold = threshold_for(silos)
    honest = min_honest_for(noise, threshold, COLLUDERS)  # type: ignore[arg-type]
    found = calibrate(1.0, 1e-5, ATTEMPTS)
    grid = finest_grid(found.noise_multiplier, silos, honest, coordinates, silos * RECORDS)
    return TrainingPlan.model_validate(
        {
            "namespace": "default",
            "job": "audit",
            "uid": "audit",
            "rounds": ATTEMPTS - 1,
            "spareAttempts": 1,
            "seed": 1,
            "microBatch": 32,
            "model": {"digest": "sha256:" + "0" * 64, "labels": ("a", "b"), "maxTokens": 32, "lora": None},
            "optimizer": {"learningRate": 1, "headLearningRate": 1, "momentum": 0},
            "privacy": {
                "epsilon": 1,
                "delta": 1e-5,
                "clip": 1,
                "noiseMultiplier": found.noise_multiplier,
                "gridPerClip": grid,
                "threshold": threshold,
                "colluders": COLLUDERS,
                "minHonest": honest,
                "epsilonPld": found.epsilon_pld,
                "epsilonRdp": found.epsilon_rdp,
                "noise": noise,
            },
            "deadlines": {"joinSeconds": 60, "stageSeconds": 60, "computeSeconds": 60},
            "silos": [
                {"name": f"silo-{n:02d}", "dataDigest": f"sha256:{n:064}", "records": RECORDS}
                for n in range(1, silos + 1)
            ],
        }
    )


@dataclass(frozen=True)
class Quarter:
    """A build that draws with a quarter of the scale."""

    sampler: Sampler

    def __call__(self, scale: float, count: int) -> Integers:
        """Return noise of a quarter of `scale`."""
        return self.sampler(scale / 4, count)


@dataclass(frozen=True)
class Remembering:
    """A build that keeps its noise and uses it again."""

    sampler: Sampler
    kept: dict[tuple[float, int], Integers] = field(default_factory=dict)

    def __call__(self, scale: float, count: int) -> Integers:
        """Return the same noise to the same question."""
        if (scale, count) not in self.kept:
            self.kept[scale, count] = self.sampler(scale, count)
        return self.kept[scale, count]


def silent(scale: float, count: int) -> Integers:
    """Return no noise: what a colluder adds."""
    return np.zeros(count, dtype=np.int64)


def release(
    plan: TrainingPlan, coordinates: int, samplers: Mapping[str, Sampler], lost: int, attempt: int = 0
) -> Integers:
    """Return what one attempt releases when the last `lost` silos go before they upload and no record says anything."""
    privacy, names = plan.privacy, [silo.name for silo in plan.silos]
    rows = clip_rows(np.zeros((2, coordinates), dtype=np.float32), privacy.clip)
    total = quantise_rows(
        rows, clip=privacy.clip, grid_per_clip=privacy.grid_per_clip, sensitivity=plan.sensitivity(coordinates)
    ).sum(axis=0)
    present = names[: len(names) - lost]
    vectors = {name: noised(total, plan, samplers[name]) for name in present}
    world = make_world(silos=len(names), coordinates=coordinates, attempt=attempt)
    padding = {name: np.zeros(coordinates, dtype=np.uint32) for name in names[len(names) - lost :]}  # never sent
    ended = outcome(play(replace(world, vectors={**vectors, **padding}), dict.fromkeys(padding, GONE_BEFORE_UPLOAD)))
    assert isinstance(ended, Released)
    assert list(ended.survivors) == present
    return from_ring(ended.total)


def variance_chance(noise: Integers, scale: float) -> float:
    """Return the two-sided chance of a sum of squares as far off as this one if the standard deviation is `scale`."""
    statistic = float(((noise / scale) ** 2).sum())
    return float(min(1.0, 2 * min(chi2.cdf(statistic, len(noise)), chi2.sf(statistic, len(noise)))))


def shape_chance(noise: Integers, scale: float) -> float:
    """Return the chance of so uneven counts in cells of equal probability under the rounded normal of `scale`."""
    edges = np.floor(norm.ppf(np.arange(1, CELLS) / CELLS, scale=scale)) + 0.5  # no integer lies on an edge
    chances = np.diff(norm.cdf(edges, scale=scale), prepend=0.0, append=1.0)
    counts = np.bincount(np.searchsorted(edges, noise), minlength=CELLS)
    expected = chances * len(noise)
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), CELLS - 1))


@dataclass(frozen=True)
class Found:
    """What was released without any gradient, and the standard deviation that was promised for it."""

    noise: Integers
    scale: float

    @property
    def chance(self) -> float:
        """Return the smaller chance of the two tests."""
        return min(variance_chance(self.noise, self.scale), shape_chance(self.noise, self.scale))

    @property
    def variance(self) -> float:
        """Return the variance over the promised one."""
        return float(((self.noise / self.scale) ** 2).mean())


def right_releases(coordinates: int, silos: int = SILOS) -> dict[str, Found]:
    """Return what comes out where no more is missing than the plan allows for."""
    spread, local = audit_plan("Distributed", coordinates, silos), audit_plan("Local", coordinates, silos)
    first, *others = honest = honest_samplers(spread)
    share, promised = spread.share_scale(coordinates), promised_scale(spread, coordinates)
    both = [release(spread, coordinates, honest, 0, attempt) for attempt in (0, 1)]
    return {
        "all silos": Found(both[0], share * silos**0.5),
        "n_min honest shares": Found(
            release(spread, coordinates, colluding(honest, COLLUDERS), silos - spread.privacy.threshold), promised
        ),
        "difference of an attempt and its retry": Found(both[0] - both[1], share * (2 * silos) ** 0.5),
        "Local, one honest share": Found(
            release(local, coordinates, {first: honest[first], **dict.fromkeys(others, silent)}, 0),
            promised_scale(local, coordinates),
        ),
    }


def broken_releases(coordinates: int, silos: int = SILOS) -> dict[str, Found]:
    """Return what comes out of builds that draw too little, too few or the same noise."""
    plan = audit_plan("Distributed", coordinates, silos)
    honest = honest_samplers(plan)
    share, promised = plan.share_scale(coordinates), promised_scale(plan, coordinates)
    lost = silos - plan.privacy.threshold
    quarter = {name: Quarter(sampler) for name, sampler in colluding(honest, COLLUDERS).items()}
    remembering = {name: Remembering(sampler) for name, sampler in honest.items()}
    reused = [release(plan, coordinates, remembering, 0, attempt) for attempt in (0, 1)]
    return {
        "σ/4": Found(release(plan, coordinates, quarter, lost), promised),
        "one share missing": Found(release(plan, coordinates, colluding(honest, COLLUDERS + 1), lost), promised),
        "noise reused on retry": Found(reused[0] - reused[1], share * (2 * silos) ** 0.5),
    }


def job_releases(folder: Path, rounds: int) -> tuple[dict[str, Found], dict[str, Found]]:
    """Return what whole jobs release: that of the shipped build, and those of builds that draw too little or once."""
    noise, scale = noise_of_a_job(folder / "right", rounds, OpenDpSampler)
    half = len(noise) // 2
    right = {
        "a whole job": Found(noise.reshape(-1), scale),
        "differences of a whole job's rounds": Found(
            (noise[:half] - noise[half : 2 * half]).reshape(-1), scale * 2**0.5
        ),
    }
    quarter, _ = noise_of_a_job(folder / "quarter", JOB_ROUNDS_BROKEN, lambda: Quarter(OpenDpSampler()))
    again, _ = noise_of_a_job(folder / "again", JOB_ROUNDS_BROKEN, lambda: Remembering(OpenDpSampler()))
    half = JOB_ROUNDS_BROKEN // 2
    return right, {
        "a whole job, σ/4": Found(quarter.reshape(-1), scale),
        "a whole job, noise reused": Found((again[:half] - again[half:]).reshape(-1), scale * 2**0.5),
    }


def honest_samplers(plan: TrainingPlan) -> dict[str, Sampler]:
    """Return the production sampler for every silo."""
    return {silo.name: OpenDpSampler() for silo in plan.silos}


def colluding(samplers: Mapping[str, Sampler], count: int) -> dict[str, Sampler]:
    """Return the samplers with the first `count` silent."""
    return {name: silent if number < count else sampler for number, (name, sampler) in enumerate(samplers.items())}


def promised_scale(plan: TrainingPlan, coordinates: int) -> float:
    """Return σΔ: the standard deviation that ε stands for, in grid units."""
    return plan.privacy.noise_multiplier * plan.sensitivity(coordinates)


def measure(folder: Path) -> Outcome:
    """Put right arrangements and broken builds to the tests; the value is the broken builds' largest chance."""
    right, broken = job_releases(folder, JOB_ROUNDS)
    right |= right_releases(COORDINATES)
    broken |= broken_releases(COORDINATES)
    return Outcome(
        value=max(found.chance for found in broken.values()),
        met=min(found.chance for found in right.values()) > CAUGHT,
        details={
            "coordinates": COORDINATES,
            "coordinatesOfTheJob": len(right["a whole job"].noise),
            "silos": SILOS,
            "cells": CELLS,
            "tests": "variance (χ²) and shape (Pearson's χ²); the smaller chance is given, 0 below 1e-300",
            "right": {name: _shown(found) for name, found in right.items()},
            "broken": {name: _shown(found) for name, found in broken.items()},
        },
    )


def _shown(found: Found) -> dict[str, float]:
    return {"chance": found.chance, "varianceOverPromised": found.variance}


BENCHMARK = Benchmark(
    name="audit-noise",
    shows="zero sums come out of a whole job, and of secure aggregation with silos lost and colluding, as the promised "
    "noise by a variance and a χ² test; builds with too little or reused noise are caught",
    unit="chance",
    target=CAUGHT,
    bound="at most",
    measure=measure,
)

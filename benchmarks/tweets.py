"""Tweets under ε = 1: what LoRA reaches, the head alone, LoRA with noise that trusts nobody, and without privacy."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import yaml

from benchmarks.bbc import Manifest, Trained, foedus, head_alone, train, with_lora
from benchmarks.harness import Benchmark, Outcome
from benchmarks.non_private import train_without_privacy

EXAMPLE = Path("examples/tweets.yaml")
SEEDS = (1, 2, 3)
SILOS, EACH = 10, 3_000
MOST_SECONDS = 20 * 60  # of one job, on two cores


def local_noise(manifest: Manifest, seed: int) -> Manifest:
    """Return the example with another training seed and all noise drawn by each silo."""
    changed = with_lora(manifest, seed)
    spec = changed["spec"]
    return {**changed, "spec": {**spec, "privacy": {**spec["privacy"], "noise": "Local"}}}


ARMS: dict[str, Callable[[Manifest, int], Manifest]] = {
    "lora": with_lora,
    "headAlone": head_alone,
    "localNoise": local_noise,
}


def measure(folder: Path) -> Outcome:
    """Run all arms for each seed, each on a fresh state folder, and the reference without privacy.

    A seed fixes the split into silos and held-out texts and the start of the adapter; the noise is never seeded.
    """
    return measured(folder, yaml.safe_load(EXAMPLE.read_text("utf-8")), SEEDS, EACH)


def measured(folder: Path, manifest: Manifest, seeds: tuple[int, ...], each: int) -> Outcome:
    """Measure `manifest` with `each` texts a silo."""
    runs: dict[str, list[Trained]] = {arm: [] for arm in ARMS}
    free: list[float] = []
    for seed in seeds:
        place = folder / f"volumes-{seed}"
        size = ["--silos", str(SILOS), "--each", str(each)]
        foedus("data", "split", "tweets", *size, "--seed", str(seed), "--out", str(place))
        for arm, variant in ARMS.items():
            runs[arm].append(train(variant, manifest, seed, place, folder / f"{arm}-{seed}"))
        free.append(train_without_privacy(manifest, seed, place))
    means = {arm: statistics.fmean(run.accuracy for run in found) for arm, found in runs.items()}
    slowest = max(run.seconds for found in runs.values() for run in found)
    smallest = min(norm for run in runs["lora"] for norm in run.update_norms.values())
    return Outcome(
        value=means["lora"] - means["headAlone"],
        met=smallest > 0 and slowest <= MOST_SECONDS,
        details={
            "seeds": seeds,
            "silos": SILOS,
            "textsEach": each,
            "state": "a fresh state folder and fresh budgets for every run",
            **{arm: [run.accuracy for run in found] for arm, found in runs.items()},
            "withoutPrivacy": free,
            "means": {**means, "withoutPrivacy": statistics.fmean(free)},
            "epsilonSpent": {arm: [run.epsilon for run in found] for arm, found in runs.items()},
            "seconds": {arm: [run.seconds for run in found] for arm, found in runs.items()},
            "smallestUpdateNorm": smallest,
        },
    )


BENCHMARK = Benchmark(
    name="tweets",
    shows="how much LoRA gains over the head alone at ε = 1 on ten silos of tweets; beside local noise and no privacy",
    unit="accuracy",
    target=0.02,
    bound="at least",
    measure=measure,
)

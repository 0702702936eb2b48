"""BBC news under ε = 1: what LoRA and the head reach, the head alone, and both without privacy."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.numpy import load_file

from benchmarks.harness import Benchmark, Outcome
from benchmarks.non_private import train_without_privacy

EXAMPLE = Path("examples/bbc-news.yaml")
SEEDS = (1, 2, 3, 4, 5)
SILOS = 10
BELOW_HEAD = 0.02  # LoRA may lose this much to the head alone on so small a corpus

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """What one `foedus run` ended with. `update_norms` are the ‖BA‖ of the adapted modules' trained ranks."""

    accuracy: float
    epsilon: float
    update_norms: Mapping[str, float]
    seconds: float


def with_lora(manifest: Manifest, seed: int) -> Manifest:
    """Return the example with another training seed."""
    spec = manifest["spec"]
    return {**manifest, "spec": {**spec, "training": {**spec["training"], "seed": seed}}}


def head_alone(manifest: Manifest, seed: int) -> Manifest:
    """Return the example with another training seed and without LoRA; what is fixed of the model stays."""
    changed = with_lora(manifest, seed)
    return {**changed, "spec": {key: value for key, value in changed["spec"].items() if key != "lora"}}


def measure(folder: Path) -> Outcome:
    """Run both arms for each seed, each on a fresh state folder, and the reference without privacy.

    A seed fixes the split into silos and held-out texts and the start of the adapter; the noise is never seeded.
    """
    manifest = yaml.safe_load(EXAMPLE.read_text("utf-8"))
    volumes = {seed: folder / f"volumes-{seed}" for seed in SEEDS}
    for seed, place in volumes.items():
        foedus("data", "split", "bbc-news", "--silos", str(SILOS), "--seed", str(seed), "--out", str(place))
    lora = [train(with_lora, manifest, seed, volumes[seed], folder / f"lora-{seed}") for seed in SEEDS]
    head = [train(head_alone, manifest, seed, volumes[seed], folder / f"head-{seed}") for seed in SEEDS]
    free = [train_without_privacy(manifest, seed, volumes[seed]) for seed in SEEDS]
    value = statistics.fmean(run.accuracy for run in lora)
    head_value = statistics.fmean(run.accuracy for run in head)
    smallest = min(norm for run in lora for norm in run.update_norms.values())
    adapted = {name.rpartition(".")[2] for name in lora[0].update_norms}
    return Outcome(
        value=value,
        met=smallest > 0 and adapted >= {"query", "value"} and head_value - value <= BELOW_HEAD,
        details={
            "seeds": SEEDS,
            "state": "a fresh state folder and fresh budgets for every run",
            "lora": [run.accuracy for run in lora],
            "headAlone": [run.accuracy for run in head],
            "withoutPrivacy": free,
            "headAloneMean": head_value,
            "withoutPrivacyMean": statistics.fmean(free),
            "belowHead": head_value - value,
            "epsilonSpent": [run.epsilon for run in lora],
            "adaptedModules": sorted(lora[0].update_norms),
            "smallestUpdateNorm": smallest,
        },
    )


def train(
    variant: Callable[[Manifest, int], Manifest], manifest: Manifest, seed: int, volumes: Path, folder: Path
) -> Trained:
    """Run one variant of the example by the command line, as a user would."""
    folder.mkdir()
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(dict(variant(manifest, seed)), allow_unicode=True), "utf-8")
    data = [part for silo in sorted(volumes.glob("silo-*/train.jsonl")) for part in ("--data", str(silo))]
    state = ["--state", str(folder / "state")]
    foedus("budget", "create", *data, "--epsilon", "1", "--delta", "1e-5", *state)
    out = folder / "result"
    begin = time.monotonic()
    lines = foedus("run", "-f", str(file), "--volumes", str(volumes), "--out", str(out), "--output", "json", *state)
    result = next(line for line in map(json.loads, lines) if line["event"] == "Result")
    rank = manifest["spec"]["lora"]["rank"]
    return Trained(result["accuracy"], result["epsilonSpent"], update_norms(out, rank), time.monotonic() - begin)


def update_norms(folder: Path, rank: int) -> Mapping[str, float]:
    """Return ‖BA‖ over the first `rank` ranks, those that are trained, of each module of the adapter in `folder`."""
    tensors = load_file(folder / "adapter_model.safetensors")
    norms = {}
    for name, factor in tensors.items():
        if ".lora_A." in name:
            other = tensors[name.replace(".lora_A.", ".lora_B.")]
            norms[name.partition(".lora_A.")[0]] = float(((other[:, :rank] @ factor[:rank]) ** 2).sum() ** 0.5)
    return norms


def foedus(*arguments: str) -> list[str]:
    """Run the command line and return the lines it printed; its own error line says what went wrong."""
    command = [sys.executable, "-c", "from foedus.main import main; main()", *arguments]
    print("foedus", *arguments, file=sys.stderr, flush=True)
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


BENCHMARK = Benchmark(
    name="bbc",
    shows="accuracy of LoRA and head at ε = 1 over ten silos of BBC news, beside the head alone and no privacy",
    unit="accuracy",
    target=0.90,
    bound="at least",
    measure=measure,
)

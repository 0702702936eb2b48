"""BERT-base at 128 tokens, answered in private by Foedus, SPU and CrypTen in turn, on the same model and text.

Foedus: `foedus infer --local`'s own path, three party processes with mutual TLS, two texts a turn; the seconds are a
client's, from sharing the embedded text to the opened logits. SPU 0.9.5: ABY3 in its simulator, three threads of one
process that exchange memory; as it compiles the model, with its own GELU and with the formula of Foedus, and once more
with what Foedus's compiler finds by itself: after the last attention one token is left, scores are divided by sqrt(d)
in the query's weights, and softmax inverts a row's sum once. CrypTen 0.4.1: two processes, gloo, its own provider, with
the first two of these. Of both only the computation is timed, not sharing, compiling or starting.

The arms take turns, never two at a time, and of each the fastest turn counts; a turn of Foedus is the mean of its
texts, the first of which comes to fresh processes as those of the other arms do. Wall time is what a user waits;
processor time, of all processes of an arm, is what other load on the machine disturbs less. Logits are held to float64.
The value is the seconds of SPU over those of Foedus, the smaller one of its own GELU and ours; what remains of it when
SPU is given the rest of the compiler's work is beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.arms.environment import make_environment, run_program
from benchmarks.harness import Benchmark, Outcome
from benchmarks.mpc_model import (
    MINILM,
    TOKENIZER,
    TOKENS,
    Activity,
    cut,
    make_model,
    measure_activity,
    minilm_activity,
    news,
    wanted_in,
    write_model,
)
from foedus.inference.local import Request, infer_local
from foedus.inference.meter import Meter
from foedus_ring import available
from foedus_workloads.mpc.model import PlainModel, compile_program
from foedus_workloads.mpc.model.evaluate import evaluate

TURNS, TEXTS_A_TURN = int(os.environ.get("TURNS", "2")), 2
SPU_TARGET, CRYPTEN_TARGET = 10.0, 4.0
MOST_BYTES = 2.2e9  # of memory at each party
LARGEST_ERROR = 0.05  # of a logit
OTHERWISE_ACTIVE = 0.01  # how far a layer's activity may be from the one wanted
SPU_ARMS = ("spu, its GELU", "spu, our GELU")  # as SPU compiles the model; these are held to the target
SPU_COMPILED = "spu, our GELU and compiler"
ARMS = ("foedus", *SPU_ARMS, SPU_COMPILED, "crypten")


@dataclass
class Found:
    """What an arm's turns have shown."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    logits: list[Sequence[float]] = field(default_factory=list)
    texts: list[float] = field(default_factory=list)  # seconds of each, where a turn has several

    def add(self, seconds: float, processor: float, *logits: Sequence[float]) -> None:
        """Note a turn: what an inference took in it, and what came of each."""
        self.seconds.append(seconds)
        self.processor.append(processor)
        self.logits += logits

    def row(self, exact: Sequence[float]) -> Mapping[str, Any]:
        """Return the arm's row of the report."""
        errors = [abs(got - want) for each in self.logits for got, want in zip(each, exact, strict=True)]
        finite = all(map(isfinite, errors))  # CrypTen's series may run away, and JSON has no infinity
        return {
            "seconds": self.seconds,
            **({"secondsByText": self.texts} if self.texts else {}),
            "processorSeconds": self.processor,
            "largestError": max(errors) if finite else None,
            "meanError": fmean(errors) if finite else None,
        }


@dataclass(frozen=True)
class Task:
    """The model and the text, as each arm takes them."""

    folder: Path
    model: PlainModel
    text: str
    wanted: Sequence[Activity]

    @property
    def arrays(self) -> Path:
        """The file of the other arms."""
        return self.folder / "model.npz"

    def exact(self) -> list[float]:
        """Return the logits in float64."""
        return evaluate(self.model, compile_program(self.model.architecture, TOKENS), self.model.encode_text(self.text))

    def activity(self) -> tuple[Activity, ...]:
        """Return what the model's layers show on the text."""
        return measure_activity(self.model, self.model.encode_text(self.text))


def make_task(folder: Path) -> Task:
    """Make the model, scaled to what MiniLM shows on news, and write it for all arms."""
    texts, tokenizer = news(folder / "news"), MINILM / TOKENIZER
    wanted = minilm_activity(texts, folder / "minilm")
    text = max(texts, key=len)
    model = make_model(text, wanted, tokenizer)
    write_model(model, tokenizer, folder / "bert")
    task = Task(folder, model, cut(model, text), wanted)
    np.savez(task.arrays, **arrays(task))
    return task


def arrays(task: Task) -> Mapping[str, Any]:
    """Return weights as inputs × outputs, the query's over sqrt(d), the embedded text, and sizes as JSON."""
    sizes = task.model.architecture
    public = {"layers": sizes.layers, "heads": sizes.heads, "epsilon": sizes.epsilon}
    size = sizes.hidden // sizes.heads
    weights = {}
    for name, tensor in task.model.tensors.items():
        if not name.startswith("embeddings."):
            scaled = tensor * size**-0.5 if ".query." in name else tensor
            weights[name] = (scaled.t() if scaled.dim() == 2 else scaled).contiguous().numpy()
    text = task.model.encode_text(task.text).values.numpy()
    return {**weights, "hidden": text, "sizes": np.frombuffer(json.dumps(public).encode(), np.uint8)}


def run_foedus(task: Task, found: Found, peaks: list[int]) -> None:
    """Answer the text TEXTS_A_TURN times by one start of the parties."""
    meter = Meter()
    request = Request((task.text,) * TEXTS_A_TURN, task.folder / "bert", None, task.folder / "state")
    asyncio.run(infer_local(request, meter, os.environ))
    peaks[:] = max(peaks, meter.peaks)
    seconds = [answer.seconds for answer in meter.answers]
    found.add(fmean(seconds), fmean(meter.processor), *(answer.logits for answer in meter.answers))
    found.texts += seconds


def run_other(task: Task, found: Found, python: Path, program: str, *arguments: str) -> None:
    """Run one of the other arms once."""
    result = run_program(python, program, task.arrays, *arguments, out=task.folder / "found.json")
    found.add(result["seconds"], result["processorSeconds"], result["logits"])


def measure(folder: Path) -> Outcome:
    """Let all arms take turns."""
    task, peaks = make_task(folder), list[int]()
    spu, crypten = make_environment("spu"), make_environment("crypten", with_ours=True)
    found = {name: Found() for name in ARMS}
    steps: dict[str, Callable[[Found], None]] = {
        "foedus": partial(run_foedus, task, peaks=peaks),
        SPU_ARMS[0]: lambda arm: run_other(task, arm, spu, "spu_bert.py", "own"),
        SPU_ARMS[1]: lambda arm: run_other(task, arm, spu, "spu_bert.py", "quartic"),
        SPU_COMPILED: lambda arm: run_other(task, arm, spu, "spu_bert.py", "all"),
        "crypten": lambda arm: run_other(task, arm, crypten, "crypten_bert.py"),
    }
    for turn in range(TURNS):
        for name in ARMS if turn % 2 else ARMS[::-1]:
            print(f"turn {turn + 1} of {TURNS}: {name}", file=sys.stderr, flush=True)
            steps[name](found[name])
    return _outcome(task, found, peaks)


def otherwise_active(shown: Sequence[Activity], wanted: Sequence[Activity]) -> float:
    """Return how far the layers' activity is from what was wanted, where it is farthest."""
    pairs = ((each, wanted_in(layer, wanted)) for layer, each in enumerate(shown))
    return max(
        abs(got - want) / want
        for each, asked in pairs
        for got, want in ((each.entropy, asked.entropy), (each.before_gelu, asked.before_gelu))
    )


def _outcome(task: Task, found: Mapping[str, Found], peaks: Sequence[int]) -> Outcome:
    exact = task.exact()
    rows = {name: arm.row(exact) for name, arm in found.items()}
    ratios = {
        kind: {name: min(row[kind]) / min(rows["foedus"][kind]) for name, row in rows.items() if name != "foedus"}
        for kind in ("seconds", "processorSeconds")
    }
    to_spu, shown = min(ratios["seconds"][name] for name in SPU_ARMS), task.activity()
    otherwise = otherwise_active(shown, task.wanted)
    met = (
        ratios["seconds"]["crypten"] >= CRYPTEN_TARGET
        and rows["foedus"]["largestError"] <= LARGEST_ERROR
        and max(peaks) <= MOST_BYTES
        and otherwise <= OTHERWISE_ACTIVE
    )
    details = {
        "arms": rows,
        "toFoedus": ratios,
        "cryptenTarget": CRYPTEN_TARGET,
        "logits": exact,
        "ringPath": available()[0],
        "peakBytes": list(peaks),
        "mostBytes": MOST_BYTES,
        "activity": [{"entropy": each.entropy, "beforeGelu": each.before_gelu} for each in shown],
        "otherwiseActive": otherwise,
        "activityOfMiniLM": [{"entropy": each.entropy, "beforeGelu": each.before_gelu} for each in task.wanted],
    }
    return Outcome(value=to_spu, met=met, details=details)


BENCHMARK = Benchmark(
    name="mpc-bert",
    shows="a private inference of BERT-base at 128 tokens: seconds of SPU 0.9.5, as it compiles "
    "the model for ABY3, over those of Foedus",
    unit="ratio",
    target=SPU_TARGET,
    bound="at least",
    measure=measure,
)

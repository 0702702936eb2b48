"""News labelled in private: MiniLM with the BBC example's adapter, every held-out text, beside plain inference.

The adapter is trained as the example says, by `foedus run` with seed 1 on ten silos. Each text, cut as for training, is
answered by the members' processes and by the same model in float64: all of them under `Replicated3PC`, the first fifty
under each other protocol. Where labels differ, the text's margin (how far plain inference had its first label above its
second) says whether rounding explains it: an exception is explained when the margin is below twice the largest error
that the same protocol made in the logits of the texts whose labels do not differ. The value is the part of all answers
whose labels differ.

`DOCUMENTS=50` takes the first fifty texts, `ADAPTER=folder` an adapter that is there already, `PROTOCOLS=CrypTen` only
these.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from benchmarks.bbc import EXAMPLE, SILOS, foedus, train, with_lora
from benchmarks.harness import Benchmark, Outcome
from benchmarks.mpc_errors import function_errors, layer_errors
from benchmarks.mpc_model import LABELS, MINILM
from foedus.inference.answer import PROTOCOLS, Answer
from foedus.inference.local import Request, infer_local
from foedus.inference.meter import Meter
from foedus_workloads.mpc.model import EmbeddedText, PlainModel, compile_program, read_model
from foedus_workloads.mpc.model.evaluate import evaluate
from foedus_workloads.training.data import read_records

SEED, LARGEST_ERROR = 1, 0.05
FEW = 50  # texts under each protocol but the first
MOST_EXCEPTIONS = 0.005


class Counter(Meter):
    """Says now and then how far the texts are."""

    def answer(self, number: int, answer: Answer) -> None:
        """Note the answer and say its number."""
        super().answer(number, answer)
        if number % 10 == 0:
            print(f"text {number + 1}: {answer.seconds:.1f} s", file=sys.stderr, flush=True)


def shortened(model: PlainModel, text: str, tokens: int) -> str:
    """Return the text, or its longest beginning that has at most `tokens` tokens."""
    encoded = model.tokenizer.encode(text)
    if len(encoded.ids) <= tokens:
        return text
    end = encoded.offsets[tokens - 2][1]  # two tokens are marks
    while len(model.tokenizer.encode(text[:end]).ids) > tokens:
        end -= 1
    return text[:end]


def plain_logits(model: PlainModel, embedded: EmbeddedText) -> list[float]:
    """Return the logits in float64."""
    return evaluate(model, compile_program(model.architecture, embedded.tokens), embedded)


def measure(folder: Path) -> Outcome:
    """Train, answer every text both ways, compare; then errors by function and by layer."""
    manifest = yaml.safe_load(EXAMPLE.read_text("utf-8"))
    volumes = folder / "volumes"
    foedus("data", "split", "bbc-news", "--silos", str(SILOS), "--seed", str(SEED), "--out", str(volumes))
    adapter = Path(os.environ["ADAPTER"]) if "ADAPTER" in os.environ else _train(manifest, volumes, folder)
    records = read_records(volumes / "public" / "eval.jsonl", LABELS).items
    records = records[: int(os.environ.get("DOCUMENTS", len(records)))]
    model = read_model(MINILM, adapter)
    texts = tuple(shortened(model, each.text, manifest["spec"]["model"]["maxTokens"]) for each in records)
    exact = [plain_logits(model, model.encode_text(text)) for text in texts]
    found = {}
    for protocol in os.environ.get("PROTOCOLS", ",".join(PROTOCOLS)).split(","):
        print(protocol, file=sys.stderr, flush=True)
        request = Request(texts[: _count(protocol, texts)], MINILM, adapter, folder / "state", protocol)
        answers = asyncio.run(infer_local(request, Counter(), os.environ)).answers
        found[protocol] = compare(model.architecture.labels, exact, [each.label for each in records], answers)
    details = {
        "protocols": found,
        "functions": function_errors(),
        "layers": layer_errors(model, model.encode_text(texts[0])),
    }
    return _outcome(found, details)


def _count(protocol: str, texts: Sequence[str]) -> int:
    return len(texts) if protocol == PROTOCOLS[0] else FEW


def _outcome(found: Mapping[str, Mapping[str, Any]], details: Mapping[str, Any]) -> Outcome:
    different = [row for each in found.values() for row in each["exceptions"]]
    largest = max(each["largestError"] for each in found.values())
    met = all(row["explained"] for row in different) and largest <= LARGEST_ERROR
    return Outcome(len(different) / sum(each["documents"] for each in found.values()), met, details)


def compare(
    names: Sequence[str], exact: Sequence[Sequence[float]], labels: Sequence[str], answers: Sequence[Answer]
) -> dict[str, Any]:
    """Return how one protocol's answers, those to the first texts, are from float64's, and each label that differs."""
    rows = [_row(names, want, answer) for want, answer in zip(exact, answers, strict=False)]
    usual = max((row["error"] for row in rows if row["label"] == row["plainLabel"]), default=0.0)
    return {
        "documents": len(rows),
        "exceptions": [
            {"text": number, **row, "explained": row["margin"] < 2 * usual}
            for number, row in enumerate(rows)
            if row["label"] != row["plainLabel"]
        ],
        "accuracy": fmean(answer.label == label for answer, label in zip(answers, labels, strict=False)),
        "largestError": max(row["error"] for row in rows),
        "meanError": fmean(row["error"] for row in rows),
        "secondsPerDocument": [answer.seconds for answer in answers],
        "meanSecondsPerDocument": fmean(answer.seconds for answer in answers),
    }


def _train(manifest: Mapping[str, Any], volumes: Path, folder: Path) -> Path:
    train(with_lora, manifest, SEED, volumes, folder / "training")
    return folder / "training" / "result"


def _row(names: Sequence[str], want: Sequence[float], answer: Answer) -> dict[str, Any]:
    first, second = sorted(want, reverse=True)[:2]
    return {
        "label": answer.label,
        "plainLabel": names[want.index(first)],
        "margin": first - second,
        "error": max(abs(got - exact) for got, exact in zip(answer.logits, want, strict=True)),
    }


BENCHMARK = Benchmark(
    name="mpc-accuracy",
    shows="part of BBC's held-out texts that MiniLM with an adapter labels otherwise in private than in the clear",
    unit="part",
    target=MOST_EXCEPTIONS,
    bound="at most",
    measure=measure,
)

"""Exact products over Z_2^64: multiply-adds a second of every path that runs here, beside torch's int64 `@`.

The shapes are those of BERT-base at 128 tokens under ABY3, where [x1|x2] · [[y1+y2],[y1]] doubles the inner dimension:
128 rows by packed weights, and twelve heads' attention with both operands fresh, their packing counted. All arms
compute the same operands, must give the same bits, and take turns; each rate is that of the arm's fastest turn, the one
that other load disturbed least. The value is the fastest path's smallest ratio to torch, one thread each.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Benchmark, Outcome, Step, alternate
from foedus_ring import available, matmul, pack

TOKENS, HEADS, TURNS = 128, 12, 9
WEIGHTS = ((768, 768), (768, 2304), (768, 3072), (1536, 768), (3072, 768), (6144, 768))
ATTENTION = ((64, 128), (128, 64))


def random(*shape: int) -> torch.Tensor:
    """Return shares: uniform 64-bit numbers."""
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=torch.Generator().manual_seed(sum(shape)))


def compare(x: torch.Tensor, w: torch.Tensor, threads: int) -> dict[str, Any]:
    """Return the rates of all arms for x · w, their ratios to torch, and whether their bits agree."""
    steps: dict[str, Step] = {"torch @": lambda: x @ w}
    for path in available():
        if path != "torch":
            steps[path] = partial(matmul, x, pack(w, path=path)) if w.dim() == 2 else partial(matmul, x, w, path=path)
    fastest = available()[0]
    many = f"{fastest}, {threads} threads"
    steps[many] = partial(matmul, x, pack(w) if w.dim() == 2 else w, threads=threads)
    expected = x @ w
    equal = all(torch.equal(step(), expected) for step in steps.values())
    seconds = {name: min(each) for name, each in alternate(steps, TURNS).items()}
    work = expected.numel() * x.shape[-1]
    return {
        "gmacPerSecond": {name: work / each / 1e9 for name, each in seconds.items()},
        "toTorch": {name: seconds["torch @"] / each for name, each in seconds.items()},
        "value": seconds["torch @"] / seconds[fastest],
        "equal": equal,
    }


def measure(_folder: Path) -> Outcome:
    """Compare the arms at every shape."""
    torch.set_num_threads(1)
    threads = len(os.sched_getaffinity(0))
    shapes = {f"[{TOKENS}×{k}]·[{k}×{n}]": (random(TOKENS, k), random(k, n)) for k, n in WEIGHTS}
    shapes |= {
        f"{HEADS}×[{TOKENS}×{k}]·[{k}×{n}]": (random(HEADS, TOKENS, k), random(HEADS, k, n)) for k, n in ATTENTION
    }
    found = {name: compare(x, w, threads) for name, (x, w) in shapes.items()}
    return Outcome(
        value=min(each["value"] for each in found.values()),
        met=all(each["equal"] for each in found.values()),
        details={"paths": available(), "turns": TURNS, "shapes": found},
    )


BENCHMARK = Benchmark(
    name="ring",
    shows="rate of exact products over Z_2^64 on the fastest path over torch's int64 product, at its worst shape",
    unit="ratio",
    target=1.5,
    bound="at least",
    measure=measure,
)

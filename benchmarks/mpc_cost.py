"""Rounds and bytes of a private inference of BERT-base at 128 tokens: planned before anything runs, then counted.

Three party processes answer one text; what each says that it has sent must be the plan to the byte. Bytes are payloads,
without headers and TLS. The value is what the party that sends most sends.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from benchmarks.harness import Benchmark, Outcome
from benchmarks.mpc_bert import make_task
from benchmarks.mpc_model import TOKENS
from foedus.inference.local import Request, infer_local
from foedus.inference.meter import Meter
from foedus_workloads.mpc.model import compile_program, plan

MOST_BYTES, MOST_ROUNDS = 1.9e9, 3100


def measure(folder: Path) -> Outcome:
    """Plan, run once, compare."""
    task = make_task(folder)
    planned = plan(compile_program(task.model.architecture, TOKENS))
    request = Request((task.text,), task.folder / "bert", None, task.folder / "state")
    (answer,) = asyncio.run(infer_local(request, Meter(), os.environ)).answers
    as_planned = (answer.rounds, answer.bytes_sent) == (planned.total.rounds, planned.total.bytes_sent)
    steps = {
        step.name: {"rounds": cost.rounds, "bytesSent": cost.bytes_sent}
        for step, cost in zip(planned.program.steps, planned.costs, strict=True)
    }
    details = {
        "planned": {"rounds": planned.total.rounds, "bytesSent": planned.total.bytes_sent},
        "counted": {"rounds": answer.rounds, "bytesSent": answer.bytes_sent},
        "asPlanned": as_planned,
        "mostRounds": MOST_ROUNDS,
        "steps": steps,
    }
    return Outcome(max(answer.bytes_sent), as_planned and answer.rounds <= MOST_ROUNDS, details)


BENCHMARK = Benchmark(
    name="mpc-cost",
    shows="bytes that a party sends for a private inference of BERT-base at 128 tokens; as planned, to the byte",
    unit="bytes",
    target=MOST_BYTES,
    bound="at most",
    measure=measure,
)

"""`foedus mpc bench`: what private inference costs on this machine, measured where `foedus mpc plan` counts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from foedus.inference.answer import Inference
from foedus.inference.meter import Meter, require_proc
from foedus.inference.options import (
    adapter_option,
    folder_option,
    parties_option,
    protocol_option,
    tokens_option,
    wanted_tokens,
)
from foedus.inference.show import Beside, Lines, Silent, megabytes
from foedus.inference.source import find_model, require_torch
from foedus.interrupt import run_until_terminated
from foedus.machine import describe_machine
from foedus.table import aligned
from foedus_contract.mpc_wire import member_name

VERSIONS = ("foedus", "foedus-ring", "torch", "numpy", "cryptography")
MOST_RUNS = 1000
_FEWEST_TOKENS = 3  # the marks around a text, and a word


@click.command()
@click.argument("model")
@adapter_option
@protocol_option
@parties_option
@tokens_option(_FEWEST_TOKENS)
@click.option(
    "--runs",
    type=click.IntRange(1, MOST_RUNS),
    default=3,
    show_default=True,
    help="Texts, one after the other; the first one finds programs that are not made yet.",
)
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json prints one object, on one line."
)
@folder_option
def bench(
    model: str,
    adapter: Path | None,
    protocol: str,
    parties: int | None,
    tokens: int | None,
    runs: int,
    output: str,
    state: Path,
) -> None:
    """Measure what a text's answer by MODEL takes, with all members on this machine.

    MODEL is a classifier's folder or an installed package, PACKAGE[:FOLDER]. Whatever else runs on the machine is in
    the seconds; processor time feels it less. Rounds and bytes are those that `foedus mpc plan` says.
    """
    require_torch()
    require_proc()
    from foedus.inference.local import Request, infer_local
    from foedus_workloads.mpc.model import check_model, compile_program

    folder = find_model(model)
    sizes = check_model(folder, adapter)
    wanted = wanted_tokens(tokens, sizes.positions)
    compile_program(sizes, wanted)  # more than the model takes are refused here
    request = Request((make_text(folder, wanted),) * runs, folder, adapter, state, protocol, parties)
    meter = Meter(Silent() if output == "json" else Lines(click.echo, Beside(stderr=True), time.monotonic))

    async def work() -> None:
        report = as_json(await infer_local(request, meter, os.environ), meter, wanted)
        meter.close()
        click.echo(json.dumps(report, ensure_ascii=False) if output == "json" else as_text(report))

    try:
        run_until_terminated(work())
    finally:
        meter.close()


def make_text(folder: Path, tokens: int) -> str:
    """Return a text of so many tokens: one word of the model's, over and over."""
    from foedus_workloads.model_folder import open_tokenizer

    tokenizer = open_tokenizer(folder)
    marks = len(tokenizer.encode("").ids)
    # A word that is one token also behind another one; letters alone, for marks are no words.
    words = (word for word in sorted(tokenizer.get_vocab()) if word.isascii() and word.isalpha())
    word = next(each for each in words if len(tokenizer.encode(f"{each} {each}").ids) == marks + 2)
    return " ".join([word] * (tokens - marks))


def as_json(inference: Inference, meter: Meter, tokens: int) -> dict[str, Any]:
    """Return what was measured as plain data; a member's memory and processor time are from its start on."""
    from foedus_ring import available

    names = [member_name(member) for member in meter.used]
    runs = [
        {
            "seconds": answer.seconds,
            "connectingSeconds": took.connecting,
            "computingSeconds": took.computing,
            "processorSeconds": took.processor,
            "rounds": answer.rounds,
            "bytesSent": dict(zip(names, answer.bytes_sent, strict=True)),
        }
        for answer, took in zip(meter.answers, meter.took, strict=True)
    ]
    return {
        "model": inference.model_digest,
        "protocol": inference.protocol,
        "parties": inference.parties,
        "tokens": tokens,
        "paddedTokens": meter.answers[0].tokens,
        "phases": dict(inference.seconds),
        "runs": runs,
        "members": [
            {"name": name, "processorSeconds": use.processor_seconds, "peakBytes": use.peak_bytes}
            for name, use in zip(names, meter.used.values(), strict=True)
        ],
        "assumption": inference.assumption,
        "ringPath": available()[0],
        "machine": {**describe_machine(VERSIONS), "load": os.getloadavg()},
    }


def as_text(report: Mapping[str, Any]) -> str:
    """Return the same as a person reads it."""
    machine = report["machine"]
    runs = [
        (
            str(number),
            *(f"{run[name]:.2f}" for name in ("connectingSeconds", "computingSeconds", "processorSeconds")),
            str(run["rounds"]),
            megabytes(max(run["bytesSent"].values())),
        )
        for number, run in enumerate(report["runs"], 1)
    ]
    members = [
        (each["name"], f"{each['processorSeconds']:.1f}", megabytes(each["peakBytes"])) for each in report["members"]
    ]
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in report["phases"].items())
    lines = [
        f"{report['protocol']} by {report['parties']} parties, texts of {report['tokens']} tokens, padded to "
        f"{report['paddedTokens']}",
        f"{machine['cpu']}, {machine['cores']} cores, products by {report['ringPath']}",
        "",
        *aligned([("TEXT", "CONNECTING S", "COMPUTING S", "PROCESSOR S", "ROUNDS", "MOST SENT"), *runs]),
        "",
        *aligned([("MEMBER", "PROCESSOR S", "MOST MEMORY"), *members]),
        "",
        f"time, all texts: {phases}",
        f"assumption: {report['assumption']}",
    ]
    return "\n".join(lines)

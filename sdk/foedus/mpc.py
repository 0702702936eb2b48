"""`foedus mpc`: what private inference costs: `plan` counts before anything runs, `bench` measures."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foedus.inference.bench import bench
from foedus.inference.options import adapter_option, tokens_option, wanted_tokens
from foedus.table import aligned

if TYPE_CHECKING:
    from foedus_contract.mpc_wire import ProtocolName
    from foedus_workloads.mpc.model import Cost, Plan

_LAYER = re.compile(r"(?<=\.layer\.)\d+")
_MB = 1e6
PLANNED = ("Replicated3PC", "Replicated3PCMalicious")  # CrypTen makes a plan of its own


@click.group()
def mpc() -> None:
    """Plan and measure private inference."""


mpc.add_command(bench)


@mpc.command()
@click.argument("model")
@adapter_option
@tokens_option(1)
@click.option(
    "--protocol",
    type=click.Choice(PLANNED),
    default=PLANNED[0],
    show_default=True,
    help="What CrypTen takes is measured by `foedus mpc bench`.",
)
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json prints one object, on one line."
)
def plan(model: str, adapter: Path | None, tokens: int | None, protocol: ProtocolName, output: str) -> None:
    """Say what a text's answer by MODEL will cost: rounds, and bytes that each party sends.

    MODEL is a classifier's folder or an installed package, PACKAGE[:FOLDER]. The figures are exact and need neither a
    text nor a party. Bytes are payloads, without headers and TLS.
    """
    from foedus.inference.source import find_model, require_torch

    require_torch()
    from foedus_workloads.mpc.model import check_model, compile_program, padded_length
    from foedus_workloads.mpc.model import plan as make_plan

    sizes = check_model(find_model(model), adapter)
    wanted = wanted_tokens(tokens, sizes.positions)
    # A text longer than the model takes is refused where the program is made.
    program = compile_program(sizes, padded_length(wanted, sizes.positions) if wanted <= sizes.positions else wanted)
    if output == "text":
        click.echo("counting what each party would send …", err=True)
    made = make_plan(program, protocol)
    click.echo(json.dumps(as_json(made), ensure_ascii=False) if output == "json" else as_text(made))


def as_json(made: Plan) -> dict[str, Any]:
    """Return the plan as plain data, every step in its order."""
    from foedus_workloads.mpc.model import ASSUMPTIONS

    program = made.program
    return {
        "architecture": program.architecture.model_dump(mode="json", by_alias=True),
        "protocol": made.protocol,
        "program": program.digest,
        "tokens": program.tokens,
        "fraction": program.fraction,
        **_cost(made.total),
        "weightBytes": made.weight_bytes,
        "inputBytes": made.input_bytes,
        "steps": [
            {"name": step.name, "does": str(step), **_cost(cost)}
            for step, cost in zip(program.steps, made.costs, strict=True)
        ],
        "checks": _cost(made.checks),
        "assumption": ASSUMPTIONS[made.protocol],
    }


def as_text(made: Plan) -> str:
    """Return the plan as a person reads it: equal steps of all layers in one row."""
    from foedus_workloads.mpc.model import ASSUMPTIONS

    program = made.program
    shown = [
        _describe(made),
        f"texts of at most {program.tokens} tokens, padded to {program.tokens}; program {program.digest}",
        "",
        *aligned([("STEP", "DOES", "TIMES", "ROUNDS", "MB A PARTY"), *_rows(made)]),
        "",
        f"each party keeps {made.weight_bytes / _MB:.1f} MB of the model's shares; "
        f"a client sends each at most {made.input_bytes / _MB:.2f} MB a text",
        f"assumption: {ASSUMPTIONS[made.protocol]}",
    ]
    return "\n".join(shown)


def _rows(made: Plan) -> Sequence[tuple[str, ...]]:
    costs: dict[tuple[str, str], list[Cost]] = {}
    for step, cost in zip(made.program.steps, made.costs, strict=True):
        costs.setdefault((_LAYER.sub("*", step.name), str(step)), []).append(cost)
    rows = [(name, does, str(len(each)), *_figures(sum(each[1:], each[0]))) for (name, does), each in costs.items()]
    if made.checks.rounds:
        rows.append(("checks", "of all that was claimed", "", *_figures(made.checks)))
    return [*rows, ("total", "", str(len(made.costs)), *_figures(made.total))]


def _figures(cost: Cost) -> tuple[str, str]:
    return str(cost.rounds), f"{cost.mean_bytes / _MB:.3f}"


def _cost(cost: Cost) -> dict[str, Any]:
    return {"rounds": cost.rounds, "messages": list(cost.messages), "bytesSent": list(cost.bytes_sent)}


def _describe(made: Plan) -> str:
    sizes = made.program.architecture
    return (
        f"{sizes.kind}, {sizes.layers} layers, hidden {sizes.hidden}, intermediate {sizes.intermediate}, "
        f"{sizes.heads} heads, {len(sizes.labels)} labels; {made.protocol}"
    )

"""`python -m benchmarks.run NAME`: runs benchmarks; each ends with one JSON object on a line of its own.

At the end standard error has a line for each that did not pass, and for each that this machine cannot run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import traceback
from pathlib import Path

from e2e.cluster.errors import UnsuitableMachine

from benchmarks.harness import run

MODULES = (
    "audit_noise",
    "bbc",
    "dp_step",
    "failover",
    "kills",
    "ledger",
    "mpc_accuracy",
    "mpc_bert",
    "mpc_cost",
    "mpc_crypten",
    "mpc_layer",
    "mpc_malicious",
    "mpc_network",
    "ring",
    "scale",
    "tweets",
)
ALL = tuple(importlib.import_module(f"benchmarks.{name}").BENCHMARK for name in MODULES)
REGISTRY = {benchmark.name: benchmark for benchmark in ALL}
BUILD = Path("build/bench")


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 0 when every benchmark passed, 1 with a line for each that did not.

    Of all of them, those may be left out that this machine cannot run; one that is named may not.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.run", description="Runs benchmarks.")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("name", nargs="?", choices=sorted(REGISTRY), help="the benchmark to run")
    choice.add_argument("--all", action="store_true", help="run all of them")
    choice.add_argument("--list", action="store_true", help="list them with what each shows")
    asked = parser.parse_args(arguments)
    if asked.list:
        for name, benchmark in sorted(REGISTRY.items()):
            print(f"{name:12} {benchmark.shows} ({benchmark.bound} {benchmark.target:g} {benchmark.unit})")
        return 0
    missed, left_out = [], []
    for name in sorted(REGISTRY) if asked.all else [asked.name]:
        try:
            if complaint := run_one(name):
                missed.append(f"missed: {name}: {complaint}")
        except UnsuitableMachine as error:
            left_out.append(f"left out: {name}: {error}")
    print(*left_out, *missed, sep="\n", file=sys.stderr)
    return 1 if missed or (left_out and not asked.all) else 0


def run_one(name: str) -> str:
    """Run one benchmark in a fresh folder and print its JSON object; return why it did not pass, empty when it did.

    One that breaks keeps no other from running. Raises UnsuitableMachine.
    """
    folder = BUILD / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    benchmark = REGISTRY[name]
    try:
        found = run(benchmark, folder)
    except UnsuitableMachine:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is said with its traceback
        traceback.print_exc()
        found = {"name": name, "pass": False, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(found, ensure_ascii=False), flush=True)
    if found["pass"]:
        return ""
    missed = f"{found.get('value')} {benchmark.unit}, target {benchmark.bound} {benchmark.target:g}; see its details"
    return str(found.get("error", missed))


if __name__ == "__main__":
    sys.exit(main())

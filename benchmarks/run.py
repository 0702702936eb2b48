"""`python -m benchmarks.run NAME`: runs benchmarks; each ends with one JSON object on a line of its own."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from benchmarks import audit_noise, bbc, dp_step, failover, kills, ledger, mpc_layer, mpc_malicious, ring, scale, tweets
from benchmarks.harness import run

MODULES = (audit_noise, bbc, dp_step, failover, kills, ledger, mpc_layer, mpc_malicious, ring, scale, tweets)
ALL = tuple(module.BENCHMARK for module in MODULES)
REGISTRY = {benchmark.name: benchmark for benchmark in ALL}
BUILD = Path("build/bench")


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 0 when every benchmark passed, 1 when one did not."""
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
    passed = [run_one(name) for name in (sorted(REGISTRY) if asked.all else [asked.name])]
    return 0 if all(passed) else 1


def run_one(name: str) -> bool:
    """Run one benchmark in a fresh folder, print its JSON object, and return whether it passed."""
    folder = BUILD / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = run(REGISTRY[name], folder)
    print(json.dumps(found, ensure_ascii=False), flush=True)
    return bool(found["pass"])


if __name__ == "__main__":
    sys.exit(main())

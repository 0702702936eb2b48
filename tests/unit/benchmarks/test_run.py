"""One benchmark that breaks or misses its target keeps no other from running, and is named at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import run
from benchmarks.harness import Benchmark, Outcome
from e2e.cluster.errors import UnsuitableMachine


def benchmark(name: str, outcome: Outcome | Exception) -> Benchmark:
    def measure(_folder: Path) -> Outcome:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Benchmark(name=name, shows=name, unit="s", target=10, bound="at most", measure=measure)


def test_each_runs_and_what_did_not_pass_is_said_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [
        benchmark("breaks", RuntimeError("no cluster")),
        benchmark("incomplete", Outcome(3, met=False, details={})),
        benchmark("passes", Outcome(3, met=True, details={})),
        benchmark("slow", Outcome(30, met=True, details={})),
        benchmark("unsuitable", UnsuitableMachine("only root")),
    ]
    monkeypatch.setattr(run, "REGISTRY", {each.name: each for each in made})
    monkeypatch.setattr(run, "BUILD", tmp_path)
    assert run.main(["--all"]) == 1
    said = capsys.readouterr()
    assert [json.loads(line)["pass"] for line in said.out.splitlines()] == [False, False, True, False]
    assert [line for line in said.err.splitlines() if line.startswith(("missed: ", "left out: "))] == [
        "left out: unsuitable: only root",
        "missed: breaks: RuntimeError: no cluster",
        "missed: incomplete: 3 s, target at most 10; see its details",
        "missed: slow: 30 s, target at most 10; see its details",
    ]
    assert run.main(["passes"]) == 0
    assert run.main(["unsuitable"]) == 1

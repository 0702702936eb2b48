"""Whole jobs under faults in virtual time: a sample of what `make simulation` runs, and what makes its word count."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from foedus_contract.wire import Unmask
from simulation.checker import check
from simulation.faults import CRASH_POINTS, KINDS
from simulation.history import Fact, History
from simulation.run import Tally, play_all, replay, verdict
from simulation.standins import cheap
from simulation.world import World

Edit = Callable[[History], History]


def test_every_rule_holds_in_a_hundred_jobs() -> None:
    tally = play_all(range(1, 101))
    assert tally.failures == []
    assert tally.numbers["exact attempts"] > 0
    assert tally.numbers["releases"] > tally.numbers["aborts"] > 0
    assert tally.happened["coordinator volume lost"] > 0


def test_a_seed_gives_the_same_history_in_another_process() -> None:
    traces = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "simulation.run", "--seed", "3"]
        traces.append(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)
    assert traces[0] == traces[1]
    assert "crashes" in traces[0]


def test_a_replay_shows_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(47) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seed 47: Weather(")
    assert lines[-1] == "nothing is wrong"


def test_a_failing_seed_names_the_command_that_replays_it() -> None:
    failed = Tally(failures=[(17, ["silo-1: sends Unmask twice in attempt 3"])])
    assert verdict(failed, 100) == [
        "FAILED seed 17; replay it with: make simulation SEED=17",
        "silo-1: sends Unmask twice in attempt 3",
    ]


def test_faults_that_never_occurred_are_a_failure_of_a_long_run_only() -> None:
    blind = Tally(happened=Counter(dict.fromkeys((*CRASH_POINTS, *KINDS), 1)))
    assert verdict(blind, 20_000) == []
    del blind.happened["silo DrawNoise after"]
    assert verdict(blind, 20_000) == ["BLIND: these never occurred: silo DrawNoise after"]
    assert verdict(blind, 19_999) == []


# The checker itself: an honest history passes, each edit of it is seen.


@pytest.fixture(scope="module")
def honest() -> History:
    with cheap():
        world = World(5)
        world.faults.weather = replace(world.faults.weather, until=0.0)
        return world.run()


def edited(change: Callable[[Fact], list[Fact]]) -> Edit:
    return lambda history: replace(history, facts=[new for fact in history.facts for new in change(fact)])


def without(what: str, who: str = "silo-1") -> Edit:
    return edited(lambda fact: [] if (fact.who, fact.what) == (who, what) else [fact])


def twice(what: str) -> Edit:
    return edited(lambda fact: [fact, fact] if fact.what == what else [fact])


def with_data(what: str, data: Callable[[Any], Any], **changes: Any) -> Edit:
    return edited(lambda fact: [fact._replace(data=data(fact.data), **changes) if fact.what == what else fact])


def both_kinds(answer: Unmask) -> Unmask:
    return answer.model_copy(update={"masking_key_shares": answer.self_mask_shares})


def fewer_rounds(end: Any) -> Any:
    return "", end[1].model_copy(update={"rounds": end[1].rounds - 1}), end[2]


def fewer_charged(end: Any) -> Any:
    return "", end[1].model_copy(update={"charged": end[1].charged - 1}), end[2]


EDITS = [
    (without("charges"), "silo-1: logs the charge in attempt 0 without an earlier: charges"),
    (without("logs the charge"), "silo-1: draws noise in attempt 0 without an earlier: logs the charge"),
    (with_data("logs the charge", lambda count: count - 1), "silo-1: 1 draws, 0 in its log, 1 charges"),
    (with_data("logs the charge", lambda count: count + 1), "silo-1: 0 draws, 2 in its log, 1 charges"),
    (without("journals Unmasked"), "silo-1: sends Unmask in attempt 0 without an earlier: journals Unmasked"),
    (without("sends MaskedVector"), "silo-1: attempt 0 was charged, not cut off and not uploaded"),
    (without("draws noise"), r"attempt 0: survivors without a charged draw: \['silo-1'\]"),
    (twice("sends Unmask"), "silo-1: sends Unmask twice in attempt 0"),
    (twice("releases"), "attempt 0 is released twice"),
    (with_data("sends Unmask", both_kinds), "silo-1: both kinds of share of one silo in attempt 0"),
    (with_data("releases", lambda total: total + 1), "attempt 0: the sum is not the survivors'"),
    (with_data("names survivors", lambda names: names[:2]), "attempt 0: a sum over 2 silos"),
    (without("reports", "coordinator"), "attempt 0 has no end"),
    (with_data("reports", lambda told: (False, *told[1:])), "attempt 0: reported applied=False, released=True"),
    (lambda history: replace(history, facts=[*history.facts, history.of("broadcasts")[0]]), "attempt 0 is used again"),
    (
        lambda history: replace(history, facts=[*history.facts, history.of("broadcasts")[0]]),
        "round 0 is broadcast again",
    ),
    (lambda history: replace(history, charged={**history.charged, "silo-1": 99}), "silo-1: the ledger holds 99"),
    (lambda history: replace(history, ended=False), "the job hangs"),
    (without("heard JobOver"), "silo-1 goes home on the word of coordinator None, 1 is newer"),
    (with_data("finishes", fewer_rounds), "complete after"),
    (with_data("finishes", fewer_charged), "attempts are said to be charged, a ledger holds"),
    (with_data("finishes", lambda end: (*end[:2], bytes(20))), "the adapter does not hold exactly one sum"),
    (with_data("finishes", lambda end: ("QuorumLost", *end[1:]), time=1e6), "ended early .* long after the last fault"),
]


def test_an_honest_history_passes(honest: History) -> None:
    assert check(honest) == []
    assert len(honest.of("releases")) == honest.rounds


@pytest.mark.parametrize(("edit", "problem"), EDITS, ids=[problem for _, problem in EDITS])
def test_the_checker_sees(honest: History, edit: Edit, problem: str) -> None:
    assert any(re.search(problem, found) for found in check(edit(honest)))

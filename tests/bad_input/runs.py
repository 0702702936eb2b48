"""Whole runs of the command line, with the engine and the processes that it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from bad_input.cases import NOTHING, Case, Seen, charges, exits
from bad_input.processes import Ended, Sabotage, foedus
from bad_input.sabotage import engines_clock_back
from bad_input.worlds import Machine, build_machine, rewrite_data, seen
from foedus_contract.exit_codes import ExitCode
from support.small_job import SILOS

Spoil = Callable[[Machine], object]
Say = Callable[[Ended], tuple[str, ...]]


def last_line(ended: Ended) -> tuple[str, ...]:
    """Return how the run says that it ended, and check that nothing else went wrong."""
    assert ended.err == "", ended.err
    return tuple(line for line in ended.out.splitlines() if line.startswith("Complete"))


def silo_1_failed(ended: Ended) -> tuple[str, ...]:
    """Return what the run says of silo-1's process, and check that the job is complete all the same."""
    assert last_line(ended), ended.out
    return tuple(dict.fromkeys(line for line in ended.out.splitlines() if line.startswith("process failed")))


def error_line(ended: Ended) -> tuple[str, ...]:
    """Return the error, and check that what a machine reads is JSON lines to the end, and says the same."""
    events = [json.loads(line) for line in ended.out.splitlines()]
    assert events[0]["event"] == "Announcement"
    assert {event["code"] for event in events if event["event"] == "ProcessFailed"} == {ExitCode.INVALID_DATA}
    assert [event["charged"] for event in events if event["event"] == "Charged"] == [0, 0, 0, 0]
    return tuple(ended.err.splitlines())


def case(
    wrong: str,
    line: str,
    end: str,
    charged: str,
    spoil: Spoil,
    say: Say,
    *more: str,
    sabotage: Sabotage | None = None,
) -> Case:
    """Return the case of a run of one round; no account may stay open."""

    def act(root: Path) -> Seen:
        machine = build_machine(root)
        machine.spec["training"] = {"rounds": 1, "spareAttempts": 1}
        spoil(machine)
        ended = foedus(machine.run(*more), sabotage).wait()
        assert machine.open_accounts() == []
        what = seen(machine, ended)
        return Seen(say(ended), what.end, what.charged, what.said)

    return Case(wrong, line, end, charged, act)


def changed_everywhere(machine: Machine) -> None:
    for silo in SILOS:
        rewrite_data(machine, silo, 7)


def changed_at_one(machine: Machine) -> None:
    rewrite_data(machine, SILOS[0], 7)


RUNS = (
    case(
        "the data of all silos changed after their budgets were made",
        "?",
        exits(ExitCode.QUORUM_LOST),
        NOTHING,
        changed_everywhere,
        error_line,
        "--output",
        "json",
    ),
    case(
        "the data of one silo changed: the job does without it",
        "?",
        exits(ExitCode.OK),
        charges(dict.fromkeys(SILOS[1:], 1)),
        changed_at_one,
        silo_1_failed,
    ),
    case(
        "the engine's clock is set back by a day while a job runs",
        "?",
        exits(ExitCode.OK),
        charges(dict.fromkeys(SILOS, 1)),
        lambda machine: None,
        last_line,
        sabotage=engines_clock_back,
    ),
)

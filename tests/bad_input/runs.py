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
        machine.spec["aggregation"]["joinTimeout"] = "10m"  # five processes import a framework each
        spoil(machine)
        ended = foedus(machine.run(*more), sabotage).wait()
        assert machine.open_accounts() == []
        what = seen(machine, ended)
        return Seen(say(ended), what.end, what.charged, what.said)

    return Case(wrong, line, end, charged, act)


def changed_everywhere(machine: Machine) -> None:
    for silo in SILOS:
        rewrite_data(machine, silo, 7)


RUNS = (
    case(
        "the data of all silos changed after their budgets were made",
        "error: QuorumLost: … of 4 silos failed and 3 are needed; silo-…: the data of silo silo-… are not what the job needs; the silo's own log says where, for its holder to mend; the logs of its processes are in …/state/logs/default/job",
        exits(ExitCode.QUORUM_LOST),
        NOTHING,
        changed_everywhere,
        error_line,
        "--output",
        "json",
    ),
    case(
        "the engine's clock is set back by a day while a job runs",
        "Complete: accuracy not measured on public data, ε spent 0.6763 of 1, 1 rounds in 1 attempts; in …/out",
        exits(ExitCode.OK),
        charges(dict.fromkeys(SILOS, 1)),
        lambda machine: None,
        last_line,
        sabotage=engines_clock_back,
    ),
)

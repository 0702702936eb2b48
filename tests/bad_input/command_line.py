"""How a case of bad input at the command line is put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad_input.cases import NOTHING, Case, exits
from bad_input.worlds import Arguments, Machine, command_case
from foedus_contract.exit_codes import ExitCode

Spoil = Callable[[Machine], Arguments]


def case(wrong: str, spoil: Spoil, code: ExitCode, line: str, sabotage: Callable[[], None] | None = None) -> Case:
    return Case(wrong, line, exits(code), NOTHING, command_case(spoil, sabotage))


def change(**fields: Any) -> Spoil:
    """Return the case that sets fields of the spec by path (`privacy__epsilon=0`)."""

    def spoil(machine: Machine) -> Arguments:
        for path, value in fields.items():
            *above, last = path.split("__")
            place = machine.spec
            for name in above:
                place = place[name]
            place[last] = value
        return machine.run()

    return spoil


def edit(old: str, new: str) -> Spoil:
    """Return the case that edits the manifest's text."""

    def spoil(machine: Machine) -> Arguments:
        machine.rewrite(old, new)
        return machine.run()

    return spoil


def data_is(text: str | bytes) -> Spoil:
    """Return the case of a data holder who makes a budget for a file that holds `text`."""

    def spoil(machine: Machine) -> Arguments:
        machine.data().write_bytes(text.encode() if isinstance(text, str) else text)
        return machine.create_budget()

    return spoil


def model_is(spoil_model: Callable[[Path], object]) -> Spoil:
    """Return the case of a base model folder that something was done to."""

    def spoil(machine: Machine) -> Arguments:
        spoil_model(machine.model)
        return machine.run()

    return spoil


def budget(*more: str) -> Spoil:
    return lambda machine: machine.create_budget(*more)


E = ExitCode

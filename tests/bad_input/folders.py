"""What can be wrong with the folders that a command is given."""

from __future__ import annotations

import fcntl
import sqlite3

from bad_input.command_line import E, budget, case
from bad_input.sabotage import full_volume
from bad_input.worlds import Arguments, Machine


def no_state(machine: Machine) -> Arguments:
    return [*machine.run(), "--state", str(machine.root / "nowhere")]


def state_is_a_file(machine: Machine) -> Arguments:
    """Not writable for anybody, root included: the folder above is a file."""
    (machine.root / "file").write_text("", "utf-8")
    return [*machine.run(), "--state", str(machine.root / "file/state")]


def budget_state_is_a_file(machine: Machine) -> Arguments:
    (machine.root / "file").write_text("", "utf-8")
    return [*machine.create_budget(), "--state", str(machine.root / "file/state")]


def state_is_open(machine: Machine) -> Arguments:
    """As /tmp is: others' files are in it, and stay within their reach."""
    (machine.root / "shared").mkdir()
    (machine.root / "shared/file").write_text("", "utf-8")
    (machine.root / "shared").chmod(0o755)
    return [*machine.create_budget(), "--state", str(machine.root / "shared")]


def foreign_store(machine: Machine) -> Arguments:
    with sqlite3.connect(machine.small.state / "objects.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    return machine.run()


def finished_before(machine: Machine) -> Arguments:
    (machine.root / "out").mkdir()
    (machine.root / "out/adapter_model.safetensors").write_bytes(b"")
    return machine.run()


def out_is_below_a_file(machine: Machine) -> Arguments:
    (machine.root / "file").write_text("", "utf-8")
    return [*machine.run(), "--out", str(machine.root / "file/out")]


def split_below_a_file(machine: Machine) -> Arguments:
    (machine.root / "file").write_text("", "utf-8")
    return ["data", "split", "bbc-news", "--out", str(machine.root / "file/volumes")]


def two_engines(machine: Machine) -> Arguments:
    hold(machine, "engine.lock")
    return machine.run()


def two_budgets_at_once(machine: Machine) -> Arguments:
    hold(machine, "budgets.lock")
    return machine.create_budget("--state", str(machine.small.state))


def hold(machine: Machine, name: str) -> None:
    lock = machine.held.enter_context((machine.small.state / name).open("w"))
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


FOLDERS = (
    case(
        "no state folder",
        no_state,
        E.BUDGET_REFUSED,
        "error: …/nowhere: there is no such state folder, and so no budget; its data's holder makes a budget with: foedus budget create --state …/nowhere",
    ),
    case(
        "a state folder that cannot be made",
        state_is_a_file,
        E.UNAVAILABLE,
        "error: …/file/state: the state folder cannot be used (Not a directory); give this user the right to write there, or choose another folder with --state",
    ),
    case(
        "a budget in a state folder that cannot be made",
        budget_state_is_a_file,
        E.UNAVAILABLE,
        "error: …/file/state: the state folder cannot be used (Not a directory); give this user the right to write there, or choose another folder with --state",
    ),
    case(
        "a budget in a folder that others may enter",
        state_is_open,
        E.INVALID_SPEC,
        "error: …/shared: others may enter the state folder; `chmod 700` it when it is for Foedus alone, or choose another folder with --state",
    ),
    case(
        "example data for a folder that cannot be made",
        split_below_a_file,
        E.UNAVAILABLE,
        "error: …/file/volumes/silo-01/train.jsonl: cannot be written (Not a directory); free space on the volume, or mend it",
    ),
    case(
        "another engine on the state folder",
        two_engines,
        E.UNAVAILABLE,
        "error: …/state: another engine uses this state folder; wait for it to end, or choose another folder with --state",
    ),
    case(
        "a budget while another is being made",
        two_budgets_at_once,
        E.UNAVAILABLE,
        "error: …/state: another command makes budgets here; try again when it has ended",
    ),
    case(
        "a state folder of another version",
        foreign_store,
        E.INVALID_SPEC,
        "error: …/state/objects.sqlite: not a database of this engine (foreign schema); use another state folder, or the version of Foedus that made this one",
    ),
    case(
        "a result folder in use",
        finished_before,
        E.INVALID_SPEC,
        "error: …/out: holds something already; choose another folder with --out",
    ),
    case(
        "a result folder that cannot be made",
        out_is_below_a_file,
        E.UNAVAILABLE,
        "error: …/file/out: the result folder cannot be used (Not a directory); choose another folder with --out",
    ),
    case(
        "a full disk: the job cannot be stored",
        lambda machine: machine.run(),
        E.UNAVAILABLE,
        "error: …/state/objects.sqlite: the engine's database cannot be written (disk I/O error); free space on its volume, or mend it",
        full_volume,
    ),
    case(
        "a full disk: the budget cannot be written",
        budget(),
        E.UNAVAILABLE,
        "error: …/fresh/records/default/silo-1.sha256: cannot be written (File too large); free space on the volume, or mend it",
        full_volume,
    ),
)

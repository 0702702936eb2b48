"""What a process of a job finds wrong with its ledger, its journal and its disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from bad_input.pods import SILO, E, Spoil, case, written
from bad_input.sabotage import full_volume, impatient
from foedus_workloads.training.journal import name_of
from support.training_world import World


def no_reservation(world: World) -> None:
    world.ledger(SILO).close(world.plan.uid)


def with_pragma(pragma: str) -> Spoil:
    def spoil(world: World) -> None:
        with closing(sqlite3.connect(world.root / SILO / "ledger.sqlite")) as connection:
            connection.execute(f"PRAGMA {pragma}")

    return spoil


@contextmanager
def locked(world: World) -> Iterator[None]:
    with closing(sqlite3.connect(world.root / SILO / "ledger.sqlite")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def journal(role: str, text: bytes) -> Spoil:
    """Return the case of a journal that holds `text`."""

    def spoil(world: World) -> None:
        name = name_of(world.plan.uid)
        path = f"output/state/{name}.jsonl" if role == "coordinator" else f"{role}/state/journal-{name}.jsonl"
        written(path, text)(world)

    return spoil


ENTRY = b'{"round":0,"attempt":0,"stage":"%s","digest":""}\n'
VOLUMES = (
    case(
        "no open reservation of this job in the ledger",
        no_reservation,
        E.BUDGET_REFUSED,
        "silo silo-a: ns/silo-a: the budget holds no open reservation of this job; start the job through the engine, which reserves",
    ),
    case(
        "a ledger that is no database",
        written(f"{SILO}/ledger.sqlite", b"not a database" * 100),
        E.BUDGET_REFUSED,
        "silo silo-a: …/silo-a/ledger.sqlite: the ledger cannot be trusted: file is not a database; restore the newest copy of the file; nothing is charged on it before",
    ),
    case(
        "a ledger of another schema",
        with_pragma("user_version = 99"),
        E.BUDGET_REFUSED,
        "silo silo-a: …/silo-a/ledger.sqlite: the ledger cannot be trusted: its schema is version 99, this program reads 1; restore the newest copy of the file; nothing is charged on it before",
    ),
    case(
        "a ledger that another program has locked",
        locked,
        E.UNAVAILABLE,
        "silo silo-a: …/silo-a/ledger.sqlite: the ledger is locked by another process; end that process, or try again",
        sabotage=impatient,
    ),
    case(
        "a silo's journal is damaged",
        journal(SILO, ENTRY % b"Opened" + b"{}\n"),
        E.INVALID_DATA,
        "silo silo-a: …/silo-a/state/journal-….jsonl:2: the journal is damaged (round: Field required); this silo cannot take part in the job any more; the next job starts a new journal",
    ),
    case(
        "a silo's journal skips a step",
        journal(SILO, ENTRY % b"Opened" + ENTRY % b"Uploaded"),
        E.INVALID_DATA,
        "silo silo-a: …/silo-a/state/journal-….jsonl:2: the journal is damaged (attempt 0 was answered before, or its steps come in another order); this silo cannot take part in the job any more; the next job starts a new journal",
    ),
    case(
        "the coordinator's journal is damaged",
        journal("coordinator", b'{"entry":"Began"}\n{"entry":"Ended"}\n'),
        E.INVALID_DATA,
        "coordinator: …/output/state/….jsonl:2: the journal is damaged (Input tag 'Ended' found using 'entry' does not match any of the expected tags: 'Began', 'Restored', 'Opened', 'Closed'); start a new job; what was charged stays charged",
        role="coordinator",
    ),
    case(
        "a silo's volume is full",
        lambda world: None,
        E.UNAVAILABLE,
        "silo silo-a: …/silo-a/progress.jsonl: cannot be written (File too large); free space on the volume, or mend it",
        sabotage=full_volume,
    ),
    case(
        "the coordinator's volume is full",
        lambda world: None,
        E.UNAVAILABLE,
        "coordinator: …/progress.jsonl: cannot be written (File too large); free space on the volume, or mend it",
        role="coordinator",
        sabotage=full_volume,
    ),
)

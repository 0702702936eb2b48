"""What the holder of a data set can get wrong: budgets, ledgers and records."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing

from bad_input.command_line import E, budget, case, change, data_is
from bad_input.sabotage import impatient
from bad_input.worlds import Arguments, Machine
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetSpec
from foedus_workloads.training.data import read_records
from support.small_job import RECORDS, SILOS


def no_budget(machine: Machine) -> Arguments:
    shutil.rmtree(machine.ledger_file(SILOS[2]).parent)
    return machine.run()


def second_job(machine: Machine) -> Arguments:
    """Another job holds nearly all of one silo's budget."""
    machine.small.ledger().reserve("another-job", Mechanism(noise_multiplier=6.5), 4, "default/another")
    return machine.run()


def budget_twice(machine: Machine) -> Arguments:
    return [*machine.create_budget(), "--state", str(machine.small.state)]


def undeclared_label(machine: Machine) -> Arguments:
    return machine.create_budget("--label", "one")


def same_data(machine: Machine) -> Arguments:
    """Two silos hold the very same records, each with a budget."""
    shutil.copy(machine.data(SILOS[0]), machine.data(SILOS[1]))
    shutil.rmtree(machine.ledger_file(SILOS[1]).parent)
    records = read_records(machine.data(SILOS[1]))
    spec = BudgetSpec(digest=records.digest, records=records.count, epsilon=1, delta=1e-4, labels=("one", "two"))
    machine.small.ledger(SILOS[1]).create(spec)
    return machine.run()


def locked_ledger(machine: Machine) -> Arguments:
    """Another program, such as a back-up, holds one silo's ledger and does not let go of it."""
    connection = machine.held.enter_context(closing(sqlite3.connect(machine.ledger_file(SILOS[1]))))
    connection.execute("BEGIN EXCLUSIVE")
    return machine.run()


def damaged_ledger(machine: Machine) -> Arguments:
    machine.ledger_file(SILOS[1]).write_bytes(b"not a database" * 100)
    return machine.run()


def cut_ledger(machine: Machine) -> Arguments:
    file = machine.ledger_file(SILOS[1])
    os.truncate(file, file.stat().st_size // 2)
    return machine.run()


def other_database(machine: Machine) -> Arguments:
    return with_pragma(machine, "application_id = 1")


def other_schema(machine: Machine) -> Arguments:
    return with_pragma(machine, "user_version = 99")


def with_pragma(machine: Machine, pragma: str) -> Arguments:
    with sqlite3.connect(machine.ledger_file(SILOS[1])) as connection:
        connection.execute(f"PRAGMA {pragma}")
    return machine.run()


def edited_ledger(machine: Machine) -> Arguments:
    """Somebody gives back what was spent by hand: version and record disagree."""
    with sqlite3.connect(machine.ledger_file(SILOS[1])) as connection:
        connection.execute("UPDATE budget SET version = version + 1")
    return machine.run()


def no_data(machine: Machine) -> Arguments:
    machine.data().unlink()
    return machine.run()


def no_data_for_a_budget(machine: Machine) -> Arguments:
    machine.data().unlink()
    return machine.create_budget()


def damaged_ledger_shown(machine: Machine) -> Arguments:
    damaged_ledger(machine)
    return ["budget", SILOS[1], "--state", str(machine.small.state)]


def deleted_beside_a_damaged_ledger(machine: Machine) -> Arguments:
    for silo in SILOS:
        machine.small.ledger(silo).reserve("gone", Mechanism(noise_multiplier=20.0), 4, "default/job")
    damaged_ledger(machine)
    return ["delete", "job", "--state", str(machine.small.state)]


def no_such_budget(machine: Machine) -> Arguments:
    return ["budget", "silo-9", "--state", str(machine.small.state)]


BUDGETS = (
    case(
        "unplannable ε: the noise would drown the gradient",
        change(privacy__epsilon=0.001),
        E.UNPLANNABLE,
        "error: Unplannable: the noise would be 126.01 times the clip norm (κ, at most 2); adapt fewer parameters (spec.lora.rank, lastLayers), run fewer rounds, bring more records or more ε",
    ),
    case(
        "a silo without a budget",
        no_budget,
        E.BUDGET_REFUSED,
        "error: BudgetNotFound: silo silo-3: PrivacyBudget default/silo-3 does not exist; its data holder makes it with: foedus budget create --state …/state silo-3 --data FILE --epsilon EPSILON --delta DELTA",
    ),
    case(
        "a label that a silo's holder declared and the job lacks",
        change(model__labels=["one", "three"]),
        E.INVALID_SPEC,
        "error: InvalidSpec: spec.model.labels: 'two' is missing, which PrivacyBudget default/silo-1 declares for the records of silo-1; add it",
    ),
    case(
        "another job holds what is left",
        second_job,
        E.BUDGET_REFUSED,
        "error: BudgetInsufficient: PrivacyBudget default/silo-1: with what other jobs have left of it the noise would be 2.17 times the clip norm (κ, at most 2); run fewer rounds, or ask its holder for a new budget; held open by job default/another: wait until it ends, or delete it to give back what it has not used; silo-1 has an open account of default/another; give back what is not spent: foedus delete another --state …/state",
    ),
    case(
        "two silos hold the same data",
        same_data,
        E.INVALID_DATA,
        "error: InvalidData: silos silo-1 and silo-2 hold the same data (sha256:…); a person would be counted once and spent twice; remove one of them",
    ),
    case(
        "a ledger that is no database",
        damaged_ledger,
        E.BUDGET_REFUSED,
        "error: BudgetRefused: silo silo-2: PrivacyBudget default/silo-2: …/state/volumes/default/silo-2-ledger/ledger.sqlite: the ledger cannot be trusted: file is not a database; restore the newest copy of the file; nothing is charged on it before",
    ),
    case(
        "half a ledger",
        cut_ledger,
        E.BUDGET_REFUSED,
        "error: BudgetRefused: silo silo-2: PrivacyBudget default/silo-2: …/state/volumes/default/silo-2-ledger/ledger.sqlite: the ledger cannot be trusted: database disk image is malformed; restore the newest copy of the file; nothing is charged on it before",
    ),
    case(
        "a database that is no ledger",
        other_database,
        E.BUDGET_REFUSED,
        "error: BudgetRefused: silo silo-2: PrivacyBudget default/silo-2: …/state/volumes/default/silo-2-ledger/ledger.sqlite: the ledger cannot be trusted: it is a database, but no ledger; restore the newest copy of the file; nothing is charged on it before",
    ),
    case(
        "a ledger of another schema",
        other_schema,
        E.BUDGET_REFUSED,
        "error: BudgetRefused: silo silo-2: PrivacyBudget default/silo-2: …/state/volumes/default/silo-2-ledger/ledger.sqlite: the ledger cannot be trusted: its schema is version 99, this program reads 1; restore the newest copy of the file; nothing is charged on it before",
    ),
    case(
        "a ledger that another program has locked",
        locked_ledger,
        E.UNAVAILABLE,
        "error: LedgerUnavailable: silo silo-2: PrivacyBudget default/silo-2: …/state/volumes/default/silo-2-ledger/ledger.sqlite: the ledger is locked by another process; end that process, or try again",
        impatient,
    ),
    case(
        "a ledger changed by hand",
        edited_ledger,
        E.BUDGET_REFUSED,
        "error: BudgetRefused: silo silo-2: PrivacyBudget default/silo-2: …/state/volumes/default/silo-2-ledger/ledger.sqlite: the ledger cannot be trusted: version and record disagree; restore the newest copy of the file; nothing is charged on it before",
    ),
    case(
        "a damaged ledger is shown",
        damaged_ledger_shown,
        E.BUDGET_REFUSED,
        "error: …/state/volumes/default/silo-2-ledger/ledger.sqlite: the ledger cannot be trusted: file is not a database; restore the newest copy of the file; nothing is charged on it before",
    ),
    case(
        "a job is deleted whose account in a damaged ledger cannot be closed",
        deleted_beside_a_damaged_ledger,
        E.BUDGET_REFUSED,
        "error: FederatedTrainingJob default/job: not all of its accounts could be closed (silo-2); mend what is said above, then run this again",
    ),
    case(
        "a budget that is not there is shown",
        no_such_budget,
        E.INVALID_SPEC,
        "error: budget default/silo-9: does not exist; make it with: foedus budget create silo-9 --data FILE --epsilon EPSILON --delta DELTA --state …/state",
    ),
    case(
        "a budget that exists is made again",
        budget_twice,
        E.BUDGET_EXISTS,
        "error: budget silo-1: exists already and never changes; show it with: foedus budget silo-1 --state …/state; a new decision needs a new name and --additional",
    ),
    case("a budget without ε", budget("--epsilon", "0"), E.INVALID_SPEC, "error: spec.epsilon: must be greater than 0"),
    case(
        "a budget whose ε is not a number",
        budget("--epsilon", "nan"),
        E.INVALID_SPEC,
        "error: spec.epsilon: must be a finite number",
    ),
    case(
        "a budget whose δ is 1/N",
        budget("--delta", str(1 / RECORDS)),
        E.INVALID_SPEC,
        "error: --delta: 0.0166667 is too large; δ must be below 1/60, else one record may be published outright",
    ),
)
DATA = (
    case(
        "a label that the holder does not declare",
        undeclared_label,
        E.INVALID_DATA,
        "error: …/volumes/silo-1/train.jsonl:2: the label is not one of one; correct it or the list of labels",
    ),
    case(
        "an empty silo",
        data_is("\n"),
        E.INVALID_DATA,
        "error: …/volumes/silo-1/train.jsonl: the file holds no records; a silo needs at least one record",
    ),
    case(
        "NaN in data",
        data_is('{"text": "a", "label": "one"}\n{"text": NaN, "label": "one"}\n'),
        E.INVALID_DATA,
        "error: …/volumes/silo-1/train.jsonl:2: NaN or an infinity is not data; leave out the record or give its text",
    ),
    case(
        "a record without a label",
        data_is('{"text": "a"}\n'),
        E.INVALID_DATA,
        "error: …/volumes/silo-1/train.jsonl:1: the field label is missing; every record has text and label",
    ),
    case(
        "a field that records do not have",
        data_is('{"text": "a", "label": "one", "id": 7}\n'),
        E.INVALID_DATA,
        "error: …/volumes/silo-1/train.jsonl:1: an unknown field; every record has text and label and nothing else",
    ),
    case(
        "a label that is no text",
        data_is('{"text": "a", "label": 1}\n'),
        E.INVALID_DATA,
        "error: …/volumes/silo-1/train.jsonl:1: label is not text; write it in double quotes",
    ),
    case(
        "not UTF-8",
        data_is(b'{"text": "\xff", "label": "one"}\n'),
        E.INVALID_DATA,
        "error: …/volumes/silo-1/train.jsonl:1: not UTF-8; save the file as UTF-8 without a byte order mark",
    ),
    case(
        "half a line",
        data_is('{"text": "a", "la'),
        E.INVALID_DATA,
        'error: …/volumes/silo-1/train.jsonl:1: not valid JSON; write {"text": "…", "label": "…"} on one line, each field once',
    ),
    case(
        "a line above 1 MiB",
        data_is('{"text": "' + "x" * 1024 * 1024),
        E.INVALID_DATA,
        "error: …/volumes/silo-1/train.jsonl:1: the line is longer than 1048576 bytes; shorten the text",
    ),
    case(
        "no data file for a budget",
        no_data_for_a_budget,
        E.USAGE,
        "error: Invalid value for '--data': File '…/volumes/silo-1/train.jsonl' does not exist; see: foedus budget create --help",
    ),
    case(
        "no data file for a run",
        no_data,
        E.INVALID_DATA,
        "error: spec.clients[0].data.persistentVolumeClaim: no file …/volumes/silo-1/train.jsonl; put the records there, or correct path",
    ),
)

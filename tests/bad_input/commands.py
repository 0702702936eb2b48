"""What a user or a data holder can get wrong at the command line."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from bad_input.cases import NOTHING, Case, exits
from bad_input.sabotage import full_volume, impatient
from bad_input.worlds import Arguments, Machine, command_case
from foedus_contract.exit_codes import ExitCode
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetSpec
from foedus_workloads.training.data import read_records
from support.small_job import RECORDS, SILOS

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


def no_manifest(machine: Machine) -> Arguments:
    return ["run", "-f", str(machine.root / "nothing.yaml"), "--state", str(machine.small.state)]


def oversize(machine: Machine) -> Arguments:
    machine.manifest("# " + "x" * 1024 * 1024)
    return machine.run()


def tagged(machine: Machine) -> Arguments:
    machine.manifest("spec: !!python/object/apply:os.system ['true']\n")
    return machine.run()


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def own_code(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text("utf-8").replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1), "utf-8")


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


def two_engines(machine: Machine) -> Arguments:
    lock = machine.held.enter_context((machine.small.state / "engine.lock").open("w"))
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return machine.run()


def locked_ledger(machine: Machine) -> Arguments:
    """Another program, such as a back-up, holds one silo's ledger and does not let go of it."""
    connection = machine.held.enter_context(closing(sqlite3.connect(machine.ledger_file(SILOS[1]))))
    connection.execute("BEGIN EXCLUSIVE")
    return machine.run()


def no_state(machine: Machine) -> Arguments:
    return [*machine.run(), "--state", str(machine.root / "nowhere")]


def state_is_a_file(machine: Machine) -> Arguments:
    """Not writable for anybody, root included: the folder above is a file."""
    (machine.root / "file").write_text("", "utf-8")
    return [*machine.run(), "--state", str(machine.root / "file/state")]


def budget_state_is_a_file(machine: Machine) -> Arguments:
    (machine.root / "file").write_text("", "utf-8")
    return [*machine.create_budget(), "--state", str(machine.root / "file/state")]


def foreign_store(machine: Machine) -> Arguments:
    with sqlite3.connect(machine.small.state / "objects.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
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


def finished_before(machine: Machine) -> Arguments:
    (machine.root / "out").mkdir()
    (machine.root / "out/adapter_model.safetensors").write_bytes(b"")
    return machine.run()


def out_is_below_a_file(machine: Machine) -> Arguments:
    (machine.root / "file").write_text("", "utf-8")
    return [*machine.run(), "--out", str(machine.root / "file/out")]


def no_data(machine: Machine) -> Arguments:
    machine.data().unlink()
    return machine.run()


def no_data_for_a_budget(machine: Machine) -> Arguments:
    machine.data().unlink()
    return machine.create_budget()


def damaged_ledger_shown(machine: Machine) -> Arguments:
    damaged_ledger(machine)
    return ["budget", SILOS[1], "--state", str(machine.small.state)]


def no_such_budget(machine: Machine) -> Arguments:
    return ["budget", "silo-9", "--state", str(machine.small.state)]


E = ExitCode
MANIFEST = (
    case(
        "no such manifest file",
        no_manifest,
        E.USAGE,
        "error: Invalid value for '-f' / '--file': File '…/nothing.yaml' does not exist; see: foedus run --help",
    ),
    case(
        "a manifest above 1 MiB",
        oversize,
        E.INVALID_SPEC,
        "error: …/job.yaml: the file is larger than 1048576 bytes; split it into several files",
    ),
    case(
        "not YAML",
        edit("spec:\n", "spec: [\n"),
        E.INVALID_SPEC,
        "error: …/job.yaml:7: expected ',' or ']', but got ':'; check the YAML there",
    ),
    case(
        "a YAML tag that would run code",
        tagged,
        E.INVALID_SPEC,
        "error: …/job.yaml:1: the tag tag:yaml.org,2002:python/object/apply:os.system is not known; remove it",
    ),
    case(
        "an unknown kind",
        edit("kind: FederatedTrainingJob", "kind: TrainingJob"),
        E.INVALID_SPEC,
        "error: …/job.yaml: foedus.dev/v1alpha1, TrainingJob is not known; use apiVersion foedus.dev/v1alpha1 and kind FederatedTrainingJob or PrivacyBudget",
    ),
    case(
        "a wrong apiVersion",
        edit("foedus.dev/v1alpha1", "foedus.dev/v9"),
        E.INVALID_SPEC,
        "error: …/job.yaml: foedus.dev/v9, FederatedTrainingJob is not known; use apiVersion foedus.dev/v1alpha1 and kind FederatedTrainingJob or PrivacyBudget",
    ),
    case(
        "a key twice",
        edit("  lora:\n", "  training: {rounds: 9}\n  lora:\n"),
        E.INVALID_SPEC,
        'error: …/job.yaml:53: the key "training" occurs twice; remove one',
    ),
    case(
        "an unknown field",
        edit("targetModules:", "targetModule:"),
        E.INVALID_SPEC,
        "error: …/job.yaml: spec.lora.targetModule: is not a known field; did you mean targetModules?",
    ),
    case(
        "a number in quotes",
        edit("epsilon: 1\n", 'epsilon: "1e-5"\n'),
        E.INVALID_SPEC,
        "error: …/job.yaml: spec.privacy.epsilon: must be a number; write it without quotes",
    ),
    case(
        "`epsilon: 1e-5`: kubectl reads a number, and it is too small",
        edit("epsilon: 1\n", "epsilon: 1e-5\n"),
        E.UNPLANNABLE,
        "error: Unplannable: the noise would be 510.96 times the clip norm (κ, at most 2); adapt fewer parameters (spec.lora.rank, lastLayers), run fewer rounds, bring more records or more ε",
    ),
    case(
        "the label `no` without quotes: kubectl reads false",
        edit("- one\n", "- no\n"),
        E.INVALID_SPEC,
        "error: …/job.yaml: spec.model.labels[0]: must be text; put it in quotes",
    ),
    case(
        "ε of zero",
        change(privacy__epsilon=0),
        E.INVALID_SPEC,
        "error: …/job.yaml: spec.privacy.epsilon: must be greater than 0",
    ),
    case(
        "ε below zero",
        change(privacy__epsilon=-1),
        E.INVALID_SPEC,
        "error: …/job.yaml: spec.privacy.epsilon: must be greater than 0",
    ),
    case(
        "ε that is not a number (`.nan`)",
        edit("epsilon: 1\n", "epsilon: .nan\n"),
        E.INVALID_SPEC,
        "error: …/job.yaml:19: .nan is no number that JSON knows; write a finite number",
    ),
    case(
        "ε without bound (`.inf`)",
        edit("epsilon: 1\n", "epsilon: .inf\n"),
        E.INVALID_SPEC,
        "error: …/job.yaml:19: .inf is no number that JSON knows; write a finite number",
    ),
    case(
        "δ of 1/N",
        change(privacy__delta=1 / (4 * RECORDS)),
        E.INVALID_SPEC,
        "error: DeltaTooLarge: spec.privacy.delta: 0.00416667 must be below 1/N = 0.00417 for the 240 records of all silos; choose a smaller delta",
    ),
    case(
        "a threshold above the silos",
        change(aggregation__threshold=5),
        E.INVALID_SPEC,
        "error: …/job.yaml: spec.aggregation.threshold: must be at least ⌊2n/3⌋+1 and at most n for n clients; leave it out for ⌊2n/3⌋+1",
    ),
    case(
        "more colluders than n_min allows",
        change(aggregation__colluders=3),
        E.INVALID_SPEC,
        "error: …/job.yaml: spec.aggregation.colluders: threshold - colluders must be at least 2: colluders subtract their own part, and what is left must not be one silo's; lower colluders or add clients",
    ),
    case(
        "too few silos",
        change(clients=[]),
        E.INVALID_SPEC,
        "error: …/job.yaml: spec.clients: must have at least 4 entries, and has 0",
    ),
)
MODEL = (
    case(
        "no such package",
        change(model__source={"package": {"name": "no-such-model"}}),
        E.INVALID_MODEL,
        "error: InvalidModel: spec.model.source.package: the package 'no-such-model' is not installed; pip install no-such-model",
    ),
    case(
        "no such volume",
        change(model__source={"persistentVolumeClaim": {"claimName": "nowhere"}}),
        E.INVALID_MODEL,
        "error: InvalidModel: spec.model.source.persistentVolumeClaim: no volume nowhere; make a folder of that name below --volumes",
    ),
    case(
        "no model folder",
        model_is(shutil.rmtree),
        E.INVALID_MODEL,
        "error: InvalidModel: …/volumes/base/model/config.json: the file cannot be read; the base model's folder is incomplete",
    ),
    case(
        "weights cut off",
        model_is(truncated),
        E.INVALID_MODEL,
        "error: InvalidModel: …/volumes/base/model/model.safetensors: the weights file is cut off; the folder must hold a complete model.safetensors; other formats can run code and are not read",
    ),
    case(
        "pickled weights only",
        model_is(pickle_only),
        E.INVALID_MODEL,
        "error: InvalidModel: …/volumes/base/model/model.safetensors: the weights file cannot be read; the folder must hold a complete model.safetensors; other formats can run code and are not read",
    ),
    case(
        "a model that brings code of its own",
        model_is(own_code),
        E.INVALID_MODEL,
        "error: InvalidModel: …/volumes/base/model/config.json: auto_map is not supported; use a plain BERT encoder in floating point",
    ),
    case(
        "not a PEFT target",
        change(lora__targetModules=["qkv_proj"]),
        E.INVALID_MODEL,
        "error: InvalidModel: spec.lora.targetModules: 'qkv_proj' is no linear layer of the base model; choose from query, key, value, attention.output.dense, intermediate.dense, output.dense",
    ),
    case(
        "more layers to adapt than there are",
        change(lora__lastLayers=3),
        E.INVALID_MODEL,
        "error: InvalidModel: spec.lora.lastLayers: 3 is more than the 2 layers of the base model; lower it",
    ),
    case(
        "more tokens than the model takes",
        change(model__maxTokens=128),
        E.INVALID_MODEL,
        "error: InvalidModel: spec.model.maxTokens: 128 tokens are asked for, the base model takes 64; lower it",
    ),
)
BUDGETS = (
    case(
        "unplannable ε: the noise would drown the gradient",
        change(privacy__epsilon=0.001),
        E.UNPLANNABLE,
        "error: Unplannable: the noise would be 126.00 times the clip norm (κ, at most 2); adapt fewer parameters (spec.lora.rank, lastLayers), run fewer rounds, bring more records or more ε",
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
        "another engine on the state folder",
        two_engines,
        E.UNAVAILABLE,
        "error: …/state: another engine uses this state folder; wait for it to end, or choose another folder with --state",
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
        "error: …/fresh/volumes/default/silo-1-ledger/ledger.sqlite: the ledger cannot be written (disk I/O error); check the volume's space and permissions",
        full_volume,
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

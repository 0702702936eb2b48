"""What the author of a manifest can get wrong."""

from __future__ import annotations

from bad_input.command_line import E, case, change, edit
from bad_input.worlds import Arguments, Machine
from support.small_job import RECORDS


def no_manifest(machine: Machine) -> Arguments:
    return ["run", "-f", str(machine.root / "nothing.yaml"), "--state", str(machine.small.state)]


def oversize(machine: Machine) -> Arguments:
    machine.manifest("# " + "x" * 1024 * 1024)
    return machine.run()


def tagged(machine: Machine) -> Arguments:
    machine.manifest("spec: !!python/object/apply:os.system ['true']\n")
    return machine.run()


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
        "error: Unplannable: the noise would be 511.08 times the clip norm (κ, at most 2); adapt fewer parameters (spec.lora.rank, lastLayers), run fewer rounds, bring more records or more ε",
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
        "a suspended job",
        change(suspend=True),
        E.INVALID_SPEC,
        "error: …/job.yaml: spec.suspend: a run of a suspended job would never end; leave it out; an interrupted run gives back what it has not spent",
    ),
    case(
        "too few silos",
        change(clients=[]),
        E.INVALID_SPEC,
        "error: …/job.yaml: spec.clients: must have at least 4 entries, and has 0",
    ),
)

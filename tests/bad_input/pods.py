"""What a silo's or a coordinator's process finds wrong with what is mounted, and with its clock."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import numpy as np
from cryptography import x509
from safetensors.numpy import load_file, save_file

from bad_input.cases import NOTHING, Case, Seen, charges, exits
from bad_input.processes import Ended, Sabotage, pod
from bad_input.sabotage import Clock
from bad_input.worlds import texts
from foedus_contract.exit_codes import ExitCode
from foedus_contract.identities import silo_uri
from foedus_contract.run_spec import SiloPolicy
from foedus_workloads.training.data import Record, write_records
from foedus_workloads.training.identity import load_identity
from support import training_world
from support.tiny_bert import write_tiny_bert
from support.training_world import SILOS, World

SILO = "silo-a"
YEAR = 365 * 86400.0
Spoil = Callable[[World], AbstractContextManager[None] | None]
E = ExitCode


def counts(world: World) -> dict[str, int]:
    """Return the attempts charged in each silo's ledger that can be read."""
    charged = {}
    for silo in SILOS:
        with suppress(Exception):
            charged[silo] = world.ledger(silo).read().accounts[world.plan.uid].charged
    return charged


def write_spec(world: World, role: str, incarnation: int = 0) -> Path:
    """Write the role's run spec and return it."""
    spec = world.coordinator_spec() if role == "coordinator" else world.client_spec(role)
    file = world.root / f"{role}.json"
    file.write_bytes(spec.model_copy(update={"incarnation": incarnation}).to_json())
    return file


def pin_all(world: World) -> None:
    """Give the silos their keys and pin them, as the engine does once all have shown theirs."""
    keys = {name: load_identity(world.root / name, os.urandom).public_key() for name in SILOS}
    policy = SiloPolicy(pinned={name: key.public_bytes_raw() for name, key in keys.items()})
    (world.root / "policy.json").write_bytes(policy.to_json())


def seen(world: World, ended: Ended) -> Seen:
    written = (ended.out, ended.err, *texts(world.root))
    return Seen(tuple(ended.err.splitlines()), exits(ended.code), charges(counts(world)), "\n".join(written))


def case(
    wrong: str, spoil: Spoil, code: ExitCode, line: str, *, role: str = SILO, sabotage: Sabotage | None = None
) -> Case:
    """Return the case of one process that finds something wrong."""

    def act(root: Path) -> Seen:
        root.mkdir()
        world = training_world.build_world(root)
        pin_all(world)
        spec = write_spec(world, role)
        with spoil(world) or nullcontext():
            ended = pod(root, spec, sabotage).wait()
        return seen(world, ended)

    return Case(wrong, line, exits(code), NOTHING, act)


def records_are(*records: Record) -> Spoil:
    return lambda world: write_records(world.root / SILO / "train.jsonl", records)


def removed(name: str) -> Spoil:
    return lambda world: (world.root / name).unlink()


def written(name: str, content: bytes) -> Spoil:
    def spoil(world: World) -> None:
        (world.root / name).parent.mkdir(parents=True, exist_ok=True)
        (world.root / name).write_bytes(content)

    return spoil


def other_model(world: World) -> None:
    write_tiny_bert(world.root / "model", seed=1)


def weights_with_nan(world: World) -> None:
    """The model was broken before the plan was made for it, so its digest is the plan's."""
    file = world.root / "model/model.safetensors"
    tensors = load_file(file)
    tensors["pooler.dense.bias"][0] = np.nan
    save_file(tensors, file)
    replan(world, model={"digest": training_world.check_base(world.root / "model").digest})


def replan(world: World, **changes: dict[str, object]) -> None:
    """Write the run specs again for a plan with some of its parts changed."""
    for role in ("coordinator", *SILOS):
        file = world.root / f"{role}.json"
        if file.exists():
            document = json.loads(file.read_bytes())
            for part, values in changes.items():
                document["plan"][part] |= values
            file.write_text(json.dumps(document), "utf-8")


def replanned(**changes: dict[str, object]) -> Spoil:
    return lambda world: replan(world, **changes)


def other_silos_key(world: World) -> None:
    shutil.copy(world.root / "tls/silo-b/tls.key", world.root / f"tls/{SILO}/tls.key")


def unknown_spec_field(world: World) -> None:
    file = world.root / f"{SILO}.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"sampler": "none"}), "utf-8")


def dates(role: str, begin: float, end: float) -> Spoil:
    """Return the case of a certificate that is good from `begin` to `end`, in years from now."""

    def spoil(world: World) -> None:
        name: x509.GeneralName = x509.DNSName("job-coordinator")
        if role != "coordinator":
            name = x509.UniformResourceIdentifier(silo_uri("ns", "job", role))
        world.authority.issue(world.root / "tls" / role, name, years=(begin, end))

    return spoil


def policy_without_own_key(world: World) -> None:
    keys = {name: bytes([number]) * 32 for number, name in enumerate(SILOS)}
    (world.root / "policy.json").write_bytes(SiloPolicy(pinned=keys).to_json())


def public_is_a_silos(world: World) -> None:
    shutil.copy(world.root / "silo-b/train.jsonl", world.root / "public.jsonl")


MOUNTS = (
    case(
        "a run spec with an unknown field",
        unknown_spec_field,
        E.INVALID_SPEC,
        "foedus: run spec: Client.sampler: Extra inputs are not permitted",
    ),
    case(
        "data changed after the budget was made",
        records_are(Record("changed", "one")),
        E.INVALID_DATA,
        "silo silo-a: …/silo-a/train.jsonl: the data is not what the plan was made for; make a budget for this very data, or put the old data back",
    ),
    case(
        "a label outside the list",
        records_are(Record("a", "one"), Record("b", "three")),
        E.INVALID_DATA,
        "silo silo-a: …/silo-a/train.jsonl:2: the label is not one of one, two; correct it or the list of labels",
    ),
    case(
        "data gone",
        removed(f"{SILO}/train.jsonl"),
        E.INVALID_DATA,
        "silo silo-a: …/silo-a/train.jsonl: cannot read the data file (No such file or directory); check clients[].data",
    ),
    case(
        "another base model",
        other_model,
        E.INVALID_MODEL,
        "silo silo-a: …/model: the base model is sha256:…, the plan was made for sha256:…; use the same model files everywhere",
    ),
    case(
        "a base model with NaN among its weights",
        weights_with_nan,
        E.INVALID_MODEL,
        "silo silo-a: …/model: a weight of the base model is not finite; take a complete copy of the model",
    ),
    case(
        "not a PEFT target",
        replanned(model={"lora": {"rank": 1, "alpha": 1, "targetModules": ["qkv_proj"], "lastLayers": 1}}),
        E.INVALID_MODEL,
        "silo silo-a: spec.lora.targetModules: 'qkv_proj' is not a module that LoRA can adapt; choose from query, key, value, attention.output.dense, intermediate.dense, output.dense",
    ),
    case(
        "public data that are a silo's own",
        public_is_a_silos,
        E.INVALID_DATA,
        "coordinator: spec.evaluation.data: these are the records of silo-b, not public ones; name held-out data that may be public",
        role="coordinator",
    ),
    case(
        "no certificate",
        removed(f"tls/{SILO}/tls.crt"),
        E.IDENTITY_REFUSED,
        "silo silo-a: …/tls/silo-a/tls.crt: the file is missing; mount the Secret that holds this role's certificate, key and the job's CA",
    ),
    case(
        "the key of another certificate",
        other_silos_key,
        E.IDENTITY_REFUSED,
        "silo silo-a: …/tls/silo-a/tls.crt: certificate and key (…/tls/silo-a/tls.key) do not fit or are not PEM; mount the Secret that holds this role's certificate, key and the job's CA",
    ),
    case(
        "a damaged identity key",
        written(f"{SILO}/identity.key", b"x" * 31),
        E.IDENTITY_REFUSED,
        "silo silo-a: …/silo-a/identity.key: the identity key is damaged; restore it; with a new key the peers must pin this silo again",
    ),
    case(
        "a policy that pins another key for this silo",
        policy_without_own_key,
        E.IDENTITY_REFUSED,
        "silo silo-a: …/policy.json: the policy does not pin this silo's own key; pin the key that this silo reports",
    ),
    case(
        "a silo's certificate has expired",
        dates(SILO, -2, -1),
        E.IDENTITY_REFUSED,
        "silo silo-a: …/tls/silo-a/tls.crt: the certificate is good from … to …, and this machine's clock says …; set the clock, or create the job again: each job has certificates of its own",
    ),
    case(
        "the coordinator's certificate has expired: its own process",
        dates("coordinator", -2, -1),
        E.IDENTITY_REFUSED,
        "coordinator: …/tls/coordinator/tls.crt: the certificate is good from … to …, and this machine's clock says …; set the clock, or create the job again: each job has certificates of its own",
        role="coordinator",
    ),
    case(
        "a silo's clock set back by ten years",
        lambda world: None,
        E.IDENTITY_REFUSED,
        "silo silo-a: …/tls/silo-a/tls.crt: the certificate is good from … to 2120-01-01 00:00 UTC, and this machine's clock says …; set the clock, or create the job again: each job has certificates of its own",
        sabotage=Clock(-10 * YEAR),
    ),
)

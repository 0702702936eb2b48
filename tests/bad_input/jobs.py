"""Whole jobs of real processes with one of them, or its volume, clock or data, out of order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from bad_input.cases import Case, Seen, charges, exits
from bad_input.pods import counts, write_spec
from bad_input.processes import LIMIT_SECONDS, Ended, Process, Sabotage, pod
from bad_input.sabotage import (
    Before,
    Tamper,
    day_back,
    full_volume,
    gradients_not_finite,
    half_vector,
    invented_keys,
    lock_ledger,
    long_vector,
    lying_count,
    missing_share,
    other_name,
    replays,
)
from bad_input.volumes import journal
from bad_input.worlds import texts
from foedus.display import Standing, round_line
from foedus_contract.progress import RoundFinished, TrainingResult
from support import training_world
from support.crash_processes import pin_identities
from support.training_world import SILOS, World

COORDINATOR = "coordinator"
OTHERS = ("silo-a", "silo-b", "silo-c")
Line = Callable[[World, Mapping[str, Ended]], str]


def run_job(world: World, sabotaged: Mapping[str, Sabotage], again: str = "") -> dict[str, Ended]:
    """Run all roles to their ends; the role `again` is started anew when it has ended with a retryable code."""
    processes = {role: start(world, role, 0, sabotaged.get(role)) for role in (COORDINATOR, *SILOS)}
    deadline = time.monotonic() + LIMIT_SECONDS
    try:
        while any(process.runs for process in processes.values()):
            assert time.monotonic() < deadline, "it hangs"
            pin_identities(world)
            if again and not processes[again].runs:
                assert processes[again].wait().code == 40
                processes[again] = start(world, again, 1, None)
                again = ""
            time.sleep(0.02)
        return {role: process.wait() for role, process in processes.items()}
    finally:
        for process in processes.values():
            process.end()


def start(world: World, role: str, incarnation: int, sabotage: Sabotage | None) -> Process:
    spec = write_spec(world, role, incarnation)
    return pod(world.root, spec, sabotage)


def result_line(world: World) -> str:
    """Return what came out, and with whom, and check that the adapter is finite."""
    path = world.root / "foedus/run/termination-log"
    result = TrainingResult.from_json(path.read_bytes())
    last = world.rounds()[-1]
    tensors = load_file(world.root / "output/adapter/adapter_model.safetensors")
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    rounds = f"{result.rounds} round{'s' if result.rounds > 1 else ''}"
    attempts = f"{result.attempts} attempt{'s' if result.attempts > 1 else ''}"
    return f"{result.outcome}: {rounds} in {attempts}, the last with {', '.join(last.survivors)}"


def last_round(world: World, _ended: Mapping[str, Ended]) -> str:
    """Return the line that a user sees of the last round."""
    event: RoundFinished = world.rounds()[-1]
    return round_line(event, Standing(rounds=world.plan.rounds))


def last_word(role: str) -> Line:
    return lambda world, ended: ended[role].err.rstrip("\n")


def case(
    wrong: str,
    line: str,
    end: str,
    charged: Mapping[str, int],
    *,
    shows: Line = last_round,
    again: str = "",
    rounds: int = 1,
    records: Mapping[str, int] | None = None,
    spoil: Callable[[World], object] = lambda world: None,
    **sabotaged: Sabotage,
) -> Case:
    """Return the case of a job whose `sabotaged` roles (`silo_d`) are out of order; all others must end well."""
    roles = {role.replace("_", "-"): sabotage for role, sabotage in sabotaged.items()}

    def act(root: Path) -> Seen:
        root.mkdir()
        world = training_world.build_world(root, rounds=rounds, records=records)
        spoil(world)
        ended = run_job(world, roles, again)
        honest = {role: one.code for role, one in ended.items() if role not in roles or role == again}
        assert set(honest.values()) <= {0}, (honest, {role: one.err for role, one in ended.items()})
        said = "\n".join((*(one.out + one.err for one in ended.values()), *texts(root)))
        spoilt = {exits(ended[role].code) for role in roles if role != again and ended[role].code}
        tail = f"; the silo ends with {spoilt.pop()}" if spoilt else ""
        return Seen((shows(world, ended),), result_line(world) + tail, charges(counts(world)), said)

    return Case(wrong, line, end, charges(charged), act)


ALL = dict.fromkeys(SILOS, 1)
THREE = dict.fromkeys(OTHERS, 1)
ONE_ROUND = "Complete: 1 round in 1 attempt, the last with silo-a, silo-b, silo-c"
WHOLE = f"{ONE_ROUND}, silo-d"
INTERNAL, IDENTITY, AWAY = exits(1), exits(21), exits(40)


PEERS = (
    case(
        "wrong shape: half a vector",
        "round 1/1: 3 silos without silo-d (MaskedVector: the vector must have 130 coordinates), ε spent 0.726, accuracy …",
        ONE_ROUND,
        ALL,
        silo_d=Tamper(half_vector),
    ),
    case(
        "lying counts: half a vector, named as whole",
        "silo silo-d: job-coordinator at 127.0.0.1:…: the coordinator's answer cannot be used (status 400, MaskedVector: the payload is not one uint32 a coordinate); see what stands between it and the silo, and run the same release on both sides",
        f"{ONE_ROUND}; the silo ends with {INTERNAL}",
        ALL,
        shows=last_word("silo-d"),
        silo_d=Tamper(lying_count),
    ),
    case(
        "an oversized body: a hundred vectors",
        "silo silo-d: job-coordinator at 127.0.0.1:…: the coordinator's answer cannot be used (status 413, MaskedVector: the payload is too large); see what stands between it and the silo, and run the same release on both sides",
        f"{ONE_ROUND}; the silo ends with {INTERNAL}",
        ALL,
        shows=last_word("silo-d"),
        silo_d=Tamper(long_vector),
    ),
    case(
        "keys that are not signed",
        "round 1/1: 3 silos without silo-d (signature: the keys of silo silo-d are not signed for this attempt by the pinned identity), ε spent 0.726, accuracy …",
        ONE_ROUND,
        THREE,
        silo_d=Tamper(invented_keys),
    ),
    case(
        "a share is missing",
        "round 1/1: 3 silos without silo-d (ShareKeys: it is not for exactly the other silos of the roster), ε spent 0.726, accuracy …",
        ONE_ROUND,
        THREE,
        silo_d=Tamper(missing_share),
    ),
    case(
        "another silo's name",
        "silo silo-d: silo-d: the frame is not the certificate's own message",
        f"{ONE_ROUND}; the silo ends with {IDENTITY}",
        THREE,
        shows=last_word("silo-d"),
        silo_d=Tamper(other_name),
    ),
    case(
        "replayed messages, and those of a stale round",
        "round 2/2: 4 silos, ε spent 1.061, accuracy …",
        WHOLE.replace("1 round in 1 attempt", "2 rounds in 2 attempts"),
        dict.fromkeys(SILOS, 2),
        rounds=2,
        silo_d=Tamper(replays),
    ),
    case(
        "NaN and infinities among a silo's gradients",
        "round 1/1: 4 silos, ε spent 0.726, accuracy …",
        WHOLE,
        ALL,
        silo_d=gradients_not_finite,
    ),
)
VOLUMES = (
    case(
        "a silo's ledger is locked when a charge is due",
        "round 1/1: 3 silos without silo-d (refused: the ledger does not answer), ε spent 0.726, accuracy …",
        ONE_ROUND,
        THREE,
        silo_d=Before("ChargeLedger", lock_ledger),
    ),
    case(
        "a silo's disk is full when a charge is due",
        "round 1/1: 3 silos without silo-d (refused: the ledger does not answer), ε spent 0.726, accuracy …",
        ONE_ROUND,
        THREE,
        silo_d=Before("ChargeLedger", full_volume),
    ),
    case(
        "a silo's disk is full before it notes its charge",
        "silo silo-d: …/silo-d/state/journal-….jsonl: cannot be written (File too large); free space on the volume, or mend it",
        f"{ONE_ROUND}; the silo ends with {AWAY}",
        THREE,
        shows=last_word("silo-d"),
        silo_d=Before("JournalSilo Charging", full_volume),
    ),
    case(
        "a silo's disk is full after its charge",
        "silo silo-d: …/silo-d/state/journal-….jsonl: cannot be written (File too large); free space on the volume, or mend it",
        f"{ONE_ROUND}; the silo ends with {AWAY}",
        ALL,
        shows=last_word("silo-d"),
        silo_d=Before("JournalSilo Uploaded", full_volume),
    ),
    case(
        "the coordinator's disk is full once; it is started again",
        "round 1/1: 4 silos, ε spent 1.061, accuracy …",
        WHOLE.replace("in 1 attempt", "in 2 attempts"),
        dict.fromkeys(SILOS, 2),
        again=COORDINATOR,
        coordinator=Before("SaveCheckpoint", full_volume),
    ),
    case(
        "half a line at the end of a silo's journal",
        "round 1/1: 4 silos, ε spent 0.726, accuracy …",
        WHOLE,
        ALL,
        spoil=journal("silo-d", b'{"round":0,"att'),
    ),
    case(
        "half a line at the end of the coordinator's journal",
        "round 1/1: 4 silos, ε spent 0.726, accuracy …",
        WHOLE,
        ALL,
        spoil=journal(COORDINATOR, b'{"entry":"Be'),
    ),
)
DATA = (
    case(
        "one silo has ten times the data",
        "round 1/1: 4 silos, ε spent 0.726, accuracy …",
        WHOLE,
        ALL,
        records={"silo-d": 90},
    ),
)
CLOCKS = (
    case(
        "all clocks are set back by a day in the middle of a round",
        "round 1/1: 4 silos, ε spent 0.726, accuracy …",
        WHOLE,
        ALL,
        coordinator=Before("SetDeadline", day_back),
        **dict.fromkeys(("silo_a", "silo_b", "silo_c", "silo_d"), Before("ComputeSum", day_back)),
    ),
)

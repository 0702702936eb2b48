"""Real processes killed with SIGKILL at every named stage: the job ends right, and the ledger's rule holds.

A stage is the effect that the process was about to execute. What is charged is written out: a coordinator that dies
between the first vector's arrival and its journal's Closed costs every silo one charge without a release.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from foedus_contract.exit_codes import ExitCode
from foedus_workloads.transport.server import ServerSettings
from support.crash_processes import COORDINATOR, Kill, run_processes, trace
from support.training_world import SILOS, World, build_world, with_deadlines

KILLED, DONE = -9, 0
# Per stage of the coordinator: how often the effect comes before the kill, whether the attempt is cut off by it,
# whether the silos have charged for it.
COORDINATOR_STAGES = [
    ("JournalCoordinator Began", 1, 0, 0),
    ("ReportStarted", 1, 0, 0),
    ("JournalCoordinator Opened", 1, 0, 0),
    ("SendTo StartAttempt", 3, 1, 0),
    ("SendTo Roster", 2, 1, 0),
    ("SendTo DeliverShares", 2, 1, 0),
    ("SendTo Survivors", 2, 1, 1),
    ("SendTo SurvivorProof", 2, 1, 1),
    ("ApplySum", 1, 1, 1),
    ("SaveCheckpoint", 1, 1, 1),
    ("JournalCoordinator Closed", 1, 1, 1),
    ("SendTo AttemptOver", 2, 0, 0),
    ("ReportAttempt", 1, 0, 0),
    ("Finish", 1, 0, 0),
]
# Per stage of a silo: whether it has charged, whether its vector is in the sum all the same.
SILO_STAGES = [
    ("KeepBroadcast", 0, 0),
    ("LoadAdapter", 0, 0),
    ("JournalSilo Opened", 0, 0),
    ("Send AdvertiseKeys", 0, 0),
    ("Send ShareKeys", 0, 0),
    ("ComputeSum", 0, 0),
    ("JournalSilo Charging", 0, 0),
    ("ChargeLedger", 0, 0),
    ("DrawNoise", 1, 0),
    ("JournalSilo Uploaded", 1, 0),
    ("Send MaskedVector", 1, 0),
    ("Send ConfirmSurvivors", 1, 1),
    ("JournalSilo Unmasked", 1, 1),
    ("Send Unmask", 1, 1),
]
EVERY_PHASE = {"Send AdvertiseKeys", "Send ShareKeys", "DrawNoise", "Send ConfirmSurvivors", "Send Unmask"}
AROUND_THE_CHARGE = {"ChargeLedger", "JournalSilo Uploaded"}
SEVEN = 7  # silos, of which two may be lost: more than one, which n = 4 cannot show
# For a quorum that can spare nobody: one more that is slow on a loaded machine must not be taken for dead.
PATIENT = ServerSettings(poll_seconds=2, silence_seconds=20.0)


def only_nightly(row: tuple[Any, ...], *in_ci: str) -> object:
    """Mark what only the nightly run plays: some stages are enough for every change."""
    return row if row[0] in in_ci else pytest.param(*row, marks=pytest.mark.nightly)


def charged(world: World) -> list[int]:
    return [world.ledger(silo).read().accounts[world.plan.uid].charged for silo in world.silos]


def check_ledgers(world: World) -> None:
    """Each silo answers each stage of an attempt once, pays before it sends, and is paid for in every release."""
    releases = [row.attempt for row in trace(world, COORDINATOR) if row.release]
    assert len(releases) == len(set(releases))
    confirmed: Counter[int] = Counter()
    for silo in world.silos:
        rows = trace(world, silo)
        done = Counter((row.name, row.attempt) for row in rows if row.attempt is not None)
        once = {"ChargeLedger", "Send AdvertiseKeys", "Send ShareKeys", "Send MaskedVector", "Send Unmask"}
        assert all(count == 1 for (name, _), count in done.items() if name in once)
        paid: set[int | None] = set()
        for row in rows:
            if row.name == "ChargeLedger":
                paid.add(row.attempt)
            assert row.name != "Send MaskedVector" or row.attempt in paid
        assert world.ledger(silo).read().accounts[world.plan.uid].charged == len(paid)
        confirmed.update(row.attempt for row in rows if row.name == "Send ConfirmSurvivors" and row.attempt in paid)
    assert all(confirmed[attempt] >= world.plan.privacy.threshold for attempt in releases)


def test_a_coordinator_killed_at_every_stage_goes_on_each_time(tmp_path: Path) -> None:
    cut, cost = (sum(row[column] for row in COORDINATOR_STAGES) for column in (2, 3))
    world = build_world(tmp_path, rounds=3, spare=cut)
    kills = [Kill(name, count) for name, count, _, _ in COORDINATOR_STAGES]
    out = run_processes(world, {COORDINATOR: kills}, settings=ServerSettings())  # no silo dies: none may be missed
    assert out.codes.pop(COORDINATOR) == [KILLED] * len(COORDINATOR_STAGES) + [DONE]
    assert list(out.codes.values()) == [[DONE]] * 4
    assert out.result is not None
    assert (out.result.outcome, out.result.rounds, out.result.attempts) == ("Complete", 3, 3 + cut)
    assert charged(world) == [3 + cost] * 4
    check_ledgers(world)


@pytest.mark.nightly
@pytest.mark.parametrize(("stage", "count", "cut", "cost"), COORDINATOR_STAGES)
@pytest.mark.parametrize("lost", ["", "output"])
def test_a_coordinator_killed_at_one_stage(
    tmp_path: Path, stage: str, count: int, cut: int, cost: int, lost: str
) -> None:
    world = build_world(tmp_path, rounds=2, spare=2)
    out = run_processes(world, {COORDINATOR: [Kill(stage, count, lost)]})
    assert out.result is not None
    assert (out.result.outcome, out.result.rounds) == ("Complete", 2)
    if not lost:
        assert out.result.attempts == 2 + cut
        assert charged(world) == [2 + cost] * 4
    check_ledgers(world)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(
            [row[0] for row in SILO_STAGES if row[0] in EVERY_PHASE | AROUND_THE_CHARGE],
            id="each phase, and around the charge",
        ),
        pytest.param([row[0] for row in SILO_STAGES], id="every stage", marks=pytest.mark.nightly),
    ],
)
def test_all_silos_killed_again_and_again_come_back_and_the_job_goes_on(tmp_path: Path, names: list[str]) -> None:
    stages = [Kill(name) for name in names]
    # Who comes back late dies in an attempt of its own: at worst each kill costs one.
    world = build_world(tmp_path, rounds=2, spare=len(SILOS) * len(stages))
    out = run_processes(world, dict.fromkeys(SILOS, stages))
    assert out.result is not None, out
    assert (out.result.outcome, out.result.rounds) == ("Complete", 2)
    # Who is late when a quorum is back may still have a kill to go when the job is over.
    whole = [codes for silo, codes in out.codes.items() if codes == [KILLED] * len(stages) + [DONE]]
    assert len(whole) >= world.plan.privacy.threshold
    check_ledgers(world)


@pytest.mark.parametrize("silos", [SEVEN, pytest.param(4, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(("stage", "paid", "in_sum"), [only_nightly(row, *EVERY_PHASE) for row in SILO_STAGES])
def test_as_many_silos_as_may_be_lost_stay_away_from_any_stage_on(
    tmp_path: Path, stage: str, paid: int, in_sum: int, silos: int
) -> None:
    world = build_world(tmp_path, silos=silos, rounds=2)
    quorum = world.plan.privacy.threshold
    staying, gone = world.silos[:quorum], world.silos[quorum:]
    out = run_processes(world, {silo: [Kill(stage)] for silo in gone}, away=frozenset(gone), settings=PATIENT)
    assert [out.codes[silo] for silo in gone] == [[KILLED]] * (silos - quorum)
    assert out.result is not None
    assert (out.result.outcome, out.result.attempts) == ("Complete", 2)
    assert [event.survivors for event in world.rounds()] == [world.silos if in_sum else staying, staying]
    assert charged(world) == [2] * quorum + [paid] * (silos - quorum)
    check_ledgers(world)


@pytest.mark.nightly
@pytest.mark.parametrize("silo_stage", [row[0] for row in SILO_STAGES])
@pytest.mark.parametrize("stage", ["SendTo DeliverShares", "SendTo Survivors", "ApplySum", "JournalCoordinator Closed"])
def test_a_coordinator_and_two_silos_killed_in_one_attempt(tmp_path: Path, stage: str, silo_stage: str) -> None:
    world = build_world(tmp_path, rounds=2, spare=4)
    kills = {COORDINATOR: [Kill(stage, 2)], "silo-a": [Kill(silo_stage)], "silo-b": [Kill(silo_stage, 2)]}
    out = run_processes(world, kills)
    assert out.result is not None
    assert (out.result.outcome, out.result.rounds) == ("Complete", 2)
    check_ledgers(world)


@pytest.mark.parametrize(
    ("stage", "paid", "_in_sum"), [only_nightly(row, "ComputeSum", "Send Unmask") for row in SILO_STAGES]
)
def test_with_one_more_away_the_job_says_so_and_nothing_is_released(
    tmp_path: Path, stage: str, paid: int, _in_sum: int
) -> None:
    world = with_deadlines(build_world(tmp_path, silos=SEVEN, rounds=2), join_seconds=40)
    gone = ("silo-e", "silo-f", "silo-g")
    out = run_processes(world, {silo: [Kill(stage)] for silo in gone}, away=frozenset(gone), settings=PATIENT)
    assert out.result is None
    assert out.codes[COORDINATOR] == [ExitCode.QUORUM_LOST]
    assert f"4 are there, 5 are needed; missing: {', '.join(gone)}" in out.errors[COORDINATOR]
    assert [event.applied for event in world.rounds()] == [False]
    assert charged(world)[4:] == [paid] * 3
    assert not (tmp_path / "output/adapter").exists()
    check_ledgers(world)


@pytest.mark.parametrize(
    ("stage", "count", "silos", "attempts"),
    [
        ("JournalCoordinator Opened", 1, [], 2),  # no silo had a broadcast: the job starts from the beginning
        ("SendTo Survivors", 1, [], 3),  # in the first attempt
        ("ApplySum", 2, [Kill("Send Offer", 2)], 3),  # the second round's sum is lost; all silos die when asked
        ("Finish", 1, [], 3),  # the second round was applied and is lost with the volume
    ],
)
def test_a_lost_volume_costs_at_most_the_last_round(
    tmp_path: Path, stage: str, count: int, silos: list[Kill], attempts: int
) -> None:
    world = build_world(tmp_path, rounds=2, spare=1)
    out = run_processes(world, {COORDINATOR: [Kill(stage, count, lost="output")], **dict.fromkeys(SILOS, silos)})
    assert out.result is not None
    assert (out.result.outcome, out.result.rounds, out.result.attempts) == ("Complete", 2, attempts)
    assert charged(world) == [attempts] * 4
    assert all(len(out.codes[silo]) == 1 + len(silos) for silo in SILOS)
    check_ledgers(world)

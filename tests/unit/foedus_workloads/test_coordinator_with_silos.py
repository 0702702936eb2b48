"""A whole job in one process over real TLS: four silos, and what happens when some of them go.

Without noise the adapter must be the very one that a single process computes from the survivors' records.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from foedus_contract.code import code_digest
from foedus_contract.delivery import describe_folder
from foedus_contract.errors import JobFailed, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import ModelPlan
from foedus_contract.progress import TrainingStarted
from foedus_contract.run_spec import ModelSource
from foedus_workloads.training.data import read_records
from foedus_workloads.training.evaluate import Evaluation
from foedus_workloads.training.export import export_adapter
from foedus_workloads.training.local_step import LocalStep
from foedus_workloads.training.model import AdaptedModel
from foedus_workloads.training.optimizer import ServerOptimizer
from foedus_workloads.transport.client import CoordinatorLink
from support.training_world import SILOS, World, build_world, no_noise, with_deadlines

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
WEIGHTS = "adapter_model.safetensors"
WHOLE = ["Opened", "Charging", "Uploaded", "Unmasked"]


def entries(*stages_of_attempts: Sequence[str]) -> list[tuple[int, str]]:
    return [(attempt, stage) for attempt, stages in enumerate(stages_of_attempts) for stage in stages]


class Vanished(BaseException):
    """Stands for a process that is killed."""


def vanishing(_scale: float, _count: int) -> np.ndarray:
    raise Vanished


@pytest.fixture(autouse=True)
def _no_goodbye_from_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = CoordinatorLink.leave

    async def leave_unless_dead(self: CoordinatorLink) -> None:
        if not isinstance(sys.exception(), Vanished):
            await leave(self)

    monkeypatch.setattr(CoordinatorLink, "leave", leave_unless_dead)


@pytest.fixture(autouse=True)
def _one_model_is_loaded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process of a job loads its own model; here all are threads of one, and loading changes global state."""
    load, lock = AdaptedModel.load, threading.Lock()

    def load_alone(path: Path, plan: ModelPlan, seed: int) -> AdaptedModel:
        with lock:
            return load(path, plan, seed)

    monkeypatch.setattr(AdaptedModel, "load", load_alone)


def delivered(world: World) -> bytes:
    return (world.root / "output/adapter" / WEIGHTS).read_bytes()


def expected_adapter(world: World, taking_part: Sequence[Sequence[str]]) -> bytes:
    """Return the adapter's file after rounds with these silos, computed in the open."""
    plan = world.plan
    model = AdaptedModel.load(world.root / "model", plan.model, plan.seed)
    Evaluation(model, read_records(world.root / "public.jsonl"), batch=plan.micro_batch).centre_head()
    optimizer = ServerOptimizer.fresh(plan.optimizer, model.head_coordinates())
    steps = {name: LocalStep(model, read_records(world.root / name / "train.jsonl"), plan) for name in SILOS}
    for number, silos in enumerate(taking_part):
        factor = model.factor_of_round(number)
        total = sum(steps[name].integer_sum(factor) for name in silos)
        mean = total * (plan.privacy.clip / plan.privacy.grid_per_clip / plan.total_records)
        optimizer, update = optimizer.step(factor, mean, progress=0.0)  # the plan's rates do not fall
        model.add(factor, update.astype(np.float32))
    return (
        export_adapter(model, world.root / "expected", plan=plan, metrics={}, source=ModelSource(path="any")) / WEIGHTS
    ).read_bytes()


async def test_four_silos_train_the_adapter_of_all_their_records(tmp_path: Path) -> None:
    world = build_world(tmp_path, rounds=3)  # B moves in round 2: before, its gradient meets a head of zero
    coordinator = world.coordinator()
    silos = [world.client(name) for name in SILOS]
    await world.publish_policy()
    result = await coordinator
    assert [over.outcome for over in await asyncio.gather(*silos)] == ["Complete"] * 4
    assert (result.outcome, result.rounds, result.attempts) == ("Complete", 3, 3)
    assert delivered(world) == expected_adapter(world, [SILOS] * 3)
    assert result.adapter_digest == describe_folder(tmp_path / "output/adapter").digest()
    started = next(event for event in world.events() if isinstance(event, TrainingStarted))
    assert (started.joined, started.trainable_parameters) == (SILOS, 2 * (32 + 32) + 2 * 33)
    assert started.code_digest == code_digest()
    card = (tmp_path / "output/adapter/README.md").read_text("utf-8")
    assert f"- Code: Foedus {version('foedus')}, {code_digest()}\n" in card
    assert [(event.applied, event.survivors, event.dropped) for event in world.rounds()] == [(True, SILOS, ())] * 3
    assert [event.epsilon_spent for event in world.rounds()] == sorted({e.epsilon_spent for e in world.rounds()})
    for phases, seconds in ((event.phases, event.seconds) for event in world.rounds()):
        assert phases is not None
        assert phases.agree + phases.compute + phases.unmask + phases.apply == pytest.approx(seconds)
        assert min(phases.agree, phases.compute, phases.unmask, phases.apply) > 0
    for name in SILOS:
        assert world.ledger(name).read().accounts["7d0f"].charged == 3
        assert world.journal(name) == entries(WHOLE, WHOLE, WHOLE)
    tensors = safetensors.numpy.load_file(tmp_path / "output/adapter/adapter_model.safetensors")
    assert any(np.abs(value).max() > 0 for name, value in tensors.items() if "lora_B" in name)


async def test_a_silo_that_vanishes_in_a_round_is_left_out_and_its_charge_stays(tmp_path: Path) -> None:
    world = build_world(tmp_path)
    coordinator = world.coordinator()
    silos = [world.client(name) for name in SILOS[:3]]
    gone = world.client("silo-d", sampler=vanishing)
    await world.publish_policy()
    with pytest.raises(Vanished):
        await gone
    result = await coordinator
    await asyncio.gather(*silos)
    assert (result.outcome, result.attempts) == ("Complete", 2)
    assert delivered(world) == expected_adapter(world, [SILOS[:3], SILOS[:3]])
    assert [event.dropped for event in world.rounds()] == [("silo-d",), ()]
    assert world.ledger("silo-d").read().accounts["7d0f"].charged == 1
    assert world.journal("silo-d") == entries(WHOLE[:2])


async def test_with_too_many_gone_the_job_fails_with_a_reason_and_nothing_is_released(tmp_path: Path) -> None:
    world = with_deadlines(build_world(tmp_path), join_seconds=20)
    coordinator = world.coordinator()
    silos = [world.client(name) for name in SILOS[:2]]
    gone = [world.client(name, sampler=vanishing) for name in SILOS[2:]]
    await world.publish_policy()
    assert {type(error) for error in await asyncio.gather(*gone, return_exceptions=True)} == {Vanished}
    with pytest.raises(JobFailed, match="too few silos are left: 2 are there, 3 are needed; missing: silo-c, silo-d"):
        await coordinator
    assert [over.outcome for over in await asyncio.gather(*silos)] == ["Failed"] * 2
    assert [(event.applied, event.dropped) for event in world.rounds()] == [(False, ("silo-c", "silo-d"))]
    assert not (tmp_path / "output/adapter").exists()
    assert [world.journal(name) for name in SILOS[:2]] == [entries(WHOLE[:3])] * 2


async def test_a_silo_that_comes_back_takes_part_in_the_spare_attempt_with_a_new_charge(tmp_path: Path) -> None:
    world = build_world(tmp_path)
    coordinator = world.coordinator()
    silos = [world.client(name) for name in SILOS[:2]]
    gone = [world.client(name, sampler=vanishing) for name in SILOS[2:]]
    await world.publish_policy()
    await asyncio.gather(*gone, return_exceptions=True)
    back = world.client("silo-c", incarnation=1)
    result = await coordinator
    await asyncio.gather(*silos, back)
    assert (result.outcome, result.rounds, result.attempts) == ("Complete", 2, 3)
    assert delivered(world) == expected_adapter(world, [SILOS[:3], SILOS[:3]])
    assert [(event.round, event.attempt, event.applied) for event in world.rounds()] == [
        (0, 0, False),
        (0, 1, True),
        (1, 2, True),
    ]
    assert world.journal("silo-c") == entries(WHOLE[:2], WHOLE, WHOLE)
    assert world.ledger("silo-c").read().accounts["7d0f"].charged == 3


async def test_a_silo_whose_ledger_refuses_says_so_and_leaves_and_the_others_go_on(tmp_path: Path) -> None:
    world = build_world(tmp_path, reserved={"silo-b": 1})
    coordinator = world.coordinator()
    silos = {name: world.client(name, sampler=no_noise) for name in SILOS}
    await world.publish_policy()
    await coordinator
    with pytest.raises(Refused) as caught:
        await silos["silo-b"]
    assert caught.value.code is ExitCode.BUDGET_REFUSED
    assert delivered(world) == expected_adapter(world, [SILOS, [name for name in SILOS if name != "silo-b"]])
    assert [event.dropped for event in world.rounds()] == [(), ("silo-b",)]
    assert world.journal("silo-b") == entries(WHOLE, WHOLE[:2])

"""Every way in which silos can be lost in an attempt of ten: the sum is the survivors' or there is none."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foedus_workloads.secagg.effects import Aborted, Released
from support.secagg_world import (
    STAGES,
    World,
    make_world,
    of_kind,
    outcome,
    plain_sum,
    play,
    play_stage,
    unmask_answers,
)

SILOS = [f"silo-{index:02d}" for index in range(1, 11)]
THRESHOLD = 7
STAGE_NAMES = ["advertise", "share", "upload", "confirm", "unmask"]


@pytest.fixture(scope="module")
def prefixes() -> list[World]:
    """The honest run up to each stage; every schedule branches off one of them."""
    worlds = [make_world()]
    while len(worlds) < STAGES:
        worlds.append(play_stage(worlds[-1]))
    return worlds


def survivors_of(losses: dict[str, int]) -> list[str]:
    """A silo is part of the sum exactly when it was still there to upload (stages 0 to 2)."""
    return [name for name in SILOS if losses.get(name, STAGES) > 2]


def answered_unmaskings(world: World, losses: dict[str, int]) -> list:
    return [answer for answer in unmask_answers(world) if losses.get(answer.silo, STAGES) > 4]


def check_never_both_kinds(world: World) -> None:
    for answer in unmask_answers(world):
        assert not answer.self_mask_shares.keys() & answer.masking_key_shares.keys()


def check_released(world: World, losses: dict[str, int]) -> None:
    end = outcome(world)
    assert isinstance(end, Released)
    assert list(end.survivors) == survivors_of(losses)
    assert end.total.tolist() == plain_sum(world, survivors_of(losses))
    check_never_both_kinds(world)


def check_nothing_revealed(world: World, losses: dict[str, int]) -> None:
    end = outcome(world)
    assert isinstance(end, Aborted)
    assert of_kind(world.coordinator_log, Released) == []
    given_away = Counter(name for answer in answered_unmaskings(world, losses) for name in answer.self_mask_shares)
    assert all(count < THRESHOLD for count in given_away.values())
    check_never_both_kinds(world)


@pytest.mark.parametrize("stage", range(STAGES), ids=STAGE_NAMES)
def test_every_subset_of_up_to_three_lost_at_a_stage_leaves_the_survivors_sum(
    prefixes: list[World], stage: int
) -> None:
    subsets = [subset for size in range(4) for subset in combinations(SILOS, size)]
    assert len(subsets) == 176
    for subset in subsets:
        losses = dict.fromkeys(subset, stage)
        check_released(play(prefixes[stage], losses), losses)


@pytest.mark.parametrize("gone", [False, True], ids=["silent", "process gone"])
@pytest.mark.parametrize("stage", range(STAGES), ids=STAGE_NAMES)
def test_every_subset_of_four_lost_at_a_stage_aborts_and_reveals_nothing(
    prefixes: list[World], stage: int, gone: bool
) -> None:
    for subset in combinations(SILOS, 4):
        losses = dict.fromkeys(subset, stage)
        ended = play(prefixes[stage], losses, gone=gone)
        check_nothing_revealed(ended, losses)
        if stage < 4:
            assert unmask_answers(ended) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    losses=st.dictionaries(st.sampled_from(SILOS), st.integers(0, STAGES - 1), max_size=6),
    gone=st.booleans(),
)
def test_losses_at_different_stages(prefixes: list[World], losses: dict[str, int], gone: bool) -> None:
    first = min(losses.values(), default=STAGES - 1)
    ended = play(prefixes[first], losses, gone=gone)
    (check_released if len(losses) <= 3 else check_nothing_revealed)(ended, losses)


@settings(max_examples=25, deadline=None)
@given(
    silos=st.integers(4, 7),
    coordinates=st.integers(1, 40),
    data=st.data(),
)
def test_other_sizes(silos: int, coordinates: int, data: st.DataObject) -> None:
    world = make_world(silos=silos, coordinates=coordinates)
    tolerated = silos - world.context.threshold
    losses = data.draw(st.dictionaries(st.sampled_from(world.names), st.integers(0, STAGES - 1), max_size=tolerated))
    end = outcome(play(world, losses))
    survivors = [name for name in world.names if losses.get(name, STAGES) > 2]
    assert isinstance(end, Released)
    assert end.total.tolist() == plain_sum(world, survivors)


def test_a_threshold_of_all_silos_tolerates_no_loss() -> None:
    world = make_world(silos=4, threshold=4)
    assert isinstance(outcome(play(world)), Released)
    assert isinstance(outcome(play(world, {"silo-02": 3})), Aborted)

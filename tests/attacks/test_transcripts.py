"""Exchanging two honest silos' vectors changes nothing that a coordinator with fewer than t silos sees.

The seeds are fixed, so the test says the same in every run. That it can tell a broken build is shown by mutants: masks
from one seed, both secrets released, no masks between pairs.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from attacks.transcripts import LEFT, ONE, RIGHT, SPIES, TWO, cells, p_values, play, residual

SIGNIFICANCE = 1e-3  # of all statistics together, by Bonferroni
WORKERS = 2


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes that have imported what they need once."""
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("spies", SPIES.values(), ids=SPIES)
def test_what_is_left_of_two_uploads_is_their_sum_and_nothing_else(spies: tuple[str, ...]) -> None:
    """The strongest statistics use all that the view gives: only the mask between the two is left."""
    for vectors in (LEFT, RIGHT):
        view = play(vectors, spies, "any")
        first, second = residual(view, ONE), residual(view, TWO)
        assert (first + second).tolist() == [7, 0x7000_000F]
        assert first.tolist() != list(vectors[ONE])


# 300 seeds a world tell the mutants; 5,000 show a shift of a few hundredths of a cell's probability.
@pytest.mark.parametrize("spies", SPIES.values(), ids=SPIES)
@pytest.mark.parametrize("seeds", [300, 5_000, pytest.param(100_000, marks=pytest.mark.nightly)])
def test_the_view_does_not_tell_who_of_two_honest_silos_holds_which_vector(
    pool: ProcessPoolExecutor, seeds: int, spies: tuple[str, ...]
) -> None:
    step = seeds // WORKERS
    parts = [(world, first, first + step) for world in ("left", "right") for first in range(0, seeds, step)]
    found = [(world, pool.submit(cells, world, spies, first, last)) for world, first, last in parts]
    left, right = (
        [each for side, part in found if side == world for each in part.result()] for world in ("left", "right")
    )
    assert len(left) == len(right) == seeds
    tested = p_values(left, right)
    least = min(tested, key=tested.__getitem__)
    alike = tested[least] * len(tested) >= SIGNIFICANCE
    assert alike, f"TOLD APART by the {least}: p = {tested[least]:.1e} of {len(tested)} statistics"

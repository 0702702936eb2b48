"""A silo's sum is the exact integer sum of rows that depend on their own record alone."""

from dataclasses import replace

import numpy as np
import pytest

from foedus_workloads.privacy.noise import OpenDpSampler
from foedus_workloads.secagg.effects import Released
from foedus_workloads.training.base import check_base
from foedus_workloads.training.data import Record, Records, records_digest
from foedus_workloads.training.local_step import LocalStep, encoding_batch, noised
from foedus_workloads.training.model import AdaptedModel
from support.secagg_world import make_world, outcome, play
from support.tiny_bert import SENTENCES, write_tiny_bert
from support.training_plans import LABELS, QUERY_VALUE, tiny_plan

EXTRA = [Record(f"{first} and {second}", LABELS[len(first) % 2]) for first in SENTENCES for second in SENTENCES[:2]]
CORPUS = [Record(text, LABELS[index % 2]) for index, text in enumerate(SENTENCES)] + EXTRA


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_bert(tmp_path_factory.mktemp("step") / "tiny", hidden=64)


def step(folder, records, *, lora=QUERY_VALUE, **options):
    plan = tiny_plan(check_base(folder).digest, lora=lora)
    model = AdaptedModel.load(folder, plan.model, seed=1)
    generator = np.random.default_rng(0)
    for factor in model.factors:
        model.add(factor, 0.2 * generator.normal(size=model.coordinates(factor)))
    return LocalStep(model, Records(tuple(records), records_digest(records)), plan, **options)


@pytest.mark.parametrize(("lora", "factor"), [(QUERY_VALUE, "B"), (QUERY_VALUE, "A"), (None, "None")])
def test_a_records_integers_are_the_same_bits_in_any_company(folder, lora, factor):
    """At its own row: neighbouring data sets differ in one record, and leave every other one where it is."""
    seen = [step(folder, CORPUS[: row + 1], lora=lora).integer_gradients(factor, 0)[row].tolist() for row in range(4)]
    assert all(any(row) for row in seen)
    generator = np.random.default_rng(1)
    for row in 4 * [*range(4)]:
        others = iter(generator.permutation(len(CORPUS)).tolist())
        order = [CORPUS[row if place == row else next(others)] for place in range(12)]
        assert step(folder, order, lora=lora).integer_gradients(factor, 0)[row].tolist() == seen[row]


@pytest.mark.parametrize(("micro_batch", "at_a_time"), [(1, 1), (4, 4), (7, 7), (8, 8), (12, 6), (31, 1), (32, 8)])
def test_texts_are_encoded_few_at_a_time_in_groups_that_end_with_the_micro_batch(micro_batch, at_a_time):
    assert encoding_batch(micro_batch) == at_a_time


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_the_sum_counts_each_record_once_and_null_records_not_at_all(folder, count):
    local = step(folder, CORPUS[:count])
    rows = np.concatenate([local.integer_gradients("B", start) for start in range(0, count, 4)])
    total = local.integer_sum("B")
    assert total.dtype == np.int64
    assert total.tolist() == rows.sum(axis=0).tolist()
    alone = sum(step(folder, [record]).integer_sum("B") for record in CORPUS[:count])
    assert np.abs(total - alone).max() <= count  # elsewhere in a batch a record may round otherwise, by one unit


def test_no_row_is_longer_than_the_sensitivity(folder):
    local = step(folder, CORPUS)
    rows = np.concatenate([local.integer_gradients("A", start) for start in range(0, len(CORPUS), 4)])
    norms = np.sqrt((rows.astype(object) ** 2).sum(axis=1).astype(float))
    assert norms.max() <= tiny_plan("sha256:" + "0" * 64).sensitivity(rows.shape[1])
    assert norms.max() == pytest.approx(4096, abs=12)  # someone is clipped, to the grid of one clip norm


def test_without_room_for_the_cache_the_sum_is_the_same(folder):
    assert (
        step(folder, CORPUS, cache_bytes=0).integer_sum("B").tolist() == step(folder, CORPUS).integer_sum("B").tolist()
    )


def test_a_contribution_is_the_sum_plus_one_share_of_the_plans_scale():
    plan = tiny_plan("sha256:" + "0" * 64)
    asked = []

    def sampler(scale, count):
        asked.append((scale, count))
        return np.array([0, -3, 2**32, 5])

    got = noised(np.array([1, 2, 3, -6]), plan, sampler)
    assert got.dtype == np.uint32
    assert got.tolist() == [1, 2**32 - 1, 3, 2**32 - 1]
    # σ·Δ/√n_min with Δ = 4096 + ⌈√4/2⌉
    assert asked == [(pytest.approx(8.0 * 4097 / 2**0.5), 4)]


def test_the_released_sum_bears_the_noise_that_the_plan_promises():
    """Four silos with nothing to say, real noise, real masks: what is released is noise of n shares."""
    plan = tiny_plan("sha256:" + "0" * 64)
    count = 4096
    sampler = OpenDpSampler()
    world = make_world(silos=4, coordinates=count)
    vectors = {name: noised(np.zeros(count, dtype=np.int64), plan, sampler) for name in world.names}
    released = outcome(play(replace(world, vectors=vectors)))
    assert isinstance(released, Released)
    noise = released.total.astype(np.int32).astype(float)
    # n·(σ·Δ)²/n_min with σ = 8, Δ = 4096 + 32, n = 4, n_min = 2; the statistic is χ² with 4096 degrees: ±6 deviations
    promised = 4 * (8.0 * 4128) ** 2 / 2
    assert abs((noise**2).mean() / promised - 1) < 6 * (2 / count) ** 0.5

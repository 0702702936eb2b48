"""On the examples' own model and shape, a record's integer gradient is the same bits in any company.

Neighbouring data sets differ in one record and leave every other one at its place, so a silo's sums differ by that
record's integers alone: at most Δ. Were another record to round otherwise beside it, the difference would be larger,
and every ε wrong. Libraries choose their kernels by shape, so what holds for a small model need not hold for this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from foedus.corpus import read_corpus
from foedus_contract.plan import TrainingPlan
from foedus_workloads.training.data import Record, Records, records_digest
from foedus_workloads.training.local_step import LocalStep
from foedus_workloads.training.model import AdaptedModel
from support.example_jobs import example_job, example_model_path, example_plan

Rows = Mapping[str, np.ndarray]  # by factor: a micro-batch's integer gradients, a row a record
BATCH = 32  # microBatchSize of the examples


@dataclass(frozen=True)
class Example:
    """An example's trained model, its plan, and texts of its corpus in an order of their own."""

    model: AdaptedModel
    plan: TrainingPlan
    texts: Sequence[Record]

    def gradients(self, records: Sequence[Record], start: int = 0) -> Rows:
        step = LocalStep(self.model, Records(tuple(records), records_digest(records)), self.plan)
        return {factor: step.integer_gradients(factor, start) for factor in self.model.factors}


@cache
def example(name: str, *, head_alone: bool = False) -> Example:
    spec: dict[str, Any] = {"lora": None} if head_alone else {}
    job = example_job(name, **spec)
    plan = example_plan(job, records=170, sigma=17.0)
    model = AdaptedModel.load(example_model_path(job), plan.model, plan.seed)
    generator = np.random.default_rng(0)
    for factor in model.factors:  # B starts at zero, where A has no gradient
        model.add(factor, 0.1 * generator.normal(size=model.coordinates(factor)))
    texts = read_corpus(name)
    return Example(model, plan, [texts[place] for place in generator.permutation(len(texts))])


@cache
def first_micro_batch() -> Rows:
    return example("bbc-news").gradients(example("bbc-news").texts[:BATCH])


def check_same(left: Rows, right: Rows, places: Sequence[int]) -> None:
    assert left.keys() == right.keys()
    for factor, rows in left.items():
        for place in places:
            assert rows[place].any()
            assert np.array_equal(rows[place], right[factor][place]), (factor, place)


def test_the_examples_shape_is_the_one_that_is_tested() -> None:
    """Else the settings have moved, and what is said above about them is to be looked at again."""
    plan = example("bbc-news").plan
    assert (plan.micro_batch, plan.model.max_tokens, example("bbc-news").model.base.hidden) == (BATCH, 256, 384)


@pytest.mark.parametrize("kept", [range(0, BATCH, 2), range(1, BATCH, 2)], ids=["even rows", "odd rows"])
def test_half_of_a_micro_batch_does_not_feel_who_the_other_half_is(kept: range) -> None:
    world = example("bbc-news")
    other = [world.texts[place if place in kept else BATCH + place] for place in range(BATCH)]
    check_same(first_micro_batch(), world.gradients(other), kept)


def test_null_records_are_company_like_any_other() -> None:
    world = example("bbc-news")
    check_same(first_micro_batch(), world.gradients(world.texts[:7]), range(7))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "head_alone"), [("bbc-news", False), ("bbc-news", True), ("tweets", False), ("tweets", True)]
)
def test_each_row_of_the_second_micro_batch_alone_among_all_others_changed(name: str, head_alone: bool) -> None:
    world = example(name, head_alone=head_alone)
    before = world.gradients(world.texts[: 2 * BATCH], start=BATCH)
    generator = np.random.default_rng(1)
    for row in range(BATCH):
        size = int(generator.integers(row + 1, BATCH + 1))  # the rest of the micro-batch are null records
        order = generator.permutation(np.arange(2 * BATCH, len(world.texts)))[: BATCH + size]
        order[BATCH + row] = BATCH + row
        check_same(before, world.gradients([world.texts[place] for place in order], start=BATCH), [row])

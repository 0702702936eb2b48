"""`make bench NAME=mpc-accuracy`: which labels that differ count as explained by rounding."""

from __future__ import annotations

import pytest
from benchmarks.mpc_accuracy import compare

from foedus.inference.answer import Answer

NAMES = ("one", "two")


def answer(*logits):
    label = NAMES[logits.index(max(logits))]
    return Answer(label, {}, logits, tokens=16, seconds=2.0, rounds=1, bytes_sent=(1, 1, 1))


@pytest.mark.parametrize(
    ("got", "explained"),
    [
        ((0.005, 0.02), True),  # a tie but for 0.01, and others err by 0.01
        ((-0.5, 0.5), True),  # whatever its own error is, another label lay so near
    ],
)
def test_a_near_tie_is_explained_by_the_errors_of_other_texts(got, explained):
    found = compare(NAMES, [(1.0, 0.0), (0.01, 0.0)], ["one", "two"], [answer(0.99, 0.0), answer(*got)])
    assert [row["explained"] for row in found["exceptions"]] == [explained]
    assert (found["documents"], found["accuracy"]) == (2, 1.0)


def test_a_label_that_a_large_error_changed_is_not_explained_by_that_very_error():
    found = compare(NAMES, [(1.0, 0.0), (0.5, 0.0)], ["one", "one"], [answer(0.99, 0.0), answer(0.0, 0.5)])
    assert [(row["text"], row["explained"]) for row in found["exceptions"]] == [(1, False)]
    assert found["largestError"] == 0.5

"""`make bench NAME=mpc-accuracy`: which labels that differ count as explained by rounding."""

from __future__ import annotations

import pytest
from benchmarks.mpc_accuracy import find_exceptions

AS_IT_SHOULD = {"label": "one", "plainLabel": "one", "margin": 1.0, "error": 0.01}


@pytest.mark.parametrize(
    ("margin", "error", "explained"),
    [
        (0.01, 0.015, True),  # a tie but for 0.01, where others err by 0.01
        (0.5, 0.5, False),  # only its own error is as large
        (0.02, 0.5, False),
    ],
)
def test_a_label_that_differs_is_explained_by_the_errors_of_other_texts(margin, error, explained):
    other = {"label": "two", "plainLabel": "one", "margin": margin, "error": error}
    assert find_exceptions([AS_IT_SHOULD, other]) == [{"text": 1, **other, "explained": explained}]


def test_without_a_label_that_is_right_nothing_is_explained():
    other = {"label": "two", "plainLabel": "one", "margin": 0.001, "error": 0.01}
    assert [row["explained"] for row in find_exceptions([other])] == [False]

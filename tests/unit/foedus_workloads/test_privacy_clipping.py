"""Clipping bounds every row by itself, whatever the other rows hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foedus_workloads.privacy.clipping import clip_rows

ROWS = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.floats(allow_nan=True, allow_infinity=True, width=32),
)


@pytest.mark.parametrize(
    ("row", "clip", "want"),
    [
        ([3.0, 4.0], 1.0, [0.6, 0.8]),
        ([3.0, 4.0], 5.0, [3.0, 4.0]),
        ([0.3, 0.4], 1.0, [np.float32(0.3), np.float32(0.4)]),
        ([0.0, 0.0], 1.0, [0.0, 0.0]),
        ([np.nan, 4.0], 1.0, [0.0, 0.0]),
        ([np.inf, 4.0], 1.0, [0.0, 0.0]),
        ([0.0, -np.inf], 1.0, [0.0, 0.0]),
        ([3e38, 0.0], 1.0, [1.0, 0.0]),
        ([1e-45, 0.0], 1.0, [np.float32(1e-45), 0.0]),
    ],
)
def test_rows_are_scaled_to_the_clip_and_never_up(row, clip, want):
    assert clip_rows(np.array([row], dtype=np.float32), clip)[0] == pytest.approx(want, rel=1e-12, abs=0)


@given(ROWS, st.floats(1e-3, 1e3))
def test_no_row_exceeds_the_clip_and_each_depends_on_itself_alone(gradients, clip):
    clipped = clip_rows(gradients, clip)
    assert np.isfinite(clipped).all()
    assert (np.linalg.norm(clipped, axis=1) <= clip * (1 + 1e-12)).all()
    alone = np.concatenate([clip_rows(row[None], clip) for row in gradients])
    assert clipped.tobytes() == alone.tobytes()


def test_the_argument_is_left_alone():
    gradients = np.array([[np.nan, 9.0]])
    clip_rows(gradients, 1.0)
    assert gradients[0, 1] == 9.0

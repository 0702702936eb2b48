"""The work queue: dedupe, one pass at a time a key, pauses."""

import pytest

from foedus_engine.decide.plan import ObjectKey
from foedus_engine.workqueue import WorkQueue

A, B = (ObjectKey("v1", "ConfigMap", "default", name) for name in "ab")


def test_a_key_stands_once_and_the_earliest_wish_counts() -> None:
    queue = WorkQueue()
    for at in (5.0, 2.0, 9.0):
        queue.add(A, at)
    assert (queue.take(1.0), queue.next_due()) == (None, 2.0)
    assert (queue.take(2.0), queue.take(99.0)) == (A, None)


def test_the_longest_waiting_key_goes_first() -> None:
    queue = WorkQueue()
    queue.add(A, 2.0)
    queue.add(B, 1.0)
    assert (queue.take(3.0), queue.take(3.0)) == (B, A)


def test_news_during_a_pass_waits_for_its_end() -> None:
    queue = WorkQueue()
    queue.add(A, 0.0)
    queue.take(0.0)
    queue.add(A, 0.0)
    assert (queue.take(1.0), queue.next_due()) == (None, None)
    queue.done(A, 1.0, again_seconds=60.0)
    assert queue.take(1.0) == A


def test_a_pass_without_a_wish_ends() -> None:
    queue = WorkQueue()
    queue.add(A, 0.0)
    queue.take(0.0)
    queue.done(A, 0.0, again_seconds=None)
    assert queue.next_due() is None


@pytest.mark.parametrize(("failures", "pause"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (100, 60.0)])
def test_pauses_double_up_to_a_minute(failures: int, pause: float) -> None:
    queue = WorkQueue()
    assert [queue.failed(A, 0.0) for _ in range(failures)][-1] == pause
    assert queue.next_due() == pause


def test_success_forgets_failures() -> None:
    queue = WorkQueue()
    queue.failed(A, 0.0)
    queue.done(A, 0.0, again_seconds=None)
    assert queue.failed(A, 0.0) == 0.5


def test_news_does_not_shorten_a_pause_after_a_failure() -> None:
    queue = WorkQueue()
    queue.add(A, 0.0)
    queue.take(0.0)
    queue.add(A, 0.0)  # its own failed write, seen by the watch
    queue.failed(A, 0.0)
    assert queue.next_due() == 0.5

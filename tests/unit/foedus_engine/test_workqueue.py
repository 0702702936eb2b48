"""The work queue: dedupe, one pass at a time a key, pauses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus_engine.decide.plan import ObjectKey
from foedus_engine.workqueue import WorkQueue

A, B = (ObjectKey("v1", "ConfigMap", "default", name) for name in "ab")
KEYS = [ObjectKey("v1", "ConfigMap", "default", name) for name in "abcde"]


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


def test_a_lost_race_does_not_lengthen_the_pause() -> None:
    queue = WorkQueue()
    assert [queue.failed(A, 0.0, lost_race=True) for _ in range(3)] == [0.5, 0.5, 0.5]
    assert [queue.failed(A, 0.0), queue.failed(A, 0.0), queue.failed(A, 0.0, lost_race=True)] == [0.5, 1.0, 1.0]


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


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "done", "failed"]), st.integers(0, 4), st.integers(0, 9))))
def test_the_queue_hands_out_what_a_plain_search_finds(steps: list[tuple[str, int, int]]) -> None:
    queue, now = WorkQueue(), 0.0
    due: dict[ObjectKey, float] = {}
    busy: list[ObjectKey] = []
    failures: dict[ObjectKey, int] = {}
    for step, which, seconds in steps:
        key, now = KEYS[which], now + seconds / 2
        if step == "add":
            queue.add(key, now + seconds)
            due[key] = min(due.get(key, now + seconds), now + seconds)
        elif step == "take":
            ready = sorted((at, each) for each, at in due.items() if at <= now and each not in busy)
            want = ready[0][1] if ready else None
            assert queue.take(now) == want
            if want is not None:
                busy.append(want)
                del due[want]
        elif busy:
            key = busy.pop(0)
            if step == "done":
                failures.pop(key, None)
                queue.done(key, now, again_seconds=None)
            else:
                failures[key] = failures.get(key, 0) + 1
                due[key] = now + min(0.5 * 2 ** (failures[key] - 1), 60.0)
                queue.failed(key, now)
        assert queue.next_due() == min((at for each, at in due.items() if each not in busy), default=None)

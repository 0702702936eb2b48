"""Frames arrive once and in order, whatever is lost or repeated on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus_contract.errors import InvalidInput, Unavailable
from foedus_workloads.transport.mailbox import MAX_UNREAD_FRAMES, Mailbox

EMPTY = Mailbox("session", 0)


@given(st.lists(st.sampled_from(["push", "poll", "lost answer"]), max_size=60))
def test_every_frame_is_delivered_once_and_in_order_although_answers_are_lost(steps: list[str]) -> None:
    box, seen, got, pushed = EMPTY, 0, [], 0
    for step in steps:
        if step == "push" and len(box.outbox) < MAX_UNREAD_FRAMES:
            pushed += 1
            box = box.push(b"%d" % pushed)
            continue
        box = box.acknowledge(seen)
        if box.first is not None and step == "poll":
            seen, frame = box.first
            got.append(frame)
    while (box := box.acknowledge(seen)).first is not None:
        seen, frame = box.first
        got.append(frame)
    assert got == [b"%d" % (number + 1) for number in range(pushed)]


@given(st.lists(st.booleans(), max_size=40))
def test_a_repeated_frame_is_applied_once(repeats: list[bool]) -> None:
    box, applied = EMPTY, []
    for number, repeated in enumerate(repeats, start=1):
        for _ in range(1 + repeated):
            taken = box.take(number)
            if taken is not None:
                applied.append(number)
                box = taken
    assert applied == list(range(1, len(repeats) + 1))


def test_what_never_was_is_refused() -> None:
    with pytest.raises(InvalidInput, match="never sent"):
        EMPTY.acknowledge(1)
    with pytest.raises(InvalidInput, match="missing"):
        EMPTY.take(2)


def test_a_silo_that_reads_nothing_fills_its_box() -> None:
    box = EMPTY
    for _ in range(16):
        box = box.push(b"frame")
    with pytest.raises(Unavailable, match="does not read"):
        box.push(b"frame")

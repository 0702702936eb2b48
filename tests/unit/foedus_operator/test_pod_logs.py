"""Progress in a pod's log: each line once, and nothing but events."""

import json

import pytest

from foedus_operator.pod_logs import _Log, _take


def line(stamp: str, what: str) -> bytes:
    return f"{stamp} ".encode() + json.dumps({"event": "Preparing", "what": what}).encode()


FIRST = line("2026-03-01T12:00:00.5Z", "a")
SECOND = line("2026-03-01T12:00:00.500000001Z", "b")
THIRD = line("2026-03-01T12:00:01Z", "c")


@pytest.mark.parametrize(
    ("reads", "want"),
    [
        ([[FIRST, SECOND, THIRD]], "abc"),
        ([[FIRST], [FIRST, SECOND], [SECOND, THIRD]], "abc"),  # a read begins at a whole second
        ([[FIRST], []], "a"),
        ([[b"2026-03-01T12:00:00Z loading the model", FIRST]], "a"),
        ([[b'2026-03-01T12:00:00Z {"event": "Preparing"', FIRST]], "a"),
        ([[b'2026-03-01T12:00:00Z {"event": "Unknown"}', b"", b"\xff\xfe", FIRST]], "a"),
        ([[line("2026-03-01T12:00:00Z", "x" * 70_000), FIRST]], "a"),
    ],
)
def test_each_event_is_taken_once(reads: list[list[bytes]], want: str) -> None:
    log = _Log()
    for lines in reads:
        _take(log, lines)
    assert "".join(event.what for event in log.events) == want

"""Progress in a pod's log: each line once, and nothing but events."""

import json

import pytest

from foedus_operator.pod_logs import PodLogs, _Log, _take


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


class Kubelet:
    """Gives two lines of a log at a time, from a moment on."""

    def __init__(self, *lines: bytes) -> None:
        self._lines = lines
        self.asked = 0

    async def text(self, _verb: str, _path: str, *, query: dict[str, str]) -> bytes:
        self.asked += 1
        since = query.get("sinceTime", "").encode()
        return b"\n".join([line for line in self._lines if line.split(b" ")[0] >= since][:2]) + b"\n"


async def test_a_log_of_a_pod_that_has_ended_is_read_until_nothing_is_new() -> None:
    kubelet = Kubelet(*(line(f"2026-03-01T12:00:0{number}Z", str(number)) for number in range(4)))
    logs = PodLogs(kubelet)  # type: ignore[arg-type]
    container = {"state": {"terminated": {"exitCode": 0}}}
    pod = {
        "metadata": {"uid": "u", "name": "p", "namespace": "n"},
        "status": {"phase": "Succeeded", "containerStatuses": [container]},
    }
    for _ in range(6):
        events = await logs.read(pod)
    assert "".join(event.what for event in events) == "0123"
    assert kubelet.asked == 4  # the last of them brings nothing new

"""Progress in a pod's log: each line once, nothing but events, and nobody waits for a node that is lost."""

import asyncio
import json
from typing import Any

import pytest

from foedus_contract.progress import Preparing, RoundFinished
from foedus_engine.cluster.protocol import Busy
from foedus_operator import pod_logs
from foedus_operator.pod_logs import PodLogs, _Log, _take, every


def line(stamp: str, what: str) -> bytes:
    return f"{stamp} ".encode() + json.dumps({"event": "Preparing", "what": what}).encode()


FIRST = line("2026-03-01T12:00:00.5Z", "a")
SECOND = line("2026-03-01T12:00:00.500000001Z", "b")
THIRD = line("2026-03-01T12:00:01Z", "c")
SAME = line("2026-03-01T12:00:01Z", "d")  # a runtime may stamp all that it reads at once alike


def said(events: tuple[Any, ...]) -> str:
    return "".join(event.what for event in events if isinstance(event, Preparing))


@pytest.mark.parametrize(
    ("reads", "want"),
    [
        ([[FIRST, SECOND, THIRD]], "abc"),
        ([[FIRST], [FIRST, SECOND], [SECOND, THIRD]], "abc"),  # a read begins at a whole second
        ([[FIRST], []], "a"),
        ([[THIRD, SAME], [THIRD, SAME]], "cd"),
        ([[THIRD], [THIRD, SAME], [THIRD, SAME, SAME]], "cdd"),
        # A node writes its own time zone, which changes twice a year: this is an hour of half a second.
        ([[line("2026-03-01T13:00:00.5+01:00", "a"), line("2026-03-01T14:00:00.6+02:00", "b")], [THIRD]], "abc"),
        ([[line("2026-03-01T09:30:00.5-02:30", "a")], [FIRST, SECOND]], "ab"),
        ([[line("2026-13-01T12:00:00Z", "x"), line("2026-03-01T12:00:00", "x"), FIRST]], "a"),
        ([[b"2026-03-01T12:00:00Z loading the model", FIRST]], "a"),
        ([[b'2026-03-01T12:00:00Z {"event": "Preparing"', FIRST]], "a"),
        ([[b'2026-03-01T12:00:00Z {"event": "Unknown"}', b"", b"\xff\xfe", FIRST]], "a"),
        ([[line("2026-03-01T12:00:00Z", "x" * 70_000), FIRST]], "a"),
    ],
)
def test_each_event_is_taken_once(reads: list[list[bytes]], want: str) -> None:
    log = _Log()
    for lines in reads:
        _take(log, lines, every)
    assert said(log.events) == want


class Kubelets:
    """Give two lines of a log at a time, from a moment on; a node in `lost` says nothing."""

    def __init__(self, *lines: bytes) -> None:
        self._lines = lines
        self.lost: set[str] = set()
        self.asked: list[str] = []
        self.now = 0.0

    async def text(self, _verb: str, path: str, *, query: dict[str, str], seconds: float) -> bytes:
        pod = path.split("/")[-2]
        self.asked.append(pod)
        if pod.split("-")[0] in self.lost:
            self.now += seconds
            await asyncio.sleep(0)
            raise Busy("the API server does not answer (TimeoutError)")
        since = query.get("sinceTime", "").encode().removesuffix(b"Z")  # a second, which comes whole
        return b"\n".join([line for line in self._lines if line[: len(since)] >= since][:2]) + b"\n"

    def logs(self, **options: Any) -> PodLogs:
        return PodLogs(self, clock=lambda: self.now, **options)  # type: ignore[arg-type]


def pod(name: str = "one-p", phase: str = "Running") -> dict[str, Any]:
    state = {"started": True} if phase == "Running" else {"state": {"terminated": {"exitCode": 0}}}
    return {
        "metadata": {"uid": name, "name": name, "namespace": "n"},
        "spec": {"nodeName": name.split("-", maxsplit=1)[0]},
        "status": {"phase": phase, "containerStatuses": [state]},
    }


def four_lines() -> list[bytes]:
    return [line(f"2026-03-01T12:00:0{number}Z", str(number)) for number in range(4)]


async def test_a_log_of_a_pod_that_has_ended_is_read_until_nothing_is_new() -> None:
    kubelets = Kubelets(*four_lines())
    logs = kubelets.logs(key=every)
    for _ in range(6):
        events = await logs.read(pod(phase="Succeeded"))
    assert said(events) == "0123"
    assert len(kubelets.asked) == 4  # the last of them brings nothing new


async def test_a_pod_that_says_more_in_a_second_than_a_read_takes_is_read_on_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flood = [line(f"2026-03-01T12:00:00.{number}Z", str(number)) for number in range(4)]
    monkeypatch.setattr(pod_logs, "MAX_LOG_BYTES", len(flood[0]) * 2)
    logs = Kubelets(*flood, THIRD).logs(key=every)
    for _ in range(4):
        events = await logs.read(pod(phase="Succeeded"))
    assert said(events) == "01c"


async def test_a_node_that_is_lost_is_asked_once_a_minute_and_the_others_as_ever() -> None:
    kubelets = Kubelets(FIRST)
    kubelets.lost.add("lost")
    logs = kubelets.logs()
    names = [f"{node}-{number}" for node in ("lost", "well") for number in range(40)]
    for _ in range(3):
        found = await asyncio.gather(*(logs.read(pod(name)) for name in names))
    lost = [name for name in kubelets.asked if name.startswith("lost")]
    assert len(lost) <= pod_logs.MAX_READS  # those that were under way when the first had waited
    assert kubelets.asked.count("well-39") == 3
    assert [said(events) for events in found] == [""] * 40 + ["a"] * 40

    kubelets.lost.clear()
    kubelets.now += 60
    assert said(await logs.read(pod("lost-39"))) == "a"  # nothing that it has said meanwhile is missed


async def test_a_pod_that_ended_on_a_lost_node_is_still_to_be_read() -> None:
    kubelets = Kubelets(FIRST)
    kubelets.lost.add("lost")
    logs = kubelets.logs()
    assert await logs.read(pod("lost-1", "Succeeded")) == ()
    kubelets.lost.clear()
    kubelets.now += 60
    assert said(await logs.read(pod("lost-1", "Succeeded"))) == "a"


def round_line(second: int, *, applied: bool) -> bytes:
    event = RoundFinished(
        at=0, round=second, attempt=second, applied=applied, survivors=("a",), dropped=(), epsilon_spent=second,
        accuracy=None, seconds=1,
    )  # fmt: skip
    return f"2026-03-01T12:00:{second:02}Z ".encode() + event.to_json()


def test_of_the_rounds_the_latest_and_the_latest_that_counts_are_kept() -> None:
    log = _Log()
    _take(log, [round_line(number, applied=number <= 40) for number in range(60)], pod_logs.latest)
    assert [(event.round, event.applied) for event in log.events if isinstance(event, RoundFinished)] == [
        (40, True),
        (59, False),
    ]


@pytest.mark.parametrize("pods", [[f"one-{number}" for number in range(300)], ["one-0"]])
async def test_what_many_pods_say_and_what_one_says_for_long_fits(
    pods: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_logs, "MAX_KEPT_BYTES", 20_000)
    lines = [line(f"2026-03-01T12:{number // 60:02}:{number % 60:02}Z", "x" * 1000) for number in range(300)]
    logs = Kubelets(*lines).logs()
    for name in pods if len(pods) > 1 else pods * 300:
        assert len(await logs.read(pod(name))) == 1
    assert logs._size == sum(log.size for log in logs._logs.values())
    assert 0 < logs._size <= 20_000


async def test_pods_that_nobody_asks_for_any_more_are_forgotten() -> None:
    kubelets = Kubelets(FIRST)
    logs = kubelets.logs()
    for number in range(100):
        await logs.read(pod(f"one-{number}"))
    kubelets.now += 601
    assert said(await logs.read(pod("one-7"))) == "a"
    assert list(logs._logs) == ["one-7"]

import io
import json

import pytest
from rich.console import Console

from foedus.display import Event, JsonDisplay, LiveDisplay, PlainDisplay, Standing, advance, event_line
from foedus_contract.progress import IdentityReady, Preparing, ProcessFailed, RoundFinished, TrainingStarted


def finished(**changes: object) -> RoundFinished:
    values: dict[str, object] = {
        "at": 1.0,
        "round": 0,
        "attempt": 0,
        "applied": True,
        "survivors": ("a", "b"),
        "dropped": ("c",),
        "epsilon_spent": 0.25,
        "accuracy": 0.5,
        "seconds": 4.0,
    }
    return RoundFinished.model_validate(values | changes)


EVENTS: tuple[Event, ...] = (
    Preparing(what="loading the model", done=1, total=3),
    TrainingStarted(at=0.0, joined=("a", "b", "c"), trainable_parameters=10, kappa=0.1),
    finished(),
    finished(attempt=1, round=1, applied=False, survivors=("a",), accuracy=None, seconds=2.0, reason="too few"),
)


def stand() -> Standing:
    standing = Standing(rounds=5)
    for event in EVENTS:
        standing = advance(standing, event)
    return standing


def test_standing_sums_up_the_events() -> None:
    assert stand() == Standing(
        rounds=5,
        done=1,
        attempts=2,
        stage="training",
        silos_in=1,
        silos_out=("c",),
        epsilon_spent=0.25,
        accuracy=0.5,
        seconds=6.0,
    )


def test_time_left_is_rounds_to_come_at_the_pace_so_far() -> None:
    assert stand().seconds_left == pytest.approx(4 * 3.0)
    assert Standing(rounds=5).seconds_left is None


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (EVENTS[0], "loading the model 1/3"),
        (EVENTS[1], "training starts with 3 silos"),
        (EVENTS[2], "round 1/5: 2 silos without c, ε spent 0.250, accuracy 0.500, 4.0 s, about 16 s left"),
        (EVENTS[3], "round 2/5: 1 silos without c: attempt 1 released nothing: too few"),
        (IdentityReady(silo="a", public_key=b"k"), "a has its identity key"),
        (ProcessFailed(code=11, message="bad data"), "process failed (11): bad data"),
    ],
)
def test_plain_lines(event: Event, line: str) -> None:
    assert event_line(event, advance(Standing(rounds=5), event)) == line


def test_plain_display_leaves_out_what_repeats() -> None:
    written: list[str] = []
    display = PlainDisplay(written.append)
    for _ in range(3):
        display.event(EVENTS[0], advance(Standing(), EVENTS[0]))
    assert written == ["loading the model 1/3"]


def test_json_display_writes_one_object_an_event() -> None:
    written: list[str] = []
    display = JsonDisplay(written.append)
    display.event(EVENTS[2], stand())
    display.note("Result", "done", accuracy=0.5)
    first, second = (json.loads(line) for line in written)
    assert (first["event"], first["epsilonSpent"], first["dropped"]) == ("RoundFinished", 0.25, ["c"])
    assert second == {"event": "Result", "accuracy": 0.5, "message": "done"}


def test_live_display_shows_the_standing_and_keeps_lost_attempts() -> None:
    screen = io.StringIO()
    display = LiveDisplay(Console(file=screen, force_terminal=True, width=120))
    standing = Standing(rounds=5)
    for event in EVENTS:
        standing = advance(standing, event)
        display.event(event, standing)
    display.note("Next", "try this")
    text = screen.getvalue()
    for part in ("1/5", "0.250", "0.500", "12 s", "attempt 1 released nothing: too few", "try this"):
        assert part in text

"""The checker of ledgers' histories: what one ledger explains passes, each broken property is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.ledger_history import Entry, Final, limit_of, note, read_history, violations

LIMIT = 10.0


def done(serial: int, op: str, version: int, charged: int = 0, *, attempt: int = -1, job: str = "j") -> Entry:
    """Return a write that was asked at `serial` and answered half a second later."""
    return Entry(
        serial, op, "b", job, float(serial), attempt, "done", serial + 0.5,  # type: ignore[arg-type]
        wrote=True, version=version, charged=charged, committed=5.0,
    )  # fmt: skip


def unknown(serial: int, attempt: int) -> Entry:
    return Entry(serial, "charge", "b", "j", float(serial), attempt, "unknown", serial + 0.5)


OPEN, FIRST, SECOND = done(0, "reserve", 1), done(1, "charge", 2, 1, attempt=0), done(2, "charge", 3, 2, attempt=1)
CLOSE = done(3, "close", 4, 2)
GOOD = (OPEN, FIRST, SECOND, CLOSE)
END = Final(version=4, committed=2.0, accounts={"j": (2, 1, True)})


def test_what_one_ledger_explains_passes() -> None:
    assert violations(GOOD, {"b": END}, LIMIT) == ()


@pytest.mark.parametrize(
    ("charged", "last", "version"), [(2, 1, 4), (3, 2, 5)], ids=["the lost answer was none", "and was a charge"]
)
def test_a_lost_answer_may_be_a_charge_or_none(charged: int, last: int, version: int) -> None:
    entries = (OPEN, FIRST, SECOND, unknown(2, 2), replace(CLOSE, version=version))
    assert violations(entries, {"b": Final(version, 2.0, {"j": (charged, last, True)})}, LIMIT) == ()


def test_a_refusal_after_a_write_was_sent_may_have_charged() -> None:
    refused = Entry(2, "charge", "b", "j", 2.6, 2, "refused", 2.9)
    entries = (OPEN, FIRST, SECOND, refused, replace(CLOSE, version=5))
    assert violations(entries, {"b": Final(5, 2.0, {"j": (3, 2, True)})}, LIMIT) == ()
    assert violations((*GOOD, replace(refused, sent=False)), {"b": Final(5, 2.0, {"j": (3, 2, True)})}, LIMIT)


@pytest.mark.parametrize(
    ("entries", "end", "named"),
    [
        ((OPEN, FIRST, replace(SECOND, version=2, charged=1)), END, "2 writes made version 2"),
        ((OPEN, FIRST, replace(SECOND, attempt=0)), END, "attempt ('j', 0) was charged 2 times"),
        ((OPEN, SECOND, replace(FIRST, asked=2.7, answered=2.8)), END, "answers version 2 after 3 was seen"),
        (GOOD, replace(END, accounts={"j": (1, 1, True)}), "1 charges after 2 answered ones"),
        (GOOD, replace(END, accounts={"j": (3, 1, True)}), "3 charges after 2 answered ones"),
        (GOOD, replace(END, accounts={"j": (2, 0, True)}), "forgot its attempt 1"),
        (GOOD, replace(END, accounts={"j": (2, 1, False)}), "is open after its closing was answered"),
        (GOOD, replace(END, version=3), "version 3 after 4 answered writes"),
        (GOOD, replace(END, version=5), "version 5 after 4 answered writes"),
        ((OPEN, FIRST, replace(SECOND, asked=5.0, answered=6.0, version=5), CLOSE), END, "after its closing"),
        ((OPEN, FIRST, replace(SECOND, charged=7), CLOSE), END, "after more were seen"),
        ((OPEN, FIRST, replace(SECOND, committed=10.1), CLOSE), END, "10.1 counts against a limit of 10"),
        (GOOD, replace(END, committed=10.1), "10.1 counts against a limit of 10"),
    ],
)
def test_each_broken_property_is_named(entries: tuple[Entry, ...], end: Final, named: str) -> None:
    assert any(named in problem for problem in violations(entries, {"b": end}, LIMIT))


def test_a_killed_writers_notes_say_what_it_had_asked(tmp_path: Path) -> None:
    path = tmp_path / "history"
    asked = replace(FIRST, outcome="", answered=float("inf"), wrote=False, version=-1, charged=-1, committed=0.0)
    path.write_bytes(note(replace(asked, serial=0)) + note(replace(FIRST, serial=0)) + note(asked) + note(SECOND)[:20])
    assert read_history(path) == (replace(FIRST, serial=0), asked)


def test_the_limit_is_that_of_a_gaussian_alone() -> None:
    # σ = 3.730632… is the analytic Gaussian mechanism's for sensitivity 1 at ε = 1 and δ = 1e-5.
    assert limit_of(1.0, 1e-5) ** -0.5 == pytest.approx(3.730632, abs=1e-5)

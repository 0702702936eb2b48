"""Durations and paths as Kubernetes writes them."""

from __future__ import annotations

import re

import pytest

from foedus_engine.api.meta import QUANTITY, RELATIVE_PATH, parse_duration


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("5m", 300),
        ("90s", 90),
        ("1h30m", 5400),
        ("1h1m1s", 3661),
        ("1.5h", 5400),
        ("500ms", 1),
        ("1s1ms", 2),
        ("0s", 0),
    ],
)
def test_durations_in_seconds_rounded_up(text: str, want: int) -> None:
    assert parse_duration(text) == want


@pytest.mark.parametrize("text", ["", "5", "5 m", "-5m", "m", "1d", "1h30", "５m", "5m\n", ".5h", "1e3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 90s, 5m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "good"),
    [("a", True), ("a/b.jsonl", True), (".cache/x", True), ("a..b", True), ("..", False), (".", False), ("../a", False),
     ("a/..", False), ("a/../b", False), ("/a", False), ("a/", False), ("a//b", False), ("", False), ("a b", False)],
)  # fmt: skip
def test_relative_paths_never_climb(text: str, good: bool) -> None:
    assert bool(re.fullmatch(RELATIVE_PATH, text)) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [("500m", True), ("2", True), ("1.5", True), ("2Gi", True), ("2GB", False), ("-1", False), ("2 Gi", False)],
)
def test_quantities(text: str, good: bool) -> None:
    assert bool(re.fullmatch(QUANTITY, text)) is good

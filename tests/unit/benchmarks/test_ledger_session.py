"""How the kills of a run are shared out over its writers."""

from __future__ import annotations

import pytest
from benchmarks.ledger_session import share


@pytest.mark.parametrize(
    ("total", "shares"),
    [(0, [0] * 8), (2, [1, 1, 0, 0, 0, 0, 0, 0]), (11, [2, 2, 2, 1, 1, 1, 1, 1]), (112, [14] * 8)],
)
def test_each_kill_is_one_writers(total: int, shares: list[int]) -> None:
    assert [share(total, number) for number in range(8)] == shares

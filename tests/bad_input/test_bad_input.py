"""Whatever is wrong, one line says what, where and what to do; the code is the contract's; nothing is charged twice.

`table.py` holds the cases; `docs/bad-input.md` shows them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bad_input.table import CASES, PAGE, page
from bad_input.worlds import FORBIDDEN, secrets


@pytest.mark.parametrize("name", CASES)
def test_bad_input_ends_as_the_table_says(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    root = tmp_path / "w"
    seen = case.act(root)
    assert len(seen.lines) == 1, seen
    assert case.pattern.fullmatch(seen.lines[0]), f"expected {case.line!r}, was {seen.lines[0]!r}"
    assert (seen.end, seen.charged) == (case.end, case.charged)
    assert not FORBIDDEN.search(seen.said), FORBIDDEN.findall(seen.said)
    assert [secret for secret in secrets(root) if secret in seen.said] == []


def test_the_page_shows_these_cases() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it again: make bad-input"

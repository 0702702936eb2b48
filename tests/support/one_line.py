"""What every failure must look like to the person who reads it."""

from __future__ import annotations

import pytest

SECRETS = ("BEGIN ", "PRIVATE KEY", "Traceback")


def check_one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> str:
    """Check that standard error holds one line with all `parts`, and that nothing secret was written anywhere."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    for part in parts:
        assert part in lines[0], lines[0]
    for secret in SECRETS:
        assert secret not in captured.out + captured.err
    return captured.out

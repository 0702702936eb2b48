"""The command line, called in the tests' own process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from foedus.main import main


def foedus(*arguments: str, program: Callable[[list[str]], object] = main) -> int:
    """Run a command and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        program(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code

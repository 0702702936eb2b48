"""A coordinator with colluding silos attacks honest ones: each attack is refused, and the vector stays hidden.

`test_mutants.py` runs the same attacks against builds with a check off; there they print RECOVERED.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from attacks.table import ATTACKS


@pytest.mark.parametrize("name", ATTACKS)
def test_the_coordinator_learns_no_silos_vector(name: str, tmp_path: Path) -> None:
    case = ATTACKS[name]
    result = case.attack(tmp_path)
    if result.truth and result.guess == result.truth:
        pytest.fail(f"RECOVERED a silo's vector, {result.guess}")
    if case.refused:
        assert any(case.refused in reason for reason in result.refusals), result.refusals
    else:
        assert result.refusals == ()

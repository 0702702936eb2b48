"""Every check of the security model has a build with it off, and a test that such a build fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from attacks.mutants import ROOT, build, caught, patched, run
from attacks.mutants_secagg import SECAGG_MUTANTS
from attacks.mutants_training import TRAINING_MUTANTS

MUTANTS = {**SECAGG_MUTANTS, **TRAINING_MUTANTS}


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_replaces_stands_there_once(name: str) -> None:
    texts = {patch.file: (ROOT / patch.file).read_text("utf-8") for patch in MUTANTS[name].patches}
    for patch in MUTANTS[name].patches:
        texts[patch.file] = patched(texts[patch.file], patch)


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.mutants
def test_a_build_with_a_check_off_is_caught(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    done = run(build(tmp_path, mutant.patches), mutant.test)
    assert caught(done, mutant), done.stdout + done.stderr

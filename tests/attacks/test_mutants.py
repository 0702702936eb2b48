"""Every check of the security model has a build with it off, and a test that such a build fails."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from attacks.mutants import ROOT, Done, build, caught, patched, run
from attacks.mutants_charges import CHARGES_MUTANTS
from attacks.mutants_client import CLIENT_MUTANTS
from attacks.mutants_crypten import CRYPTEN_MUTANTS
from attacks.mutants_inference import INFERENCE_MUTANTS
from attacks.mutants_ledger_service import LEDGER_SERVICE_MUTANTS
from attacks.mutants_malicious import MALICIOUS_MUTANTS
from attacks.mutants_mpc import MPC_MUTANTS
from attacks.mutants_secagg import SECAGG_MUTANTS
from attacks.mutants_training import TRAINING_MUTANTS
from attacks.mutants_transport import TRANSPORT_MUTANTS
from attacks.table import ATTACKS

MUTANTS = {
    **SECAGG_MUTANTS,
    **TRAINING_MUTANTS,
    **TRANSPORT_MUTANTS,
    **CHARGES_MUTANTS,
    **LEDGER_SERVICE_MUTANTS,
    **CLIENT_MUTANTS,
    **MPC_MUTANTS,
    **INFERENCE_MUTANTS,
    **MALICIOUS_MUTANTS,
    **CRYPTEN_MUTANTS,
}
WORKERS = 2  # each mutant is a process of its own; two cores are assumed
SECONDS_FOR_ALL = 1800.0  # of the tests of all mutants one after the other
UNPATCHED = "a copy without a patch"
Runs = dict[str, Future[Done]]


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_replaces_stands_there_once(name: str) -> None:
    texts = {patch.file: (ROOT / patch.file).read_text("utf-8") for patch in MUTANTS[name].patches}
    for patch in MUTANTS[name].patches:
        texts[patch.file] = patched(texts[patch.file], patch)


def test_each_attack_has_a_build_in_which_it_succeeds_or_says_why_not() -> None:
    """These two have none, whatever single check is off: their checks stand before protection of another kind."""
    needed = {mutant.test.partition("[")[2].rstrip("]") for mutant in MUTANTS.values() if mutant.shows == "RECOVERED"}
    assert set(ATTACKS) - needed == {
        "small-roster",  # V's seed needs t shares as before, and fewer than t silos hold one
        "replayed-roster",  # its peers' private keys are erased: nobody opens what V seals for them
    }


def test_the_security_model_names_each_mutant_and_what_stands_behind_a_check() -> None:
    text = (ROOT / "docs/security-model.md").read_text("utf-8")
    table, behind = text.split("\n## Where one check stands behind another")
    assert [name for name in MUTANTS if f"`{name}`" not in table] == []
    several = {name for name, mutant in MUTANTS.items() if mutant.shows == "RECOVERED" and len(mutant.patches) > 1}
    assert [name for name in sorted(several) if not MUTANTS[name].why or f"`{name}`" not in behind] == []


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """The chosen builds, under way in processes of their own; the one that takes longest is the first."""
    chosen = [item.callspec.params["name"] for item in request.session.items if "runs" in item.fixturenames]

    def make_and_run(name: str, folder: Path) -> Done:
        if name == UNPATCHED:
            every = sorted({mutant.test for mutant in MUTANTS.values()})
            return run(build(folder), *every, seconds=SECONDS_FOR_ALL)
        return run(build(folder, MUTANTS[name].patches), MUTANTS[name].test)

    pool = ThreadPoolExecutor(WORKERS)
    yield {name: pool.submit(make_and_run, name, tmp_path_factory.mktemp("build")) for name in chosen}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", [UNPATCHED])
@pytest.mark.mutants
def test_the_same_tests_pass_in(runs: Runs, name: str) -> None:
    done = runs[name].result()
    assert done.code == 0, done.output


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.mutants
def test_a_build_with_a_check_off_is_caught(runs: Runs, name: str) -> None:
    done = runs[name].result()
    assert caught(done, MUTANTS[name]), done.output

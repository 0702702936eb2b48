import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foedus import result, run
from foedus.display import PlainDisplay, Standing
from foedus.follow import Followed, find_failure, limitations, show_caching
from foedus_contract.errors import FoedusError, InvalidInput, JobFailed, Refused, Unavailable
from foedus_contract.progress import Preparing
from foedus_engine.api.meta import LocalReference
from foedus_engine.api.training_status import TrainingReason

EXAMPLE = Path(__file__).parents[3] / "examples" / "bbc-news.yaml"
BUDGET = """apiVersion: foedus.dev/v1alpha1
kind: PrivacyBudget
metadata: {name: silo-01}
spec: {dataset: {digest: "sha256:%s", records: 3}, epsilon: 1, delta: 1e-5}
""" % ("0" * 64)


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": TrainingReason(reason).value, "message": "why"}


@pytest.mark.parametrize(
    ("conditions", "error", "code"),
    [
        ([], None, 0),
        ([condition("Accepted", "False", "Pending")], None, 0),
        ([condition("Accepted", "False", "InvalidModel")], InvalidInput, 12),
        ([condition("Accepted", "False", "DeltaTooLarge")], InvalidInput, 10),
        ([condition("Accepted", "False", "Unplannable")], InvalidInput, 13),
        ([condition("Accepted", "False", "BudgetNotFound")], Refused, 20),
        (
            [condition("Accepted", "True", "Accepted"), condition("BudgetAvailable", "False", "BudgetInsufficient")],
            Refused,
            20,
        ),
        ([condition("Failed", "True", "QuorumLost")], JobFailed, 30),
        ([condition("Failed", "True", "CoordinatorFailed")], JobFailed, 1),
        ([condition("Complete", "True", "AllRounds"), condition("BudgetAvailable", "False", "Released")], None, 0),
    ],
)
def test_the_exit_code_follows_the_condition(
    conditions: list[dict[str, Any]], error: type[Exception] | None, code: int
) -> None:
    failure = find_failure({"conditions": conditions})
    assert (None if failure is None else type(failure)) is error
    assert (0 if failure is None else failure.code) == code


def test_a_job_that_names_regions_is_told_that_nothing_looks_at_them() -> None:
    job = run.read_job([EXAMPLE])
    region = LocalReference(name="eu")
    clients = (job.spec.clients[0].model_copy(update={"region_ref": region}), *job.spec.clients[1:])
    placed = job.model_copy(update={"spec": job.spec.model_copy(update={"clients": clients})})
    assert set(limitations(placed)) - set(limitations(job)) == {
        "regionRef is not looked at yet: no rule about where a silo is holds."
    }


def test_silos_that_cache_are_shown_together_a_tenth_at_a_time_until_training_begins() -> None:
    said: list[str] = []
    display, followed = PlainDisplay(said.append), Followed(Standing(), records=80)
    for pod, done in [("a", 0), ("a", 8), ("a", 12), ("a", 40), ("b", 0), ("b", 4), ("b", 8), ("b", 40)]:
        event = Preparing(what="caching activations", done=done, total=40)
        followed = show_caching(pod, event, display, followed)
    assert said == [f"silos: caching activations {done}/80" for done in (8, 40, 48, 80)]
    again = Followed(replace(followed.standing, silos_in=2), records=80)
    show_caching("a", Preparing(what="caching activations", done=40, total=40), display, again)
    assert len(said) == 4


def test_the_example_is_one_job() -> None:
    assert run.read_job([EXAMPLE]).metadata.name == "bbc-news"


@pytest.mark.parametrize(
    ("name", "noise"), [("bbc-news", "Distributed"), ("tweets", "Distributed"), ("tweets-local", "Local")]
)
def test_the_examples_are_jobs_of_ten_silos(name: str, noise: str) -> None:
    job = run.read_job([EXAMPLE.with_name(f"{name}.yaml")])
    assert (job.metadata.name, job.spec.privacy.noise, len(job.spec.clients)) == (name, noise, 10)


def test_the_local_example_differs_from_the_other_one_in_the_noise_alone() -> None:
    one, other = (run.read_job([EXAMPLE.with_name(f"{name}.yaml")]).spec for name in ("tweets", "tweets-local"))
    local = one.privacy.model_copy(update={"noise": "Local"})
    assert one.model_copy(update={"privacy": local}) == other


def test_a_run_never_takes_a_budget(tmp_path: Path) -> None:
    file = tmp_path / "budget.yaml"
    file.write_text(BUDGET, "utf-8")
    with pytest.raises(InvalidInput, match="a run never makes a budget"):
        run.read_job([EXAMPLE, file])


def test_two_jobs_are_refused() -> None:
    with pytest.raises(InvalidInput, match="2 training jobs; give exactly one"):
        run.read_job([EXAMPLE, EXAMPLE])


def test_a_cure_names_the_state_folder_unless_it_is_the_default() -> None:
    error = Refused("make it with: foedus budget create one --data FILE", where="here")
    want = "here: make it with: foedus budget create --state '/a b' one --data FILE; more"
    assert str(run.with_cure(error, "more", Path("/a b"), "default")) == want
    assert str(run.with_cure(error, "", Path(".foedus"), "default")) == str(error)


def test_the_result_folder_is_made_first_and_goes_when_it_stays_empty(tmp_path: Path) -> None:
    with result.result_folder(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("", "utf-8")
    with (
        pytest.raises(Unavailable, match=r"the result folder cannot be used .*; choose another folder with --out"),
        result.result_folder(tmp_path / "file/out"),
    ):
        pass


async def test_a_loop_that_ends_ends_the_run() -> None:
    async def ends() -> None:
        raise OSError

    with pytest.raises(FoedusError, match="the engine ended unexpectedly"):
        await run.race(asyncio.Event().wait(), asyncio.ensure_future(ends()))

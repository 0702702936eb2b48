import json
import stat
from pathlib import Path

import pytest
import yaml

from foedus.overlap import hashes_path
from foedus_engine.cluster.embedded_ledgers import ledger_path
from foedus_engine.decide.plan import BudgetKey
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.sqlite import SqliteLedger
from foedus_workloads.training.data import Record, read_records, write_records
from support import calling


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name / "train.jsonl" for name in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        write_records(path, [Record(text=f"{path} {n}", label="a") for n in range(3)])
    return [str(path) for path in paths]


def foedus(tmp_path: Path, *arguments: str) -> int:
    return calling.foedus("budget", *arguments, "--state", str(tmp_path / "state"))


def test_a_budget_is_named_after_the_folder_and_bound_to_the_data(tmp_path: Path, files: list[str]) -> None:
    assert foedus(tmp_path, "create", "--data", files[0], "--data", files[1], "--epsilon", "1", "--owner", "H") == 0
    spec = SqliteLedger(ledger_path(tmp_path / "state", BudgetKey("default", "two"))).read().spec
    data = read_records(Path(files[1]))
    assert (spec.digest, spec.records, spec.labels) == (data.digest, 3, ("a",))
    assert (spec.epsilon, spec.delta, spec.owner) == (1.0, 1e-5, "H")


def test_a_holder_declares_more_labels_than_its_records_bear(tmp_path: Path, files: list[str]) -> None:
    declared = ("--label", "b", "--label", "a", "--least-colluders", "2")
    assert foedus(tmp_path, "create", "--data", files[0], "--epsilon", "1", *declared) == 0
    spec = SqliteLedger(ledger_path(tmp_path / "state", BudgetKey("default", "one"))).read().spec
    assert (spec.labels, spec.least_colluders) == (("b", "a"), 2)


def test_a_record_whose_label_is_not_declared_is_told_to_the_holder(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert foedus(tmp_path, "create", "--data", files[0], "--epsilon", "1", "--label", "b") == 11
    assert capsys.readouterr().err == (
        f"error: {files[0]}:1: the label is not one of b; correct it or the list of labels\n"
    )
    assert not (tmp_path / "state").exists()


def test_an_existing_budget_is_never_replaced_and_then_none_is_made(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert foedus(tmp_path, "create", "--data", files[1], "--epsilon", "1") == 0
    assert foedus(tmp_path, "create", "--data", files[0], "--data", files[1], "--epsilon", "2") == 23
    assert capsys.readouterr().err.startswith("error: budget two: exists already")
    assert not ledger_path(tmp_path / "state", BudgetKey("default", "one")).exists()
    assert SqliteLedger(ledger_path(tmp_path / "state", BudgetKey("default", "two"))).read().spec.epsilon == 1.0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--epsilon", "0"), "epsilon"),
        (("--epsilon", "51"), "epsilon"),
        (("--epsilon", "nan"), "epsilon"),
        (("--epsilon", "1", "--delta", "0.4"), "--delta: 0.4 is too large; δ must be below 1/3"),
        (("Bad_Name", "--epsilon", "1"), "metadata.name"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, files: list[str], arguments: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert foedus(tmp_path, "create", "--data", files[0], *arguments) == 10
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert part in error


def test_two_files_of_one_name_are_refused(tmp_path: Path, files: list[str]) -> None:
    assert foedus(tmp_path, "create", "--data", files[0], "--data", files[0], "--epsilon", "1") == 10


def test_yaml_prints_the_manifest_and_writes_nothing(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert foedus(tmp_path, "create", "x", "--data", files[0], "--epsilon", "1", "-o", "yaml") == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert (document["kind"], document["metadata"]["name"]) == ("PrivacyBudget", "x")
    assert document["spec"]["dataset"]["records"] == 3
    assert not (tmp_path / "state").exists()


def test_show_tells_what_is_spent_and_by_whom(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    foedus(tmp_path, "create", "--data", files[0], "--epsilon", "1")
    ledger = SqliteLedger(ledger_path(tmp_path / "state", BudgetKey("default", "one")))
    ledger.reserve("job-1", Mechanism(noise_multiplier=20.0), 21, "default/news")
    ledger.charge("job-1", 0)
    capsys.readouterr()
    assert foedus(tmp_path, "one") == 0
    budget, account = (line.split() for line in capsys.readouterr().out.splitlines() if line[:4] in {"one ", "job-"})
    # one release at σ = 20 has ε = 0.1600 at δ = 1e-5, 21 of them 0.8419 (analytic Gaussian, scipy's own norm.cdf)
    assert [budget[3], budget[4], budget[5], budget[7]] == ["0.1600", "0.8419", "1", "True"]
    assert account == ["job-1", "Open", "1", "21", "20.000", "default/news"]


def test_the_list_as_json(tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    foedus(tmp_path, "create", "--data", files[0], "--data", files[1], "--epsilon", "1")
    capsys.readouterr()
    assert foedus(tmp_path, "--output", "json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["name"], row["epsilonSpent"], row["spec"]["epsilon"]) for row in rows] == [
        ("one", 0, 1),
        ("two", 0, 1),
    ]


def test_one_damaged_ledger_hides_none_of_the_others(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    foedus(tmp_path, "create", "--data", files[0], "--data", files[1], "--epsilon", "1")
    ledger_path(tmp_path / "state", BudgetKey("default", "one")).write_bytes(b"no database at all" * 100)
    capsys.readouterr()
    assert foedus(tmp_path) == 20
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["NAME", "two"]
    assert said.err.count("error: ") == 1
    assert "one" in said.err
    assert foedus(tmp_path, "two") == 0


def test_an_unknown_budget_says_how_to_make_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert foedus(tmp_path, "nope") == 10
    assert "foedus budget create nope" in capsys.readouterr().err


def test_the_same_records_get_no_second_budget_unless_both_may_be_spent(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert foedus(tmp_path, "create", "--data", files[0], "--epsilon", "1") == 0
    again = ("create", "other", "--data", files[0], "--epsilon", "1")
    assert foedus(tmp_path, *again) == 23
    error = capsys.readouterr().err
    assert "the same records have the budget one already" in error
    assert f"foedus budget one --state {tmp_path / 'state'}" in error
    assert foedus(tmp_path, *again, "--namespace", "elsewhere") == 23
    assert foedus(tmp_path, *again, "--additional") == 0


def test_a_data_set_that_shares_records_with_a_budgets_gets_no_second_one_unless_both_may_be_spent(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert foedus(tmp_path, "create", "--data", files[0], "--epsilon", "1") == 0
    grown = tmp_path / "grown.jsonl"
    write_records(grown, [*read_records(Path(files[0])).items[1:], Record(text="one more", label="a")])
    again = ("create", "grown", "--data", str(grown), "--epsilon", "1")
    assert foedus(tmp_path, *again) == 23
    assert "budget grown: 2 of its records have the budget one already" in capsys.readouterr().err
    assert foedus(tmp_path, *again, "--additional") == 0
    assert foedus(tmp_path, "create", "--data", files[1], "--epsilon", "1") == 0


def test_files_of_one_command_that_share_a_record_are_refused_together(tmp_path: Path, files: list[str]) -> None:
    write_records(Path(files[1]), read_records(Path(files[0])).items[:1])
    assert foedus(tmp_path, "create", "--data", files[0], "--data", files[1], "--epsilon", "1") == 23
    assert not ledger_path(tmp_path / "state", BudgetKey("default", "one")).exists()


def test_what_is_kept_of_records_is_for_this_user_alone(tmp_path: Path, files: list[str]) -> None:
    assert foedus(tmp_path, "create", "--data", files[0], "--epsilon", "1") == 0
    kept = hashes_path(tmp_path / "state", BudgetKey("default", "one"))
    assert (kept.stat().st_size, stat.S_IMODE(kept.stat().st_mode)) == (3 * 32, 0o600)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_state_folder_without_budgets_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert foedus(tmp_path) == 0
    assert capsys.readouterr().out.startswith(f"no budgets in {tmp_path / 'state'};")

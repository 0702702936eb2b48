"""`foedus report` makes the page again from the result folder, and says in one line what is wrong with it."""

import json
from pathlib import Path

import pytest

from foedus.report import record as records
from foedus.report.gather import preparation
from foedus.report.record import read_record
from foedus.report.write import write_report
from foedus_contract.errors import Unavailable
from foedus_contract.progress import Preparing, TrainingStarted
from support.calling import foedus
from support.one_line import check_one_line
from support.report_record import small_record

Capture = pytest.CaptureFixture[str]


def test_the_page_is_made_again_from_the_folder_alone(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "README.md").write_text("# The card", "utf-8")
    page = write_report(small_record(), tmp_path)
    before = page.read_bytes()
    assert b"The card" in before
    assert read_record(tmp_path) == small_record()
    assert b"dataDigest" not in (tmp_path / "report.json").read_bytes()
    page.unlink()
    assert foedus("report", str(tmp_path)) == 0
    assert page.read_bytes() == before
    assert capsys.readouterr().out == f"{page}\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "report.html", "report.json"]


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(small_record().to_json()), **fields}).encode()


def with_silo(name: str) -> bytes:
    plan = json.loads(small_record().to_json())["plan"]
    return changed(plan={**plan, "silos": [{**plan["silos"][0], "name": name}, *plan["silos"][1:]]})


BAD: dict[str, tuple[bytes | None, str]] = {
    "no record": (None, "cannot be read (No such file or directory)"),
    "empty": (b"", "no record of a run that this version can read"),
    "no JSON": (b"<script>", "no record of a run that this version can read"),
    "another version": (changed(version="v2"), "version: Input should be 'v1'"),
    "unknown field": (changed(script="x"), "script: Extra inputs are not permitted"),
    "not a number": (changed(epsilonSpent=float("nan")), "epsilonSpent"),
    "no moment of any calendar": (changed(beganAt=1e300), "beganAt"),
    "markup as a silo's name": (with_silo("<script>"), "plan.silos.0.name"),
    "too large": (small_record().to_json() + b" " * 8192, "larger than 8,192 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_one_line(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, what = BAD[name]
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 8192)
    if text is not None:
        (tmp_path / "report.json").write_bytes(text)
    assert foedus("report", str(tmp_path)) == 10
    check_one_line(capsys, f"{tmp_path}/report.json", what, "name the result folder of a run")
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, capsys: Capture) -> None:
    assert foedus("report", str(tmp_path / "nowhere")) == 10
    check_one_line(capsys, "nowhere/report.json", "No such file or directory")


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    page = write_report(small_record(), tmp_path)
    (tmp_path / "report.json").unlink()
    (tmp_path / "report.json").mkdir()
    with pytest.raises(Unavailable, match=r"report.json: the report cannot be written .*; make room"):
        write_report(small_record(epsilon_spent=0.5), tmp_path)
    assert b"0.900" in page.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]


def caching(*events: tuple[float | None, int]) -> list[Preparing]:
    return [Preparing(at=at, what="caching activations", done=done, total=2) for at, done in events]


@pytest.mark.parametrize(
    ("clients", "want"),
    [
        ([caching((4.0, 1), (6.0, 2)), caching((5.0, 1), (5.5, 2))], [5.0, 6.0, 9.0]),
        ([caching((4.0, 1)), caching((5.0, 1), (5.5, 2))], [5.0, 9.0]),  # one silo never said that it was done
        ([caching((None, 1), (None, 2))], [9.0]),
        ([[]], [9.0]),
    ],
)
def test_preparation_ends_with_the_last_silo(clients: list[list[Preparing]], want: list[float]) -> None:
    started = TrainingStarted(at=9.0, joined=("a",), trainable_parameters=1, kappa=0.1)
    assert [step.until for step in preparation(clients, started)] == want

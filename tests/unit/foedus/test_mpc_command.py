"""`foedus mpc plan` says what an inference will cost, exactly and under which assumption, or in one line why not."""

import json
from pathlib import Path

import pytest

from foedus_workloads.mpc.model import check_model, compile_program
from foedus_workloads.mpc.model import plan as make_plan
from support.calling import foedus
from support.one_line import check_one_line
from support.tiny_bert import write_tiny_bert
from support.tiny_classifier import write_classifier

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("model") / "bert", "bert")[0]


def test_json_has_every_step_and_its_sums(model: Path, capsys: Capture) -> None:
    assert foedus("mpc", "plan", str(model), "--tokens", "10", "--output", "json") == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    program = compile_program(check_model(model), 16)
    total = make_plan(program).total
    assert (said["tokens"], said["program"], captured.err) == (16, program.digest, "")
    assert (said["rounds"], tuple(said["bytesSent"])) == (total.rounds, total.bytes_sent)
    assert sum(step["rounds"] for step in said["steps"]) == said["rounds"]
    assert [sum(each) for each in zip(*(step["messages"] for step in said["steps"]), strict=True)] == said["messages"]
    # 16 bytes a shared number: 2 layers of 4 · 32² + 2 · 32 · 64 + 320 + 32 numbers, the head's 33 · 32 + 33 · 3.
    assert said["weightBytes"] == 16 * (2 * (4 * 32**2 + 2 * 32 * 64 + 4 * 32 + 64 + 32 + 4 * 32) + 33 * 32 + 33 * 3)
    assert said["inputBytes"] == 8 * (16 * 32 + 16)


def test_the_table_has_one_row_for_equal_steps_and_names_the_assumption(model: Path, capsys: Capture) -> None:
    assert foedus("mpc", "plan", str(model)) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "bert, 2 layers, hidden 32, intermediate 64, 4 heads, 3 labels; Replicated3PC"
    assert lines[1].startswith("texts of at most 64 tokens, padded to 64; program sha256:")
    assert [line.split("  ")[0] for line in lines if line.startswith("encoder.layer.*.intermediate.gelu")] == [
        "encoder.layer.*.intermediate.gelu"
    ] * 2
    assert lines[-1].startswith("assumption: private as long as no two of the three parties put together")
    assert captured.err == "counting what each party would send …\n"


def test_a_model_without_a_head_is_refused_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    folder = write_tiny_bert(tmp_path / "tiny")
    assert foedus("mpc", "plan", str(folder)) == 12
    check_one_line(capsys, "no classification head (classifier.weight)", "name an adapter that brings one")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("no-such-folder",), 12, "there is neither such a folder nor such an installed package"),
        (("MODEL", "--adapter", "no-such-folder"), 12, "adapter_config.json: the file cannot be read"),
        (("MODEL", "--tokens", "65", "-o", "json"), 10, "65 tokens are asked for, the model takes 2 to 64"),
        (("MODEL", "--tokens", "0"), 2, "--tokens"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(
    arguments: tuple[str, ...], code: int, says: str, model: Path, capsys: Capture
) -> None:
    assert foedus("mpc", "plan", *(str(model) if each == "MODEL" else each for each in arguments)) == code
    check_one_line(capsys, says)

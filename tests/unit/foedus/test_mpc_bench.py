"""`foedus mpc bench` measures whole inferences: what it says must be the plan's, and the processes' own."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from foedus.inference.bench import as_text, make_text
from foedus_workloads.mpc.model import check_model, compile_program
from foedus_workloads.mpc.model import plan as make_plan
from support.calling import foedus
from support.one_line import check_one_line
from support.tiny_classifier import write_classifier

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("model") / "bert", "bert")[0]


def test_json_says_what_was_measured_of_each_text_and_member(model: Path, tmp_path: Path, capsys: Capture) -> None:
    state = str(tmp_path / "state")
    assert foedus("mpc", "bench", str(model), "--tokens", "9", "--runs", "2", "--state", state, "-o", "json") == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    total = make_plan(compile_program(check_model(model), 16)).total
    assert (captured.err, said["protocol"], said["tokens"], said["paddedTokens"]) == ("", "Replicated3PC", 9, 16)
    names = ["party 0", "party 1", "party 2"]
    for run in said["runs"]:
        assert (run["rounds"], run["bytesSent"]) == (total.rounds, dict(zip(names, total.bytes_sent, strict=True)))
        assert run["seconds"] >= run["computingSeconds"] > 0
        assert run["processorSeconds"] > 0
    assert len(said["runs"]) == 2
    assert [each["name"] for each in said["members"]] == names
    assert min(each["peakBytes"] for each in said["members"]) > 100e6  # torch alone takes more
    # What members take for texts is a part of what they take at all: reading their shares is the rest.
    members = sum(each["processorSeconds"] for each in said["members"])
    assert members > 0
    assert set(said["phases"]) == {"reading", "sharing", "starting", "connecting", "computing"}
    assert said["machine"]["cores"] >= 1
    assert not any((tmp_path / "state").rglob("*.safetensors"))


@pytest.mark.parametrize("tokens", [3, 16, 64])
def test_a_text_has_as_many_tokens_as_were_asked_for(model: Path, tokens: int) -> None:
    encoded = Tokenizer.from_file(str(model / "tokenizer.json")).encode(make_text(model, tokens))
    assert len(encoded.ids) == tokens
    assert len(set(encoded.ids)) == 3  # one word between two marks


def test_a_person_reads_the_same_in_two_tables() -> None:
    run = {"connectingSeconds": 0.25, "computingSeconds": 1.5, "processorSeconds": 2.25, "rounds": 343}
    report = {
        "protocol": "CrypTen",
        "parties": 2,
        "tokens": 100,
        "paddedTokens": 128,
        "runs": [{**run, "bytesSent": {"party 0": 10**6, "dealer": 3 * 10**6}}],
        "members": [{"name": "dealer", "processorSeconds": 1.25, "peakBytes": 2 * 10**8}],
        "phases": {"reading": 0.5},
        "assumption": "private.",
        "ringPath": "avx2",
        "machine": {"cpu": "a processor", "cores": 2},
    }
    assert as_text(report).splitlines() == [
        "CrypTen by 2 parties, texts of 100 tokens, padded to 128",
        "a processor, 2 cores, products by avx2",
        "",
        "TEXT   CONNECTING S   COMPUTING S   PROCESSOR S   ROUNDS   MOST SENT",
        "1      0.25           1.50          2.25          343      3.0 MB",
        "",
        "MEMBER   PROCESSOR S   MOST MEMORY",
        "dealer   1.2           200.0 MB",
        "",
        "time, all texts: reading 0.5 s",
        "assumption: private.",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("no-such-folder",), 12, "there is neither such a folder nor such an installed package"),
        (("MODEL", "--tokens", "65"), 10, "65 tokens are asked for, the model takes 2 to 64"),
        (("MODEL", "--tokens", "2"), 2, "--tokens"),
        (("MODEL", "--runs", "0"), 2, "--runs"),
        (("MODEL", "--parties", "2"), 10, "there is no Replicated3PC by 2 parties"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    arguments: tuple[str, ...], code: int, says: str, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = (str(model) if each == "MODEL" else each for each in arguments)
    assert foedus("mpc", "bench", *given, "-o", "json", "--state", str(tmp_path / "state")) == code
    check_one_line(capsys, says)

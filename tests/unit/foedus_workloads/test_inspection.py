"""A process that looks at a base model leaves what planning needs, or says what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foedus_contract.exit_codes import ExitCode
from foedus_contract.inspection import Inspection
from foedus_contract.limits import MAX_RESULT_BYTES
from foedus_contract.run_spec import InspectorRunSpec, ModelSource
from foedus_workloads import entry
from foedus_workloads.training.base import check_base
from foedus_workloads.training.progress import ProgressWriter
from support.tiny_bert import write_tiny_bert

RESULT = "foedus/run/termination-log"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tiny_bert(tmp_path / "model")
    spec = InspectorRunSpec(model=ModelSource(path="/model"), progress="/foedus/run/progress.jsonl")
    (tmp_path / "spec.json").write_bytes(spec.to_json())
    return tmp_path


def inspect(root: Path) -> tuple[int, Inspection]:
    code = entry.run(["--spec", "/spec.json"], {"FOEDUS_ROOT": str(root)})
    text = (root / RESULT).read_bytes()
    assert len(text) <= MAX_RESULT_BYTES
    return code, Inspection.from_json(text)


def test_the_model_is_described_as_planning_needs_it(root: Path) -> None:
    code, found = inspect(root)

    assert code == ExitCode.OK
    assert found.model is not None
    assert found.model.digest == check_base(root / "model").digest
    assert (found.model.hidden_size, found.model.layers, found.model.positions) == (32, 2, 64)
    assert found.model.modules == {
        "attention.self.query": (32, 32),
        "attention.self.key": (32, 32),
        "attention.self.value": (32, 32),
        "attention.output.dense": (32, 32),
        "intermediate.dense": (32, 64),
        "output.dense": (64, 32),
    }


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", None, "config.json"),
        ("config.json", b"[]", "config.json"),
        ("model.safetensors", b"\0" * 100, "model.safetensors"),
        ("tokenizer.json", b"no json", "tokenizer.json"),
    ],
)
def test_a_broken_model_file_is_a_result_and_final(root: Path, file: str, content: bytes | None, says: str) -> None:
    path = root / "model" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    code, found = inspect(root)

    assert (code, found.code, found.model) == (ExitCode.INVALID_MODEL, ExitCode.INVALID_MODEL, None)
    assert says in found.problem
    assert "\n" not in found.problem


def test_no_training_framework_is_loaded(root: Path) -> None:
    program = (
        "import sys; from foedus_workloads import entry; code = entry.run(['--spec', '/spec.json'], "
        f"{{'FOEDUS_ROOT': {str(root)!r}}}); "
        "print(code, sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.split() == ["0", "[]"]


def test_in_a_pod_progress_goes_to_its_log_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert entry.read_surroundings({}).console == 1
    assert entry.read_surroundings({"FOEDUS_ROOT": "/x"}).console is None
    spec = InspectorRunSpec(model=ModelSource(path="/model"), progress="/p")
    ProgressWriter(tmp_path / "run/progress.jsonl", 1).write(spec)

    line = (tmp_path / "run/progress.jsonl").read_text("utf-8")
    assert capfd.readouterr().out == line
    assert json.loads(line)["role"] == "Inspector"

"""A process starts from one file, fails in one line, and leaves what the engine reads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus_contract.errors import FoedusError, describe_defect
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import Deadlines, ModelPlan, OptimizerPlan, PrivacyPlan, SiloPlan, TrainingPlan
from foedus_contract.progress import PROGRESS, ProcessFailed, TrainingResult
from foedus_contract.run_spec import ClientRunSpec, CoordinatorRunSpec, ModelSource, TlsFiles
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetSpec
from foedus_ledger.sqlite import SqliteLedger
from foedus_workloads import entry
from foedus_workloads.privacy.noise import OpenDpSampler
from foedus_workloads.training.client import prepare
from foedus_workloads.training.data import Record, read_records, write_records
from foedus_workloads.training.progress import ProgressWriter
from foedus_workloads.training.surroundings import Surroundings
from support.certificates import Authority
from support.silo_ledgers import file_ledger

DIGEST = "sha256:" + "0" * 64
TLS = TlsFiles(certificate="/tls/tls.crt", key="/tls/tls.key", ca="/tls/ca.crt")


def plan_of(data_digest: str = DIGEST) -> TrainingPlan:
    return TrainingPlan(
        namespace="ns",
        job="job",
        uid="uid",
        rounds=2,
        spare_attempts=0,
        seed=1,
        micro_batch=8,
        model=ModelPlan(digest=DIGEST, labels=("one", "two"), max_tokens=16, lora=None),
        optimizer=OptimizerPlan(learning_rate=1, head_learning_rate=1, momentum=0),
        privacy=PrivacyPlan(
            epsilon=1,
            delta=1e-5,
            clip=1,
            noise_multiplier=5,
            grid_per_clip=2**20,
            threshold=3,
            colluders=1,
            min_honest=2,
            epsilon_pld=1,
            epsilon_rdp=1,
        ),
        deadlines=Deadlines(join_seconds=1, stage_seconds=1, compute_seconds=1),
        silos=(
            SiloPlan(name="a", data_digest=data_digest, records=2),
            *(SiloPlan(name=name, data_digest=f"sha256:{name * 64}", records=2) for name in "bcd"),
        ),
    )


def coordinator_spec() -> CoordinatorRunSpec:
    return CoordinatorRunSpec(
        plan=plan_of(),
        listen_service="job-coordinator.ns",
        listen_port=8443,
        tls=TLS,
        model=ModelSource(path="/model"),
        evaluation_data=None,
        output="/output",
        progress="/foedus/run/progress.jsonl",
    )


def client_spec(data_digest: str = DIGEST) -> ClientRunSpec:
    return ClientRunSpec(
        plan=plan_of(data_digest),
        silo="a",
        coordinator_service="job-coordinator.ns",
        coordinator_port=8443,
        tls=TLS,
        model=ModelSource(path="/model"),
        data="/data/train.jsonl",
        state="/state",
        ledger="/ledger.sqlite",
        budget="ns/a",
        policy="/policy.json",
        progress="/foedus/run/progress.jsonl",
    )


def run(root: Path, text: bytes, **environ: str) -> int:
    (root / "spec.json").write_bytes(text)
    return entry.run(["--spec", "/spec.json"], {"FOEDUS_ROOT": str(root), **environ})


def changed(**fields: object) -> bytes:
    return json.dumps(json.loads(coordinator_spec().to_json()) | fields).encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "run spec: Invalid JSON"),
        (b"{}", "run spec: Unable to extract tag"),
        (changed(role="Trainer"), "run spec: Input tag"),
        (changed(sampler="none"), "run spec: Coordinator.sampler: Extra inputs are not permitted"),
        (changed(threads=0), "run spec: Coordinator.threads"),
        (b" " * (1024 * 1024 + 1), "the run spec is too large"),
    ],
)
def test_a_bad_run_spec_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes, said: str
) -> None:
    assert run(tmp_path, text) == ExitCode.INVALID_SPEC
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_missing_run_spec_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(["--spec", "/none.json"], {"FOEDUS_ROOT": str(tmp_path)}) == ExitCode.INVALID_SPEC
    assert str(tmp_path / "none.json") in capsys.readouterr().err


def failures(root: Path) -> list[int]:
    lines = (root / "foedus/run/progress.jsonl").read_bytes().splitlines()
    return [event.code for event in map(PROGRESS.validate_json, lines) if isinstance(event, ProcessFailed)]


def test_a_final_failure_of_the_coordinator_is_its_result(tmp_path: Path) -> None:
    assert run(tmp_path, coordinator_spec().to_json()) == ExitCode.IDENTITY_REFUSED  # no certificates are mounted
    result = TrainingResult.from_json((tmp_path / "foedus/run/termination-log").read_bytes())
    assert (result.outcome, result.reason, result.code) == ("Failed", "IdentityRefused", 21)
    assert failures(tmp_path) == [21]


def test_a_failure_that_a_new_start_may_cure_leaves_no_result(tmp_path: Path) -> None:
    Authority.create().issue(tmp_path / "tls", x509.DNSName("job-coordinator"))
    endpoints = tmp_path / "endpoints.json"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoints.write_text(json.dumps({"job-coordinator.ns:8443": f"127.0.0.1:{taken.getsockname()[1]}"}))
        code = run(tmp_path, coordinator_spec().to_json(), FOEDUS_ENDPOINTS=str(endpoints))
    assert code == ExitCode.ADDRESS_IN_USE
    assert not (tmp_path / "foedus/run/termination-log").exists()
    assert failures(tmp_path) == [41]


def test_a_defect_is_one_line_without_the_text_of_the_error() -> None:
    try:
        raise KeyError("patient 17")
    except KeyError as error:
        said = describe_defect(error)
    assert said.startswith("internal error: KeyError at test_entry.py:")
    assert "patient" not in said


def test_the_process_ends_when_its_engine_is_gone() -> None:
    ours, theirs = os.pipe()
    codes: list[int] = []
    thread = entry.watch_engine({"FOEDUS_ENGINE_PIPE": str(ours)}, codes.append)
    assert thread is not None
    assert codes == []
    os.close(theirs)
    thread.join(5)
    os.close(ours)
    assert codes == [ExitCode.CANCELLED]
    assert entry.watch_engine({}, codes.append) is None


def test_nothing_heavy_is_loaded_before_the_spec_is_known_to_be_good() -> None:
    program = (
        "import sys, foedus_workloads.entry, foedus_workloads.training.coordinator, foedus_workloads.training.client\n"
        "sys.exit(' '.join({'torch', 'transformers', 'peft', 'opendp'} & set(sys.modules)) or 0)"
    )
    environ = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", program], env=environ, check=False).returncode == 0


def _reserve(root: Path, *, sigma: float = 5.0, digest: str | None = None, **more: object) -> None:
    data = read_records(root / "data/train.jsonl")
    ledger = SqliteLedger(root / "ledger.sqlite")
    fields = {"digest": digest or data.digest, "records": data.count, "epsilon": 10, "delta": 1e-5}
    ledger.create(BudgetSpec.model_validate({"labels": ("one", "two"), **fields, **more}))
    ledger.reserve("uid", Mechanism(noise_multiplier=sigma), 2, "test")


def _close(root: Path) -> None:
    _reserve(root)
    SqliteLedger(root / "ledger.sqlite").close("uid")


def _restore(root: Path) -> None:
    _reserve(root)
    copy = (root / "ledger.sqlite").read_bytes()
    file_ledger(root / "ledger.sqlite", KEY).charge("uid", 0)
    (root / "ledger.sqlite").write_bytes(copy)


def _change_data(root: Path, *records: Record) -> None:
    _reserve(root)
    write_records(root / "data/train.jsonl", records)


def _remove_data(root: Path) -> None:
    _reserve(root)
    (root / "data/train.jsonl").unlink()


KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
REFUSALS: dict[str, tuple[Callable[[Path], object], ExitCode, str]] = {
    "other data": (
        lambda root: _change_data(root, Record("changed", "one")),
        ExitCode.INVALID_DATA,
        "not what the plan was made for",
    ),
    "no data": (_remove_data, ExitCode.INVALID_DATA, "cannot read"),
    "a label that the holder did not declare": (
        lambda root: _change_data(root, Record("changed", "three")),
        ExitCode.INVALID_DATA,
        "jsonl:1: the label is not one of one, two",
    ),
    "a label that the plan lacks": (
        lambda root: _reserve(root, labels=("one", "two", "three")),
        ExitCode.BUDGET_REFUSED,
        "not have all labels that the budget declares",
    ),
    "no labels declared": (lambda root: _reserve(root, labels=()), ExitCode.BUDGET_REFUSED, "not have all labels"),
    "no ledger": (lambda _root: None, ExitCode.BUDGET_REFUSED, "no budget here"),
    "budget for other data": (
        lambda root: _reserve(root, digest=DIGEST),
        ExitCode.BUDGET_REFUSED,
        "budget is for other data",
    ),
    "fewer colluders than the holder asks for": (
        lambda root: _reserve(root, least_colluders=2),
        ExitCode.BUDGET_REFUSED,
        "fewer colluders than the budget asks for",
    ),
    "closed account": (_close, ExitCode.BUDGET_REFUSED, "no open reservation"),
    "less noise than reserved for": (lambda root: _reserve(root, sigma=6), ExitCode.BUDGET_REFUSED, "less noise"),
    "an old copy of the ledger": (_restore, ExitCode.LEDGER_BEHIND, "the ledger is an old copy"),
    "no model": (_reserve, ExitCode.INVALID_MODEL, "folder does not exist"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_silo_stops_before_joining_when_data_budget_or_model_do_not_fit_the_plan(tmp_path: Path, name: str) -> None:
    spoil, code, said = REFUSALS[name]
    (tmp_path / "data").mkdir()
    write_records(tmp_path / "data/train.jsonl", [Record("first", "one"), Record("second", "two")])
    spec = client_spec(read_records(tmp_path / "data/train.jsonl").digest)
    spoil(tmp_path)
    with pytest.raises(FoedusError, match=said) as caught:
        prepare(spec, Surroundings(root=tmp_path), ProgressWriter(tmp_path / "progress.jsonl"), KEY)
    assert caught.value.code is code


def test_where_a_silos_data_are_wrong_is_said_in_its_own_log_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, around = client_spec(), Surroundings(root=tmp_path)
    wrong = "train.jsonl:17: the label is not one of a, b; correct it"
    assert entry.fail(spec, around, ExitCode.INVALID_DATA, wrong) == ExitCode.INVALID_DATA
    assert capsys.readouterr().err == f"silo a: {wrong}\n"
    told = PROGRESS.validate_json((tmp_path / "foedus/run/progress.jsonl").read_bytes())
    assert isinstance(told, ProcessFailed)
    assert told.message == (
        "the data of silo a are not what the job needs; the silo's own log says where, for its holder to mend"
    )


def test_a_silo_draws_its_noise_from_the_production_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_by: list[object] = []

    async def take_part(_spec: ClientRunSpec, _around: Surroundings, sampler: object) -> None:
        drawn_by.append(sampler)

    monkeypatch.setattr("foedus_workloads.training.client.run_client", take_part)
    assert run(tmp_path, client_spec().to_json()) == ExitCode.OK
    assert [type(sampler) for sampler in drawn_by] == [OpenDpSampler]

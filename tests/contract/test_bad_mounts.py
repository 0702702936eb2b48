"""What a silo's pod finds wrong with its mounts and its coordinator: one line, a final code, and no key in it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509

from foedus_contract.exit_codes import ExitCode
from foedus_contract.run_spec import SiloPolicy
from foedus_workloads import entry
from foedus_workloads.training.data import Record, write_records
from foedus_workloads.training.identity import load_identity
from foedus_workloads.transport.tls import TlsPaths, server_context
from support import training_world
from support.certificates import Authority
from support.one_line import check_one_line
from support.tiny_bert import write_tiny_bert

Capture = pytest.CaptureFixture[str]

# What a pod finds: the run spec is right, what is mounted beside it is not.
POD_CASES: dict[str, tuple[Callable[[training_world.World], object], ExitCode, tuple[str, ...]]] = {
    "data changed after the budget was made": (
        lambda world: write_records(world.root / "silo-a/train.jsonl", [Record("changed", "one")]),
        ExitCode.INVALID_DATA,
        ("silo silo-a:", "train.jsonl", "not what the plan was made for", "put the old data back"),
    ),
    "label outside the list": (
        lambda world: write_records(world.root / "silo-a/train.jsonl", [Record("a", "one"), Record("b", "three")]),
        ExitCode.INVALID_DATA,
        ("silo-a/train.jsonl:2", "not one of one, two", "spec.model.labels"),
    ),
    "data gone": (
        lambda world: (world.root / "silo-a/train.jsonl").unlink(),
        ExitCode.INVALID_DATA,
        ("silo-a/train.jsonl", "cannot read", "clients[].data"),
    ),
    "another base model": (
        lambda world: write_tiny_bert(world.root / "model", seed=1),
        ExitCode.INVALID_MODEL,
        ("/model", "the plan was made for", "same model files"),
    ),
    "no certificate": (
        lambda world: (world.root / "tls/silo-a/tls.crt").unlink(),
        ExitCode.IDENTITY_REFUSED,
        ("tls/silo-a/tls.crt", "missing", "mount the Secret"),
    ),
    "key of another certificate": (
        lambda world: shutil.copy(world.root / "tls/silo-b/tls.key", world.root / "tls/silo-a/tls.key"),
        ExitCode.IDENTITY_REFUSED,
        ("tls/silo-a/tls.crt", "do not fit", "mount the Secret"),
    ),
}


def run_silo(world: training_world.World) -> int:
    (world.root / "spec.json").write_bytes(world.client_spec("silo-a").to_json())
    environ = {"FOEDUS_ROOT": str(world.root), "FOEDUS_ENDPOINTS": str(world.root / "endpoints.json")}
    return entry.run(["--spec", "/spec.json"], environ)


def check_no_keys(world: training_world.World, capsys: Capture, *parts: str) -> None:
    key = (world.root / "tls/silo-a/tls.key").read_text("utf-8").splitlines()[1]
    progress = world.root / "silo-a/progress.jsonl"
    assert not progress.exists() or key not in progress.read_text("utf-8")
    check_one_line(capsys, *parts)


@pytest.mark.parametrize("name", POD_CASES)
def test_a_silo_says_in_one_line_what_is_wrong_with_its_mounts(tmp_path: Path, capsys: Capture, name: str) -> None:
    spoil, code, parts = POD_CASES[name]
    world = training_world.build_world(tmp_path)
    spoil(world)
    assert run_silo(world) == code
    check_no_keys(world, capsys, *parts)


def foreign_certificate(world: training_world.World) -> ssl.SSLContext:
    """The coordinator's certificate is signed by an authority that is not the job's."""
    return server_context(Authority.create().issue(world.root / "foreign", x509.DNSName("job-coordinator")))


def old_tls(world: training_world.World) -> ssl.SSLContext:
    """The right certificate, but something in between speaks TLS 1.2 only."""
    files = TlsPaths(*(world.root / "tls/coordinator" / name for name in ("tls.crt", "tls.key", "ca.crt")))
    context = server_context(files)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextmanager
def listening(port: int, context: ssl.SSLContext) -> Iterator[None]:
    """Shake hands with whoever comes, until the block ends."""

    def serve() -> None:
        while True:
            try:
                raw, _ = server.accept()
            except OSError:
                return
            with raw, suppress(OSError):
                context.wrap_socket(raw, server_side=True).close()

    with socket.create_server(("127.0.0.1", port)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("make_context", "parts"),
    [
        (foreign_certificate, ("job-coordinator", "certificate", "this job's authority signed")),
        (old_tls, ("job-coordinator", "does not speak TLS 1.3", "older TLS is never used")),
    ],
)
def test_a_silo_refuses_a_foreign_certificate_and_old_tls(
    tmp_path: Path,
    capsys: Capture,
    make_context: Callable[[training_world.World], ssl.SSLContext],
    parts: tuple[str, ...],
) -> None:
    world = training_world.build_world(tmp_path)
    keys = {name: load_identity(tmp_path / name, os.urandom).public_key() for name in training_world.SILOS}
    policy = SiloPolicy(pinned={name: key.public_bytes_raw() for name, key in keys.items()})
    (tmp_path / "policy.json").write_bytes(policy.to_json())
    address = next(iter(json.loads((tmp_path / "endpoints.json").read_text("utf-8")).values()))
    with listening(int(address.rpartition(":")[2]), make_context(world)):
        assert run_silo(world) == ExitCode.IDENTITY_REFUSED
    check_no_keys(world, capsys, *parts)

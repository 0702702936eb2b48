"""A party's process that cannot begin: one line, under its own name, and the contract's code."""

from __future__ import annotations

import json
import os
import socket

import pytest
from cryptography import x509

from foedus_contract import paths
from foedus_contract.exit_codes import ExitCode
from foedus_contract.run_spec import PartyAddress, PartyRunSpec, TlsFiles
from foedus_workloads import entry
from foedus_workloads.inference.model import Owner
from foedus_workloads.inference.party import claim_incarnation
from foedus_workloads.inference.shares import write_shares
from foedus_workloads.transport.tls import party_uri
from support.certificates import Authority
from support.tiny_classifier import write_classifier

PORT = 8443


@pytest.fixture(scope="module")
def sharing(tmp_path_factory):
    return Owner(write_classifier(tmp_path_factory.mktemp("model"), "bert")[0], None).share(os.urandom)


@pytest.fixture
def root(tmp_path, sharing):
    """The folder of party 1 as the embedded engine lays it out."""
    spec = PartyRunSpec(
        party=1,
        namespace="lab",
        cluster="bert",
        parties=tuple(PartyAddress(service=f"party-{each}", port=PORT) for each in range(3)),
        tls=TlsFiles(certificate="/tls/tls.crt", key="/tls/tls.key", ca="/tls/ca.crt"),
        model_digest=sharing.labels[1].model_digest,
        weights="/weights.safetensors",
        state="/state",
        progress="/progress.jsonl",
    )
    (tmp_path / "spec.json").write_bytes(spec.to_json())
    endpoints(tmp_path, 1)
    Authority.create().issue(tmp_path / "tls", x509.UniformResourceIdentifier(party_uri("lab", "bert", 1)))
    write_shares(tmp_path / "weights.safetensors", sharing.shares[1], sharing.labels[1])
    return tmp_path


def endpoints(root, port, services=("party-0", "party-1", "party-2")):
    known = {f"{service}:{PORT}": f"127.0.0.1:{port}" for service in services}
    (root / "endpoints.json").write_text(json.dumps(known))


def ended(root, capsys):
    environ = {paths.ROOT_VARIABLE: str(root), paths.ENDPOINTS_VARIABLE: str(root / "endpoints.json")}
    code = entry.run(["--spec", "/spec.json"], environ)
    said = capsys.readouterr().err.strip().replace(str(root), "…")
    return code, said


def other_shares(root, sharing, party):
    (root / "weights.safetensors").unlink()
    write_shares(root / "weights.safetensors", sharing.shares[party], sharing.labels[party])


def mislabelled(root, sharing):
    """The shares of party 2 under party 1's label."""
    (root / "weights.safetensors").unlink()
    write_shares(root / "weights.safetensors", sharing.shares[2], sharing.labels[1])


@pytest.mark.parametrize(
    ("spoil", "code", "line"),
    [
        (
            lambda root, _: (root / "weights.safetensors").unlink(),
            ExitCode.INVALID_MODEL,
            "…/weights.safetensors: the file cannot be read (No such file or directory); share the model again",
        ),
        (
            lambda root, sharing: other_shares(root, sharing, 2),
            ExitCode.INVALID_MODEL,
            "…/weights.safetensors: these are the shares of party 2, not of party 1; share the model again",
        ),
        (mislabelled, ExitCode.INVALID_MODEL, "is missing or of another type or shape"),
        (
            lambda root, _: endpoints(root, 1, ("party-0", "party-1")),
            ExitCode.INVALID_SPEC,
            "service party-2:8443: the endpoints file does not know it",
        ),
        (
            lambda root, _: (root / "tls/tls.key").unlink(),
            ExitCode.IDENTITY_REFUSED,
            "…/tls/tls.key: the file is missing; mount the Secret",
        ),
        (
            lambda root, _: (root / "state").write_bytes(b""),
            ExitCode.UNAVAILABLE,
            "…/state/incarnations: cannot be written (",
        ),
    ],
    ids=["no shares", "another party's", "mislabelled", "a service", "no key", "state"],
)
def test_a_party_that_cannot_begin_says_why(root, sharing, spoil, code, line, capsys):
    spoil(root, sharing)
    got, said = ended(root, capsys)
    assert got == code
    assert said.startswith("party 1: ")
    assert line in said
    assert len(said.splitlines()) == 1


def test_a_party_does_not_begin_where_another_listens(root, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoints(root, taken.getsockname()[1])
        got, said = ended(root, capsys)
    assert got == ExitCode.ADDRESS_IN_USE
    assert "cannot listen (Address already in use); try again" in said


def test_a_party_does_not_begin_beside_another_of_its_own(root, capsys):
    with claim_incarnation(root / "state", 1):
        got, said = ended(root, capsys)
    assert got == ExitCode.UNAVAILABLE
    assert said == ("party 1: …/state: another process of this party 1 runs on the same state; wait until it has ended")

"""Three parties and a client over TLS, in threads: several sessions, and what each meets when another misbehaves."""

from __future__ import annotations

import socket
import ssl
import time

import pytest
import torch
from cryptography import x509

from foedus_contract.errors import FoedusError
from foedus_contract.exit_codes import ExitCode
from foedus_workloads.mpc.activations import gelu
from foedus_workloads.transport.caller import Call, CallerPatience
from foedus_workloads.transport.frames import Connection
from foedus_workloads.transport.tls import caller_uri, party_contexts, party_uri
from support.certificates import Authority
from support.inference_world import (
    QUICK,
    ROUNDS,
    VALUES,
    World,
    ask,
    question,
    relabelled,
    serving,
    with_terms,
)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def all_parties(world, odd=None, *, party=1, **changes):
    """Return three parties, one of which may be odd."""
    return [world.service(each, **changes, **(odd or {} if each == party else {})) for each in range(3)]


def refusal(call):
    with pytest.raises(FoedusError) as caught:
        call()
    return caught.value.code, str(caught.value)


def test_one_session_after_another_is_answered_with_the_programs_values(world):
    with serving(*all_parties(world)):
        replies = [world.call(question(VALUES * scale)) for scale in (1.0, 0.5)]
    for reply, scale in zip(replies, (1.0, 0.5), strict=True):
        got = torch.tensor(reply.values, dtype=torch.float64)
        assert (got - torch.nn.functional.gelu(VALUES * scale)).abs().max() < 0.0043
        assert reply.rounds == ROUNDS
        assert len(set(reply.bytes_sent)) <= 3
        assert min(reply.bytes_sent) > 0


OTHER_MODEL, OTHER_PROGRAM = "sha256:" + "b" * 64, "sha256:" + "c" * 64


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ({"model_digest": OTHER_MODEL}, "party 1: the client asks for the model"),
        ({"sharing": b"t" * 16}, "party 1: the client asks for another sharing of the model"),
        ({"fraction": 18}, "party 1: the client asks for another sharing of the model"),
    ],
    ids=["model", "sharing", "fraction"],
)
def test_a_party_with_shares_of_something_else_is_refused_before_any_share_is_sent(world, label, words, monkeypatch):
    sent = []
    monkeypatch.setattr("foedus_workloads.inference.inquiry.Inquiry.inputs", lambda *a: sent.append(a))
    with serving(*all_parties(world, {"label": relabelled(1, **label)})):
        code, line = refusal(world.call)
    assert (code, line.startswith(words), sent) == (ExitCode.INVALID_MODEL, True, [])


def test_a_client_with_another_program_is_refused(world):
    with serving(*all_parties(world)):
        code, line = refusal(lambda: world.call(with_terms(question(), program_digest=OTHER_PROGRAM)))
    assert code is ExitCode.INVALID_MODEL
    assert line.startswith("party 0: the client's program is another one")


def test_a_missing_party_is_named(world):
    impatient = CallerPatience(connect_seconds=2)
    with serving(world.service(0), world.service(1)):
        code, line = refusal(lambda: world.call(patience=impatient))
    assert (code, line) == (ExitCode.UNAVAILABLE, "party 2: is not there; start all members")


def stops_after(rounds, act):
    """GELU that does something else after a number of rounds."""

    def program(party, x):
        operation, count = gelu(party, x), 0
        exchange = next(operation)
        while True:
            if count == rounds:
                act()
            received, count = (yield exchange), count + 1
            try:
                exchange = operation.send(received)
            except StopIteration as end:
                return end.value

    return program


@pytest.mark.parametrize("rounds", [0, 1, 4, ROUNDS - 1])
def test_a_defect_of_a_party_at_any_round_ends_the_session_and_the_next_is_served(world, rounds):
    failing = [True]

    def fail():
        if failing:
            failing.clear()
            raise ZeroDivisionError

    with serving(*all_parties(world, {"program": stops_after(rounds, fail)})):
        code, line = refusal(world.call)
        assert code in {ExitCode.QUORUM_LOST, ExitCode.INTERNAL}
        assert line.startswith("party 1: ")
        assert world.call().rounds == ROUNDS


def test_a_party_that_stalls_is_named_by_its_neighbours_deadline(world):
    patience = QUICK.model_copy(update={"round_seconds": 2})
    stalling = stops_after(3, lambda: time.sleep(5))
    with serving(*all_parties(world, {"program": stalling}, patience=patience)):
        code, line = refusal(world.call)
    assert (code, line) == (ExitCode.DEADLINE_EXCEEDED, "party 1: did not answer in time; start a new session")


@pytest.mark.parametrize(
    ("caller", "words"),
    [
        (lambda: {"authority": Authority.create()}, "party 0: does not accept the client's certificate"),
        (
            lambda: {"uri": caller_uri("lab", "other", "somebody")},
            "party 0: the certificate names no client of this cluster",
        ),
        (lambda: {"uri": party_uri("lab", "bert", 1)}, "party 0: does not answer"),
    ],
    ids=["another authority", "another cluster", "a party's own"],
)
def test_a_strangers_certificate_gets_no_session(world, caller, words):
    with serving(*all_parties(world)):
        impatient = CallerPatience(connect_seconds=20, consent_seconds=2)
        _, line = refusal(lambda: world.call(patience=impatient, **caller()))
        assert line.startswith(words)
        assert world.call().rounds == ROUNDS


def dialled(world, folder, uri=None):
    """A client's connection after its handshake, of which nothing is said yet."""
    name = x509.UniformResourceIdentifier(uri or caller_uri("lab", "bert", "odd"))
    context = party_contexts(world.authority.issue(folder, name))[1]
    raw = socket.create_connection(world.addresses[0], timeout=20)
    return context.wrap_socket(raw)


def test_half_open_connections_keep_a_client_waiting_for_a_deadline_only(world, tmp_path):
    with serving(*all_parties(world, patience=QUICK.model_copy(update={"open_seconds": 1}))):
        silent = socket.create_connection(world.addresses[0], timeout=20)
        with dialled(world, tmp_path / "odd"):
            assert world.call().rounds == ROUNDS
        silent.close()


MALFORMED = {
    "a header without end": b"\xff\xff\xff\xff",
    "no JSON": b"\x00\x00\x00\x02{[",
    "an unknown kind": b"\x00\x00\x00\x10" + b'{"kind":"Close"}',
    "nothing but a length": b"\x00\x00\x00\x00",
    "half a header": b"\x00\x00\x10\x00{",
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_malformed_frames_end_that_session_alone(world, content, tmp_path):
    with serving(*all_parties(world, patience=QUICK.model_copy(update={"open_seconds": 2}))):
        with dialled(world, tmp_path / "odd") as connection:
            connection.sendall(content)
            connection.settimeout(20)
            answer = connection.recv(4096)
            assert b'"kind":"Ready"' not in answer
        assert world.call().rounds == ROUNDS


def test_a_header_is_bounded_before_it_is_read():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall((2**32 - 1).to_bytes(4, "big"))
        with pytest.raises(ConnectionError, match="the header length is wrong"):
            Connection(ours).read_header(until=1.0, clock=lambda: 0.0)


def test_a_client_that_leaves_ends_its_session_and_the_next_is_served(world, monkeypatch):
    monkeypatch.setattr("foedus_workloads.inference.party.REPORT_SECONDS", 0.0)
    call = Call(world.caller(), CallerPatience())
    left = []

    def leave():
        if not left:
            left.append(True)
            call.close()
            time.sleep(0.5)  # until the end of the connection has come to all parties

    with serving(*all_parties(world, {"program": stops_after(5, leave)}, party=0)):
        with pytest.raises(FoedusError):
            ask(call, question())
        assert left
        assert world.call().rounds == ROUNDS


def test_both_sides_insist_on_tls_1_3(world):
    with serving(*all_parties(world)):
        files = world.caller().files
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.check_hostname = False
        old.load_verify_locations(cafile=files.ca)
        old.load_cert_chain(files.certificate, files.key)
        raw = socket.create_connection(world.addresses[0], timeout=20)
        with pytest.raises(ssl.SSLError), old.wrap_socket(raw):
            pass

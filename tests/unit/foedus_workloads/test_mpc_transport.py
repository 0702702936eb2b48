"""Three parties over real TLS connections, and what each meets when a neighbour misbehaves."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cryptography import x509

from foedus_contract.errors import FoedusError, Refused, Unavailable
from foedus_contract.mpc_wire import SessionTerms
from foedus_workloads.mpc.activations import gelu
from foedus_workloads.mpc.session import Session
from foedus_workloads.transport.frames import LINGER_SECONDS, linger
from foedus_workloads.transport.parties import PartyPlace, meet, run_session
from foedus_workloads.transport.reception import Reception
from foedus_workloads.transport.tls import party_contexts, party_uri
from support.certificates import Authority
from support.inference_world import free_addresses
from support.three_parties import encoded, parties, revealed, run, shared

DIGEST = "sha256:" + "0" * 64
TERMS = SessionTerms(session=bytes(16), model_digest=DIGEST, program_digest=DIGEST, fraction=16)
X = torch.linspace(-4, 4, 200, dtype=torch.float64)
SHARES = shared(encoded(X))
PATIENCE = 60.0


@pytest.fixture
def places(tmp_path):
    authority, addresses = Authority.create(), free_addresses()
    return [place(authority, tmp_path, party, addresses) for party in range(3)]


def place(authority, folder, party, addresses, *, name=None):
    uri = x509.UniformResourceIdentifier(party_uri("lab", "bert", party if name is None else name))
    files = authority.issue(folder / f"party-{party}", uri)
    return PartyPlace(party, "lab", "bert", addresses, files)


def session(party, program=None):
    return Session(
        party,
        TERMS,
        program or (lambda p: gelu(p, SHARES[p.index])),
        incarnation=1,
        entropy=lambda n: bytes([party]) * n,
    )


def run_party(at, program=None, *, round_seconds=PATIENCE, connect_seconds=PATIENCE):
    one = session(at.party, program)
    reception = Reception(at)
    try:
        links = meet(at, reception, seconds=connect_seconds)
    finally:
        reception.close()
    return run_session(one, links, round_seconds=round_seconds), one.totals


def outcomes(*calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(call) for call in calls]
        return [each.exception() or each.result() for each in running]


def test_three_parties_over_tls_compute_and_send_what_was_planned(places):
    ends = outcomes(*(lambda at=at: run_party(at) for at in places))
    got = revealed([result for result, _ in ends]).double() / 2**16
    assert (got - torch.nn.functional.gelu(X)).abs().max() < 0.0043
    planned = run(parties(), lambda p: gelu(p, SHARES[p.index]))
    assert [totals.bytes_sent for _, totals in ends] == planned.sent
    assert [totals.rounds for _, totals in ends] == [planned.rounds] * 3


def test_a_party_that_is_not_there_is_named(places):
    ends = outcomes(*(lambda at=at: run_party(at, connect_seconds=1.0) for at in places[:2]))
    assert [type(end) for end in ends] == [Unavailable, Unavailable]
    assert all("party 2: is not there" in str(end) for end in ends)


def stalls(p):
    time.sleep(3)
    return (yield from gelu(p, SHARES[p.index]))


def leaves(p):
    raise ConnectionAbortedError
    yield


@pytest.mark.parametrize(("program", "words"), [(stalls, "did not answer in time"), (leaves, "is gone")])
def test_a_party_that_stalls_or_leaves_ends_the_others_sessions(places, program, words):
    ends = outcomes(
        lambda: run_party(places[0], round_seconds=1.5),
        lambda: run_party(places[1], round_seconds=1.5),
        lambda: run_party(places[2], program),
    )
    assert all(isinstance(end, FoedusError) for end in ends)
    assert any(words in str(end) for end in ends[:2]), ends


def test_strangers_and_silent_connections_do_not_keep_the_parties_apart(places, tmp_path):
    stranger = Authority.create().issue(
        tmp_path / "stranger", x509.UniformResourceIdentifier(party_uri("lab", "bert", 1))
    )
    silent = []

    def disturb():
        for files in (stranger, None):
            with_retry = lambda: socket.create_connection(places[0].addresses[0], timeout=5)
            for _ in range(100):
                try:
                    raw = with_retry()
                    break
                except OSError:
                    time.sleep(0.02)
            else:
                return
            if files is None:
                silent.append(raw)
            else:
                with pytest.raises((ssl.SSLError, OSError)):
                    party_contexts(files)[1].wrap_socket(raw).recv(1)

    def late(at):
        thread.join()
        return run_party(at)

    thread = threading.Thread(target=disturb)
    thread.start()
    ends = outcomes(lambda: run_party(places[0]), lambda: late(places[1]), lambda: late(places[2]))
    assert [totals.rounds for _, totals in ends] == [8] * 3
    assert silent
    silent[0].close()


def test_a_party_that_answers_under_anothers_name_is_refused(tmp_path):
    authority, addresses = Authority.create(), free_addresses()
    right = [place(authority, tmp_path, party, addresses) for party in range(2)]
    wrong = place(authority, tmp_path, 2, addresses, name=1)
    ends = outcomes(*(lambda at=at: run_party(at, connect_seconds=2.0) for at in (*right, wrong)))
    assert isinstance(ends[0], Refused)
    assert "another party answers there" in str(ends[0])
    assert all(isinstance(end, FoedusError) for end in ends)


@pytest.mark.parametrize("side", [0, 1], ids=["serving", "dialling"])
def test_both_sides_speak_tls_1_3_and_ask_for_a_certificate(places, side):
    context = party_contexts(places[0].files)[side]
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_a_refused_peer_that_goes_on_sending_is_lingered_for_no_longer_than_one_that_is_silent():
    now, grants = [0.0], []

    class Dripping:
        """A connection on which a byte comes every 0.3 seconds."""

        def shutdown(self, _):
            pass

        def settimeout(self, seconds):
            grants.append(seconds)

        def recv(self, _):
            now[0] += 0.3
            if len(grants) > 100:
                pytest.fail("it lingers without end")
            return b"x"

    linger(Dripping(), lambda: now[0])
    assert grants == pytest.approx([1.0, 0.7, 0.4, 0.1])
    assert LINGER_SECONDS == 1.0

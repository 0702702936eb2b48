from __future__ import annotations

import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from foedus_contract.errors import JobFailed
from foedus_contract.mpc_wire import Hello, Round
from foedus_workloads.mpc import streams
from foedus_workloads.mpc.activations import gelu
from foedus_workloads.mpc.arithmetic import multiply, open_to_all
from foedus_workloads.mpc.session import derive_stream_key
from foedus_workloads.mpc.streams import expand
from support.three_parties import encoded, parties, revealed, run, shared
from support.three_sessions import DIGEST, TERMS, session
from support.wires import Wires


def inputs():
    x = torch.linspace(-4, 4, 50, dtype=torch.float64)
    return x, shared(encoded(x))


def test_three_sessions_compute_what_three_parties_do_and_count_the_same():
    x, shares = inputs()
    wires = Wires([session(i, lambda p, i: gelu(p, shares[i])) for i in range(3)])
    while wires.step():
        pass
    assert [each.over for each in wires.sessions] == [True] * 3
    got = revealed([each.result for each in wires.sessions]).double() / 2**16
    assert (got - torch.nn.functional.gelu(x)).abs().max() < 0.0043
    counted = run(parties(), lambda p: gelu(p, shares[p.index]))
    assert [each.totals.rounds for each in wires.sessions] == [counted.rounds] * 3
    assert [each.totals.bytes_sent for each in wires.sessions] == counted.sent


def greeted(program=None):
    _, shares = inputs()
    program = program or (lambda p, i: multiply(p, shares[i], shares[i]))
    wires = Wires([session(i, program) for i in range(3)])
    for i in range(3):
        wires.deliver((i - 1) % 3, i)
        wires.deliver((i + 1) % 3, i)
    return wires


def altered(header, **changes):
    return Round.from_json(header).model_copy(update=changes).to_json()


ROUND_FAULTS = {
    "another session": lambda h: altered(h, session=b"x" * 16),
    "an earlier round": lambda h: altered(h, number=7),
    "another shape": lambda h: h.replace(b"[50]", b"[51]"),
    "another type": lambda h: h.replace(b"int64", b"int32"),
    "no tensors": lambda h: altered(h, tensors=()),
    "a greeting again": lambda h: Hello(party=1, incarnation=1, terms_digest=DIGEST).to_json(),
    "no JSON": lambda h: b"\x00\x01",
    "an unknown field": lambda h: h[:-1] + b',"more":1}',
}


@pytest.mark.parametrize("fault", ROUND_FAULTS)
def test_what_was_not_expected_ends_the_session(fault):
    wires = greeted()
    header, _ = wires.queues[1, 0][0]
    with pytest.raises(JobFailed, match="party 1"):
        wires.sessions[0].announce(1, ROUND_FAULTS[fault](header))
    assert (wires.sessions[0].over, wires.sessions[0].waiting_for) == (True, None)
    with pytest.raises(JobFailed):
        wires.sessions[0].announce(1, header)


def test_a_message_that_comes_twice_ends_the_session():
    _, shares = inputs()

    def twice(p, i):
        square = yield from multiply(p, shares[i], shares[i])
        return (yield from multiply(p, square, square))

    wires = greeted(twice)
    wires.queues[1, 0].append(wires.queues[1, 0][0])
    wires.deliver(1, 0)
    with pytest.raises(JobFailed, match="sent round 0 instead of 1"):
        wires.deliver(1, 0)


def test_a_neighbour_that_nobody_waits_for_ends_the_session():
    wires = greeted()
    header, _ = wires.queues[1, 0][0]
    with pytest.raises(JobFailed, match="nobody waits for"):
        wires.sessions[0].announce(2, header)


@pytest.mark.parametrize(
    "changes",
    [
        {"session": b"y" * 16},
        {"model_digest": "sha256:" + "1" * 64},
        {"program_digest": "sha256:" + "2" * 64},
        {"fraction": 18},
    ],
    ids=["session", "model", "program", "fraction"],
)
def test_parties_with_other_terms_do_not_begin(changes):
    _, shares = inputs()
    program = lambda p, i: open_to_all(p, shares[i])
    other = TERMS.model_copy(update=changes)
    wires = Wires([session(0, program), session(1, program, other), session(2, program)])
    with pytest.raises(JobFailed, match="another session, model or program"):
        wires.deliver(1, 0)


def test_a_hello_under_another_partys_number_is_refused():
    _, shares = inputs()
    wires = Wires([session(i, lambda p, i: open_to_all(p, shares[i])) for i in range(3)])
    header, _ = wires.queues[2, 0][0]
    with pytest.raises(JobFailed, match="says that it is party 2"):
        wires.sessions[0].announce(1, header)


def test_late_and_lost_neighbours_are_named():
    wires = greeted()
    assert "party 1: did not answer in time" in str(wires.sessions[0].time_out())
    assert "party 0: is gone" in str(wires.sessions[1].lose(0))


def test_a_streams_key_is_bound_to_terms_component_and_incarnations():
    key = b"k" * 32
    kept = derive_stream_key(key, TERMS, 0, [1, 1, 1])
    others = {
        derive_stream_key(key, TERMS.model_copy(update={"session": b"z" * 16}), 0, [1, 1, 1]),
        derive_stream_key(key, TERMS.model_copy(update={"model_digest": "sha256:" + "3" * 64}), 0, [1, 1, 1]),
        derive_stream_key(key, TERMS, 1, [1, 1, 1]),
        derive_stream_key(key, TERMS, 0, [1, 2, 1]),
        derive_stream_key(b"l" * 32, TERMS, 0, [1, 1, 1]),
    }
    assert len(others | {kept}) == 6


def test_streams_differ_by_key_step_and_slot():
    draws = [
        expand(key, step, slot, 64, (4,)) for key in (b"a" * 32, b"b" * 32) for step in (0, 1, 256) for slot in (0, 1)
    ]
    assert len({value for draw in draws for value in draw.tolist()}) == len(draws) * 4


@pytest.mark.parametrize(("bits", "count"), [(64, 4), (64, 8191), (64, 8192), (16, 40000), (64, 70001)])
@pytest.mark.parametrize("by_gcm", [False, True])
def test_a_stream_is_aes_256_in_counter_mode_whatever_computes_it(bits, count, by_gcm, monkeypatch):
    monkeypatch.setattr(streams, "_gcm_is_faster", lambda: by_gcm)
    key, block = bytes(range(32)), bytes.fromhex("000000000007 0003 0000000000000000")
    whole = Cipher(algorithms.AES256(key), modes.CTR(block)).encryptor().update(bytes(count * bits // 8))
    other = streams.KeyedStreams({1: key})
    for _ in range(2):  # a draw leaves nothing behind that the next one would see
        for drawn in (expand(key, 7, 3, bits, (count,)), other.draw(1, 7, 3, bits, (count,))):
            assert drawn.numpy().tobytes() == whole

"""A whole model under `Replicated3PCMalicious`, in three sessions: the answer, and that it costs what was planned."""

from __future__ import annotations

import os

import pytest

from foedus_contract.errors import JobFailed
from foedus_workloads.inference.task import checked_to_client
from foedus_workloads.mpc.malicious import audit
from foedus_workloads.mpc.malicious.audit import Audit
from foedus_workloads.mpc.malicious.record import prepare
from foedus_workloads.mpc.model import (
    compile_program,
    dealt,
    evaluate,
    execute,
    plan,
    prepare_weights,
    read_model,
    reveal,
    share_input,
    share_weights,
)
from foedus_workloads.mpc.party import Shared
from support.three_sessions import TERMS, session
from support.tiny_bert import SENTENCES
from support.tiny_classifier import write_classifier
from support.wires import Wires


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A model, a program, a text, and each party's side of them."""
    model = read_model(write_classifier(tmp_path_factory.mktemp("model"), "bert")[0])
    embedded = model.encode_text(SENTENCES[0])
    program = compile_program(model.architecture, embedded.tokens)
    shares, inputs = share_weights(model, program, os.urandom), share_input(embedded, program, os.urandom)
    weights = [prepare_weights(i, program, shares[i], prepare=prepare) for i in range(3)]

    def run_at(party, index):
        return checked_to_client(
            Audit(party, TERMS.session, os.urandom),
            party,
            dealt(index, program, weights[index], inputs[index]),
            execute(party, program, weights[index], inputs[index]),
        )

    return program, evaluate(model, program, embedded), run_at


@pytest.mark.parametrize("most", [1 << 21, 5_000], ids=["checked at the end", "checked now and then"])
def test_a_whole_model_is_right_and_costs_what_was_planned(asked, monkeypatch, most):
    monkeypatch.setattr(audit, "MOST_CLAIMED", most)
    program, want, run_at = asked
    wires = Wires([session(i, run_at) for i in range(3)])
    wires.run()
    sent = [each.result for each in wires.sessions]
    assert reveal([Shared(*each) for each in sent], program.fraction) == pytest.approx(want, abs=0.03)
    made = plan(program, "Replicated3PCMalicious")
    assert [each.totals.rounds for each in wires.sessions] == [made.total.rounds] * 3
    assert tuple(each.totals.messages_sent for each in wires.sessions) == made.total.messages
    assert tuple(each.totals.bytes_sent for each in wires.sessions) == made.total.bytes_sent
    assert (made.checks.rounds == 16) == (most == 1 << 21)  # once to agree, once to settle, or more often


def test_a_session_whose_check_fails_is_over_and_takes_nothing_more(asked):
    _, _, run_at = asked
    wires = Wires([session(i, run_at) for i in range(3)])
    for i in range(3):
        wires.deliver((i - 1) % 3, i)
        wires.deliver((i + 1) % 3, i)
    header, content = wires.queues[1, 0][0]
    wires.queues[1, 0][0] = header, bytes([content[0] ^ 1]) + content[1:]
    wires.deliver(1, 0)
    with pytest.raises(JobFailed, match="one of them has deviated"):
        wires.deliver(2, 0)
    assert (wires.sessions[0].over, wires.sessions[0].waiting_for) == (True, None)
    with pytest.raises(LookupError):
        _ = wires.sessions[0].result

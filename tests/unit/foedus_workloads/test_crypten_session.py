"""Sessions of CrypTen's parties and dealer, message by message: the answer, what each is sent, and what ends them."""

from __future__ import annotations

import json
import os

import pytest
import torch

from foedus_contract.errors import InvalidInput, JobFailed
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import DEALER
from foedus_workloads.mpc.crypten.execute import execute, prepare_masks, prepare_weights, run_step
from foedus_workloads.mpc.crypten.sharing import held, share_input
from foedus_workloads.mpc.model.evaluate import evaluate
from support.crypten_parties import run
from support.crypten_parties import world as world_of
from support.crypten_sessions import PLAN, PROGRAM, model, sessions, terms, text, weights
from support.wires import Wires


def answer(made: dict) -> torch.Tensor:
    return sum(each.result for member, each in made.items() if member != DEALER).double() / 2**16


@pytest.fixture(scope="module", params=[2, 3, 4])
def world(request):
    wires = Wires(sessions(request.param))
    wires.run()
    return request.param, wires


def test_two_three_and_four_parties_give_the_plain_logits(world):
    _, wires = world
    assert all(each.over for each in wires.sessions.values())
    exact = torch.tensor(evaluate(model(), PROGRAM, text()))
    assert (answer(wires.sessions) - exact).abs().max() < 0.02
    assert exact.std() > 0.1


def test_rounds_and_bytes_are_the_plans(world):
    parties, wires = world
    plan = PLAN(parties)
    for member, each in wires.sessions.items():
        sent = plan.bytes_dealt if member == DEALER else plan.bytes_sent
        assert (each.totals.rounds, each.totals.bytes_sent) == (plan.rounds, sent)


def test_the_dealer_is_sent_a_greeting_by_each_party_and_nothing_else(world):
    parties, wires = world
    to_dealer = [(sender, json.loads(header), content) for sender, to, header, content in wires.carried if to == DEALER]
    assert [(sender, header["kind"], content) for sender, header, content in to_dealer] == [
        (party, "Hello", b"") for party in range(parties)
    ]


def test_the_dealer_sends_keys_and_what_follows_from_them_to_the_last_party(world):
    parties, wires = world
    from_dealer = [(to, json.loads(header)["kind"]) for sender, to, header, _ in wires.carried if sender == DEALER]
    assert from_dealer[:parties] == [(party, "Hello") for party in range(parties)]
    assert set(from_dealer[parties:]) == {(parties - 1, "Round")}


def test_no_message_is_the_same_in_two_sessions_of_one_text(world):
    parties, wires = world
    again = Wires(sessions(parties))
    again.run()
    first, second = (
        [content for sender, to, header, content in each.carried if len(content) >= 64] for each in (wires, again)
    )
    assert len(first) == len(second)
    assert not set(first) & set(second)


def started(parties=2):
    """Return members that have greeted, with the first messages on their way."""
    wires = Wires(sessions(parties))
    while not all(each.totals.rounds for each in wires.sessions.values()):
        assert wires.step()
    return wires


BAD = {
    "a repeat": (lambda header: header, "sent round 0 instead of 1"),
    "another session": (lambda header: {**header, "session": "AAAAAAAAAAAAAAAAAAAAAQ=="}, "of another session"),
    "a later round": (lambda header: {**header, "number": 7}, "sent round 7 instead of 0"),
    "another shape": (
        lambda header: {**header, "tensors": [{"dtype": "int64", "shape": [1]}]},
        "of another type or shape",
    ),
    "no number": (lambda header: {"kind": "Round"}, "sent something malformed"),
    "a greeting": (lambda header: {"kind": "Hello"}, "sent something malformed"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_message_that_is_not_the_one_expected_ends_the_session(case):
    change, words = BAD[case]
    wires = started()
    header, _ = wires.queues[1, 0][0]
    receiver = wires.sessions[0]
    if case == "a repeat":
        wires.deliver(1, 0)
        while receiver.totals.rounds < 2:
            assert wires.step()
    with pytest.raises(JobFailed, match="party 1: ") as caught:
        receiver.announce(1, json.dumps(change(json.loads(header))).encode())
    assert words in str(caught.value)
    assert receiver.over
    with pytest.raises(LookupError):
        _ = receiver.result


def test_the_last_party_takes_from_the_dealer_what_the_plan_says_and_nothing_else():
    wires = Wires(sessions(2))
    while not wires.sessions[1].totals.rounds:
        assert wires.step()
    header, _ = wires.queues[DEALER, 1][0]
    changed = {**json.loads(header), "tensors": [{"dtype": "int64", "shape": [3]}]}
    with pytest.raises(JobFailed, match="dealer: sent tensors of another type or shape"):
        wires.sessions[1].announce(DEALER, json.dumps(changed).encode())


def test_a_dealer_of_another_session_is_refused():
    made = sessions(2)
    other = sessions(2, session=b"x" * 16)
    wires = Wires({**made, DEALER: other[DEALER]})
    with pytest.raises(JobFailed, match="was given another session, model or program"):
        wires.run()


@pytest.mark.parametrize(("member", "name"), [(0, "dealer"), (1, "party 0"), (DEALER, "party 0")])
def test_who_says_nothing_is_named(member, name):
    made = sessions(2)[member]
    made.start()
    if member == 0:
        wires = Wires(sessions(2))
        wires.deliver(1, 0)  # party 1 has greeted, the dealer has not
        made = wires.sessions[0]
    error = made.time_out()
    assert (error.code, str(error).split(":")[0]) == (ExitCode.DEADLINE_EXCEEDED, name)


def test_a_last_party_that_takes_nothing_is_named_by_the_dealer():
    wires = Wires(sessions(2))
    dealer = wires.sessions[DEALER]
    wires.deliver(0, DEALER)
    header, _ = wires.queues[1, DEALER].pop(0)
    dealer.announce(1, header)
    dealing = iter(dealer.arrived(1))
    next(dealing)
    assert str(dealer.time_out()) == "party 1: did not answer in time; start a new session"


@pytest.mark.parametrize("member", [0, 1])
def test_shares_that_do_not_fit_the_program_are_refused(member):
    shares = dict(weights(2)[member])
    name = next(name for name in shares if name.endswith(".open"))
    shares[name] = shares[name][:1]
    with pytest.raises(InvalidInput, match=f"party {member}: the share {name} is missing or of another type"):
        prepare_weights(PROGRAM, member, 2, shares)


def test_a_dealer_without_a_seed_is_refused():
    shares = dict(list(weights(2)[DEALER].items())[1:])
    with pytest.raises(InvalidInput, match=r"dealer: the share .* is missing"):
        prepare_masks(PROGRAM, 2, shares)


@pytest.mark.parametrize("parties", [2, 3, 4])
def test_shares_add_up_to_the_text_also_where_one_is_as_small_as_a_seed(parties):
    inputs = share_input(text(), PROGRAM, parties, os.urandom)
    assert PROGRAM.inputs[1].shape == (4,)  # four numbers of eight bytes, as a seed has
    for secret, values in zip(PROGRAM.inputs, (text().values, text().mask), strict=True):
        total = sum(held(inputs[party], f"{secret.name}.share", secret.shape) for party in range(parties))
        assert torch.equal(total, (values * 2.0**secret.bits).round().long())


def test_what_the_client_is_sent_is_masked_anew():
    inputs = share_input(text(), PROGRAM, 2, os.urandom)
    prepared = [prepare_weights(PROGRAM, party, 2, weights(2)[party]) for party in range(2)]
    masks = prepare_masks(PROGRAM, 2, weights(2)[DEALER])

    def bare(party):
        values = {each.name: held(inputs[party.index], f"{each.name}.share", each.shape) for each in PROGRAM.inputs}
        for step in PROGRAM.steps:
            values.update((yield from run_step(party, step, values, prepared[party.index])))
        return values["logits"].reshape(-1)

    sent = lambda party: execute(party, PROGRAM, prepared[party.index], inputs[party.index])
    alike = [run(world_of(2, masks=masks), each) for each in (sent, bare)]  # the same draws
    assert torch.equal(alike[0].total, alike[1].total)
    assert not any((left == right).any() for left, right in zip(alike[0].shares, alike[1].shares, strict=True))


def test_terms_say_protocol_and_parties():
    assert len({terms(2).digest, terms(3).digest, terms(3, protocol="Replicated3PC").digest}) == 3

"""CrypTen's parties, dealer and a client over TLS, in threads: answers, and what each meets when another misbehaves."""

from __future__ import annotations

import os
import time

import pytest
import torch
from cryptography import x509

from foedus_contract.errors import FoedusError
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import DEALER
from foedus_contract.run_spec import Patience
from foedus_workloads.inference.inquiry import Question
from foedus_workloads.inference.party import PartyService
from foedus_workloads.inference.shares import ShareLabel
from foedus_workloads.inference.task import Task
from foedus_workloads.mpc.crypten.execute import execute, prepare_masks, prepare_weights
from foedus_workloads.mpc.crypten.session import DealerSession, PartySession
from foedus_workloads.mpc.crypten.sharing import share_input, shipped
from foedus_workloads.mpc.model.evaluate import evaluate
from foedus_workloads.transport.caller import CallerPatience
from foedus_workloads.transport.reception import PartyPlace
from foedus_workloads.transport.tls import party_uri
from support.crypten_sessions import DIGEST, PLAN, PROGRAM, model, terms, text, weights
from support.inference_world import World, free_addresses, serving

PATIENCE, PATIENT = Patience(), CallerPatience()
IMPATIENT = CallerPatience(connect_seconds=5)


def members(parties):
    return (*range(parties), DEALER)


def label(member, parties, **changes):
    values = {"protocol": "CrypTen", "parties": parties, "sharing": b"s" * 16, "fraction": 16, "architecture": "{}"}
    return ShareLabel(**{"party": member, "model_digest": DIGEST, **values, **changes})


def question(parties):
    shares = share_input(text(), PROGRAM, parties, os.urandom)
    asked = terms(parties, session=os.urandom(16), model_digest=label(0, parties).digest)
    return Question(4, DIGEST, asked, shares, PROGRAM.output, PLAN(parties).rounds)


def task(member, parties, act=None, at=0):
    """A member's side; at a round, or a stage of the dealer's, it may act instead of going on."""
    act = act or (lambda: None)
    return dealers_task(parties, act, at) if member == DEALER else partys_task(member, parties, act, at)


def dealers_task(parties, act, at):
    masks = prepare_masks(PROGRAM, parties, weights(parties)[DEALER])

    class Dealer(DealerSession):
        def _go_on(self):
            for stage, send in enumerate(super()._go_on()):
                if stage == at:
                    act()
                yield send

    def begin(start):
        return Dealer(start.terms, PLAN(parties), masks, incarnation=start.incarnation, entropy=start.entropy)

    return Task(PROGRAM.digest, {}, begin)


def partys_task(party, parties, act, at):
    prepared = prepare_weights(PROGRAM, party, parties, weights(parties)[party])

    def program(operation):
        opened, rounds = None, 0
        while True:
            if rounds == at:
                act()
            try:
                opened = yield next(operation) if opened is None else operation.send(opened)
            except StopIteration as end:
                return end.value
            rounds += 1

    def begin(start):
        run = lambda place: program(execute(place, PROGRAM, prepared, start.inputs))
        return PartySession(party, start.terms, PLAN(parties), run, incarnation=start.incarnation)

    return Task(PROGRAM.digest, shipped(PROGRAM.inputs, party, parties), begin)


@pytest.fixture
def world(tmp_path):
    return lambda parties: World(tmp_path, addresses=free_addresses(members(parties)))


def service(at, member, parties, *, odd=None, patience=PATIENCE, place=None):
    mine = task(member, parties, **(odd or {}))
    return PartyService(
        place or at.place(member), label(member, parties), 1, lambda tokens: mine, patience, os.urandom, time.monotonic
    )


def services(at, parties, odd=None, **kinds):
    """Return all members' services; `odd` maps a member to what it does otherwise."""
    return [service(at, member, parties, odd=(odd or {}).get(member), **kinds) for member in members(parties)]


def refusal(call):
    with pytest.raises(FoedusError) as caught:
        call()
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize("parties", [2, 3, 4])
def test_one_session_after_another_is_answered_with_the_plain_logits(world, parties):
    at = world(parties)
    exact = torch.tensor(evaluate(model(), PROGRAM, text()))
    with serving(*services(at, parties)):
        replies = [at.call(question(parties), patience=PATIENT) for _ in range(2)]
    for reply in replies:
        assert (torch.tensor(reply.values) - exact).abs().max() < 0.02
        assert reply.rounds == PLAN(parties).rounds
        assert reply.bytes_sent == (PLAN(parties).bytes_sent,) * parties + (PLAN(parties).bytes_dealt,)


@pytest.mark.parametrize(("missing", "name"), [(1, "party 1"), (DEALER, "dealer")])
def test_a_missing_member_is_named(world, missing, name):
    at = world(2)
    there = [service(at, member, 2) for member in members(2) if member != missing]
    with serving(*there):
        code, line = refusal(lambda: at.call(question(2), patience=IMPATIENT))
    assert (code, line) == (ExitCode.UNAVAILABLE, f"{name}: is not there; start all members")


@pytest.mark.parametrize(("member", "name"), [(0, "party 0"), (1, "party 1"), (DEALER, "dealer")])
def test_a_defect_of_a_member_ends_the_session_and_the_next_is_served(world, member, name):
    at, failing = world(2), [True]

    def fail():
        if failing:
            failing.clear()
            raise ZeroDivisionError

    with serving(*services(at, 2, {member: {"act": fail, "at": 5}})):
        code, line = refusal(lambda: at.call(question(2), patience=PATIENT))
        assert (code, line.startswith(f"{name}: ")) == (ExitCode.INTERNAL, True)
        assert at.call(question(2), patience=PATIENT).rounds == PLAN(2).rounds


@pytest.mark.parametrize(("member", "name"), [(0, "party 0"), (DEALER, "dealer")])
def test_a_member_that_stalls_is_named_by_the_others_deadline(world, member, name):
    at = world(2)
    odd = {member: {"act": lambda: time.sleep(20), "at": 3}}
    with serving(*services(at, 2, odd, patience=Patience(round_seconds=8))):
        code, line = refusal(lambda: at.call(question(2), patience=PATIENT))
    assert (code, line) == (ExitCode.DEADLINE_EXCEEDED, f"{name}: did not answer in time; start a new session")


@pytest.mark.parametrize("member", [1, DEALER])
def test_a_member_with_another_sharing_is_refused_before_any_share_is_sent(world, member, monkeypatch):
    at, sent = world(2), []
    monkeypatch.setattr("foedus_workloads.inference.inquiry.Inquiry.inputs", lambda *a: sent.append(a))
    there = services(at, 2)
    there[members(2).index(member)]._label = label(member, 2, sharing=b"t" * 16)
    with serving(*there):
        code, line = refusal(lambda: at.call(question(2), patience=PATIENT))
    name = "dealer" if member == DEALER else f"party {member}"
    assert (code, sent) == (ExitCode.INVALID_MODEL, [])
    assert line.startswith(f"{name}: the client asks for another sharing of the model")


def test_a_client_that_asks_for_another_protocol_or_number_of_parties_is_refused(world):
    at = world(2)
    for changes, words in (({"parties": 3}, "CrypTen by 3"), ({"protocol": "Replicated3PC"}, "Replicated3PC by 2")):
        asked = question(2)
        asked = Question(4, DIGEST, asked.terms.model_copy(update=changes), asked.shares, asked.output, asked.rounds)
        with serving(*services(at, 2)):
            code, line = refusal(lambda asked=asked: at.call(asked, patience=PATIENT))
        assert code is ExitCode.INVALID_MODEL
        assert line.startswith(f"party 0: the client asks for {words} parties, here are shares for CrypTen by 2")


@pytest.mark.parametrize(
    "uri", [party_uri("lab", "bert", 0), party_uri("lab", "other", DEALER)], ids=["party", "other"]
)
def test_who_shows_no_dealers_certificate_is_no_dealer(world, tmp_path, uri):
    at = world(2)
    files = at.authority.issue(tmp_path / "stranger", x509.UniformResourceIdentifier(uri))
    stranger = PartyPlace(DEALER, "lab", "bert", at.addresses, files)
    with serving(service(at, 0, 2), service(at, 1, 2), service(at, DEALER, 2, place=stranger)):
        code, line = refusal(lambda: at.call(question(2), patience=IMPATIENT))
    assert (code, line.startswith("dealer: another party answers there")) == (ExitCode.IDENTITY_REFUSED, True)

"""What a client and a party take from each other, message by message, without a connection."""

from __future__ import annotations

import pytest
import torch

from foedus_contract.errors import FoedusError, JobFailed, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.inference_wire import Computing, Failure, Input, NamedTensor, Open, Output, Ready
from foedus_contract.mpc_wire import TensorHeader
from foedus_workloads.inference.desk import Desk, failure
from foedus_workloads.inference.inquiry import Inquiry, PartyFailed, root_cause
from foedus_workloads.inference.task import to_client
from foedus_workloads.mpc.activations import gelu
from foedus_workloads.mpc.model.sharing import revealed
from foedus_workloads.mpc.party import Shared
from foedus_workloads.mpc.wire import bytes_of
from support.inference_world import LABELS, ROUNDS, VALUES, gelu_task, question, with_terms
from support.three_parties import encoded, parties, run, shared
from support.three_parties import revealed as revealed_words

COUNT = VALUES.numel()
TERMS = question().terms
OTHER = "sha256:" + "d" * 64


def desk():
    return Desk(LABELS[1], incarnation=7, tasks=lambda tokens: gelu_task(1, tokens))


def opened(**changes):
    return Open(tokens=COUNT, model_digest=LABELS[1].model_digest, terms=TERMS).model_copy(update=changes).to_json()


def terms(**changes):
    return TERMS.model_copy(update=changes)


def test_a_party_consents_in_its_own_words():
    assert Ready.from_json(desk().open(opened())) == Ready(party=1, incarnation=7, terms_digest=TERMS.digest)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (opened(version=2), "speaks version 2"),
        (opened(model_digest=OTHER), "asks for the model sha256:dddd"),
        (opened(terms=terms(model_digest=OTHER)), "another sharing"),
        (opened(terms=terms(fraction=18)), "another sharing"),
        (opened(terms=terms(program_digest=OTHER)), "program is another one"),
        (opened(tokens=COUNT + 1), "program is another one"),
        (opened(tokens=4097), "tokens: Input should be less than or equal to 4096"),
        (opened()[:-1] + b',"text":"hello"}', "text: Extra inputs are not permitted"),
        (b"[]", "Open"),
    ],
    ids=[
        "version",
        "model",
        "sharing",
        "fraction",
        "program",
        "tokens",
        "too many tokens",
        "unknown field",
        "no object",
    ],
)
def test_a_party_refuses_what_it_would_not_compute(message, words):
    with pytest.raises(FoedusError, match=words):
        desk().open(message)


WORDS = TensorHeader(dtype="int64", shape=(COUNT,))


def tensors(**changes):
    return tuple(
        NamedTensor.model_validate({"name": name, "dtype": "int64", "shape": (COUNT,)}).model_copy(update=changes)
        for name in ("own", "next")
    )


@pytest.mark.parametrize(
    "message",
    [
        Input(session=b"x" * 16, tensors=tensors()),
        Input(session=TERMS.session, tensors=tensors(shape=(COUNT, 1))),
        Input(session=TERMS.session, tensors=tensors(shape=(2**31 - 1,) * 8)),
        Input(session=TERMS.session, tensors=tensors(dtype="int32")),
        Input(session=TERMS.session, tensors=tensors()[::-1]),
        Input(session=TERMS.session, tensors=tensors()[:1]),
        Input(session=TERMS.session, tensors=()),
    ],
    ids=["session", "shape", "huge", "type", "order", "one alone", "none"],
)
def test_a_party_makes_room_only_for_the_input_that_the_program_takes(message):
    one = desk()
    one.open(opened())
    with pytest.raises(FoedusError):
        one.announce(message.to_json())


def agreed():
    inquiry = Inquiry(question())
    for party in range(3):
        inquiry.agree(party, Ready(party=party, incarnation=1, terms_digest=TERMS.digest).to_json())
    return inquiry


def test_shares_leave_the_client_only_when_all_three_mean_the_same_session():
    inquiry = Inquiry(question())
    for party in (0, 1):
        inquiry.agree(party, Ready(party=party, incarnation=1, terms_digest=TERMS.digest).to_json())
    with pytest.raises(RuntimeError):
        inquiry.inputs(0)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Ready(party=2, incarnation=1, terms_digest=TERMS.digest), JobFailed, "party 1: says that it is party 2"),
        (Ready(party=1, incarnation=1, terms_digest=OTHER), Refused, "party 1: would compute under other terms"),
        (Computing(session=TERMS.session, rounds=1), JobFailed, "party 1: sent another message than its consent"),
        (
            Failure(blames=1, code=12, message="the model is another one"),
            JobFailed,
            "party 1: the model is another one",
        ),
    ],
    ids=["another party", "other terms", "no consent", "a refusal"],
)
def test_a_client_takes_no_other_answer_for_consent(answer, error, words):
    with pytest.raises(error, match=words):
        Inquiry(question()).agree(1, answer.to_json())


def output(**changes):
    known = Output(session=TERMS.session, tensor=WORDS, rounds=ROUNDS, bytes_sent=1)
    return known.model_copy(update=changes).to_json()


@pytest.mark.parametrize(
    "messages",
    [
        [output(session=b"x" * 16)],
        [output(tensor=WORDS.model_copy(update={"shape": (COUNT + 1,)}))],
        [output(tensor=WORDS.model_copy(update={"dtype": "int8"}))],
        [output(rounds=ROUNDS + 1)],
        [output(), output()],
        [Computing(session=TERMS.session, rounds=4).to_json(), Computing(session=TERMS.session, rounds=4).to_json()],
        [Computing(session=TERMS.session, rounds=ROUNDS + 1).to_json()],
        [Ready(party=1, incarnation=1, terms_digest=TERMS.digest).to_json()],
        [b'{"kind":"Answer"}'],
        [b"\x00"],
    ],
    ids=[
        "session", "shape", "type", "too many rounds", "twice", "no progress", "rounds without end", "consent again",
        "unknown", "no JSON",
    ],
)  # fmt: skip
def test_a_client_ends_the_session_at_what_it_does_not_expect(messages):
    inquiry = agreed()
    for message in messages[:-1]:
        inquiry.announce(1, message)
    with pytest.raises(JobFailed, match="party 1"):
        inquiry.announce(1, messages[-1])


def test_three_summands_add_up_modulo_the_ring():
    columns = ((2**62, 2**62, 98304 - 2**63), (-(2**63), -1, 2**63 - 65535))  # 1.5 and -1 at 16 bits, both past 2^63
    summands = [torch.tensor(part, dtype=torch.int64) for part in zip(*columns, strict=True)]
    assert revealed(summands, 16) == [1.5, -1.0]


def test_what_the_client_is_sent_is_masked_anew():
    inputs = question().shares
    result = lambda party: gelu(party, Shared(*inputs[party.index].values()))
    components = run(parties(), result).results
    summands = run(parties(), lambda party: to_client(party, result(party))).results
    assert torch.equal(sum(summands), revealed_words(components))
    for summand, component in zip(summands, components, strict=True):
        assert not (summand == component.own).any()


def failing(blames, code=ExitCode.QUORUM_LOST):
    return PartyFailed(f"blames {blames}", blames=blames, code=code)


@pytest.mark.parametrize(
    ("errors", "cause"),
    [
        ({0: failing(2), 1: failing(1), 2: failing(1)}, 1),
        ({0: failing(1), 2: failing(1)}, 0),
        ({0: failing(1), 1: JobFailed("is gone"), 2: failing(0)}, 1),
        ({0: failing(1), 1: failing(0)}, 1),
        ({0: failing(1, ExitCode.DEADLINE_EXCEEDED), 1: failing(0), 2: failing(0)}, 0),
        ({2: failing(2)}, 2),
    ],
    ids=["along a chain", "who says nothing", "gone", "each other", "late", "alone"],
)
def test_the_cause_is_told_and_not_what_follows_from_it(errors, cause):
    assert root_cause(errors) is errors[cause]


def test_a_client_is_told_of_a_defects_place_and_not_of_its_text():
    told = Failure.from_json(failure(2, ValueError("a secret")))
    assert (told.blames, told.code) == (2, 1)
    assert told.message.startswith("party 2: internal error: ValueError")
    assert "secret" not in told.message


def answered_with_copies(change):
    """A client under the protocol whose parties send both their components; `change` is what one of them does."""
    asked = with_terms(question(), protocol="Replicated3PCMalicious")
    inquiry = Inquiry(asked)
    for party in range(3):
        inquiry.agree(party, Ready(party=party, incarnation=1, terms_digest=asked.terms.digest).to_json())
    kind = TensorHeader(dtype="int64", shape=(2, COUNT))
    for party, each in enumerate(shared(encoded(VALUES))):
        output = Output(session=asked.terms.session, tensor=kind, rounds=ROUNDS, bytes_sent=1)
        (room,) = inquiry.announce(party, output.to_json())
        content = torch.stack([each.own, each.next])
        room[:] = bytes_of(change(content) if party == 1 else content)
    return inquiry.reply()


def test_a_client_puts_copies_together():
    assert answered_with_copies(lambda content: content).values == pytest.approx(VALUES.tolist(), abs=2**-16)


@pytest.mark.parametrize("component", [0, 1])
def test_a_client_compares_the_copies_of_each_component(component):
    def change(content):
        content[component, 0] ^= -(2**63)
        return content

    with pytest.raises(JobFailed, match="different shares"):
        answered_with_copies(change)

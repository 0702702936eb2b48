"""A program is made from public sizes alone, costs what its plan says, and computes on shares what float64 does."""

from __future__ import annotations

import hashlib
from itertools import count

import pytest
import torch

from foedus_contract.errors import InvalidInput, JobFailed
from foedus_workloads.mpc.model import (
    Architecture,
    compile_program,
    evaluate,
    execute,
    padded_length,
    plan,
    prepare_weights,
    read_model,
    reveal,
    share_input,
    share_weights,
    shipped,
    step_errors,
)
from foedus_workloads.mpc.party import Shared
from support.three_parties import parties, run
from support.three_sessions import TERMS, session
from support.tiny_bert import SENTENCES
from support.tiny_classifier import activity, write_classifier
from support.wires import Wires

SIZES = {
    "kind": "bert",
    "layers": 2,
    "heads": 4,
    "hidden": 32,
    "intermediate": 64,
    "vocabulary": 300,
    "token_types": 2,
    "positions": 64,
    "padding": 0,
    "epsilon": 1e-12,
    "labels": ("business", "sport"),
}
TINY = Architecture(**SIZES)


def entropy():
    numbers = count()
    return lambda size: hashlib.shake_256(next(numbers).to_bytes(4, "big")).digest(size)


@pytest.fixture(scope="module", params=["bert", "roberta"])
def model(request, tmp_path_factory):
    return read_model(write_classifier(tmp_path_factory.mktemp("model") / request.param, request.param)[0])


def at_parties(model, program, embedded):
    """Return what each party does, of shares that were dealt for it."""
    weights, inputs = share_weights(model, program, entropy()), share_input(embedded, program, entropy())
    prepared = [prepare_weights(party, program, weights[party]) for party in range(3)]
    return lambda p, **more: execute(p, program, prepared[p.index], inputs[p.index], **more)


def test_a_program_reads_as_a_table_in_which_the_last_layer_is_the_first_tokens():
    assert str(compile_program(TINY, 16)).splitlines()[-12:] == [
        "encoder.layer.1.first                       first token [1×32]",
        "encoder.layer.1.attention.self.projections  linear [1×32→32] [16×32→32] [16×32→32]",
        "encoder.layer.1.attention.self              attention 4 heads [1×16] of 8",
        "encoder.layer.1.attention.output.dense      linear [1×32→32]",
        "encoder.layer.1.attention.output.LayerNorm  add, layer norm [1×32]",
        "encoder.layer.1.intermediate.dense          linear [1×32→64]",
        "encoder.layer.1.intermediate.gelu           gelu [1×64]",
        "encoder.layer.1.output.dense                linear [1×64→32]",
        "encoder.layer.1.output.LayerNorm            add, layer norm [1×32]",
        "pooler.dense                                linear [1×32→32]",
        "pooler.dense.tanh                           tanh [1×32]",
        "classifier                                  linear [1×32→2]",
    ]


CHANGES = [
    {},
    {"layers": 3},
    {"heads": 2},
    {"hidden": 64},
    {"intermediate": 32},
    {"epsilon": 1e-5},
    {"labels": ("a", "b")},
    {"kind": "roberta", "padding": 1},
]


def test_programs_that_differ_in_anything_have_other_digests():
    programs = [compile_program(Architecture(**SIZES | change), 16) for change in CHANGES]
    programs += [compile_program(TINY, 32), compile_program(TINY, 16, 18)]
    assert len({program.digest for program in programs}) == len(programs)
    assert compile_program(Architecture.from_json(TINY.to_json()), 16).digest == programs[0].digest


@pytest.mark.parametrize(
    ("tokens", "length"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 128), (257, 500), (500, 500)]
)
def test_texts_are_padded_to_powers_of_two_or_the_models_most(tokens, length):
    assert padded_length(tokens, 500) == length


@pytest.mark.parametrize("tokens", [0, 1, 65])
def test_a_length_that_the_model_does_not_take_is_refused(tokens):
    with pytest.raises(InvalidInput, match="the model takes 2 to 64"):
        compile_program(TINY, tokens)


@pytest.mark.parametrize("text", ["", SENTENCES[0], " ".join(SENTENCES[:2])])
def test_three_parties_compute_what_float64_does(model, text):
    embedded = model.encode_text(text)
    program = compile_program(model.architecture, embedded.tokens)
    observed = [[], [], []]
    operation = at_parties(model, program, embedded)
    done = run(parties(), lambda p: operation(p, observe=lambda _, made: observed[p.index].append(made)))
    assert reveal(done.results, 16) == pytest.approx(evaluate(model, program, embedded), abs=0.02)
    errors = step_errors(model, program, embedded, observed)
    assert max(each.largest for each in errors if each.value != "inner") < 0.06, errors


def test_small_random_weights_behave_as_a_trained_models(model):
    # MiniLM on real text: see test_mpc_model_minilm.py. Here the ranges are wider: the tiny tokenizer is trained where
    # the tests run, and takes equally frequent pieces in any order.
    embedded = model.encode_text(" ".join(SENTENCES[:2]))
    entropy_share, spread = activity(model, compile_program(model.architecture, embedded.tokens), embedded)
    assert (0.4 < entropy_share < 0.8, 0.6 < spread < 1.6) == (True, True), (entropy_share, spread)


@pytest.mark.parametrize("fraction", [16, 18])
def test_a_plan_is_what_sessions_count(model, fraction):
    embedded = model.encode_text(SENTENCES[1])
    program = compile_program(model.architecture, embedded.tokens, fraction)
    operation = at_parties(model, program, embedded)
    terms = TERMS.model_copy(update={"fraction": fraction, "program_digest": program.digest})
    wires = Wires([session(i, lambda p, _: operation(p), terms) for i in range(3)])
    wires.run()
    total = plan(program).total
    assert [each.totals.rounds for each in wires.sessions] == [total.rounds] * 3
    assert tuple(each.totals.messages_sent for each in wires.sessions) == total.messages
    assert tuple(each.totals.bytes_sent for each in wires.sessions) == total.bytes_sent
    results = [each.result for each in wires.sessions]
    assert reveal(results, fraction) == pytest.approx(evaluate(model, program, embedded), abs=0.02)


def test_a_plan_has_a_cost_for_each_step():
    # A linear map takes 2 rounds; softmax over 16 takes 4 * 9 + 34, and attention 2 more (test_mpc_functions.py).
    costs = dict(
        zip((step.name for step in compile_program(TINY, 16).steps), plan(compile_program(TINY, 16)).costs, strict=True)
    )
    assert costs["encoder.layer.1.first"].rounds == 0
    assert costs["encoder.layer.0.attention.self.projections"].rounds == 2
    first, last = costs["encoder.layer.0.intermediate.dense"], costs["encoder.layer.1.intermediate.dense"]
    assert sum(first.bytes_sent) == 16 * sum(last.bytes_sent)


def test_lengths_share_their_weights():
    names = [[secret.name for secret in compile_program(TINY, tokens).weights] for tokens in (16, 64)]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0])


def test_each_party_is_sent_what_it_expects_and_no_two_are_sent_all(model):
    embedded = model.encode_text("")
    program = compile_program(model.architecture, embedded.tokens)
    shares = share_input(embedded, program, entropy())
    for party in range(3):
        kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in shares[party].items()}
        assert kinds == {name: (kind.dtype, kind.shape) for name, kind in shipped(program.inputs, party).items()}
    assert [sorted(name[-1] for name in part if name.startswith("mask")) for part in shares] == [
        ["0", "1"],
        ["1", "2"],
        ["0", "2"],
    ]


def test_no_seed_is_used_twice(model):
    # Who knew both seeds of a tensor, or two tensors' under one, would know it or their difference.
    program = compile_program(model.architecture, 16)
    for parts in (
        share_weights(model, program, entropy()),
        share_input(model.encode_text(""), program, entropy()),
    ):
        seeds = {name: part[name].numpy().tobytes() for part in parts for name in part if name[-1] in "01"}
        assert len(set(seeds.values())) == len(seeds) > 2


@pytest.mark.parametrize("change", ["missing", "another shape", "another type"])
def test_shares_that_do_not_fit_the_program_are_refused(model, change):
    program = compile_program(model.architecture, 16)
    shares = share_input(model.encode_text(""), program, entropy())[1]
    name = "embedded.2"
    if change == "missing":
        del shares[name]
    else:
        shares[name] = shares[name][:8] if change == "another shape" else shares[name].int()
    world = parties()
    weights = prepare_weights(1, program, share_weights(model, program, entropy())[1])
    with pytest.raises(InvalidInput, match=r"the share embedded\.2 is missing or of another type or shape"):
        next(execute(world[1], program, weights, shares))


def test_a_weight_that_fixed_point_cannot_hold_is_refused(model):
    program = compile_program(model.architecture, 16)
    name = "encoder.layer.0.output.dense.bias"
    broken = dict(model.tensors) | {name: torch.full((32,), 2.0**20)}
    with pytest.raises(InvalidInput, match=f"{name} holds a number that fixed point cannot"):
        share_weights(type(model)(model.architecture, model.digest, broken, model.tokenizer), program, entropy())


def test_copies_that_differ_are_no_answer():
    one, other = torch.ones(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(JobFailed, match="party 1: the parties hold different shares"):
        reveal([Shared(one, one), Shared(one, one), Shared(other, one)], 16)


def test_nothing_secret_is_shown_by_what_holds_it(model):
    embedded = model.encode_text(SENTENCES[2])
    assert repr(embedded) == "EmbeddedText()"
    assert "tensor" not in repr(model)

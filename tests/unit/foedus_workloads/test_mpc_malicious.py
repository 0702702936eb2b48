"""`Replicated3PCMalicious`: what it computes, and that whoever deviates gets no answer out of it, least a false one."""

from __future__ import annotations

import os
from math import isqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus_contract.errors import JobFailed
from foedus_workloads.mpc.activations import gelu, softmax, tanh
from foedus_workloads.mpc.arithmetic import ARITHMETIC
from foedus_workloads.mpc.comparison import Window, maximum, sign
from foedus_workloads.mpc.conversion import Pair
from foedus_workloads.mpc.layers import Norm, attention, layer_norm
from foedus_workloads.mpc.malicious.audit import Audit
from foedus_workloads.mpc.malicious.bits import Numbers
from foedus_workloads.mpc.malicious.buckets import SECURITY, UNITS, fit
from foedus_workloads.mpc.malicious.claims import Claims
from foedus_workloads.mpc.malicious.coins import commitment, toss
from foedus_workloads.mpc.malicious.opening import open_to_all
from foedus_workloads.mpc.malicious.record import Stock
from foedus_workloads.mpc.malicious.transcripts import Transcripts, compare
from foedus_workloads.mpc.party import Shared
from foedus_workloads.mpc.primitives import inject, product, reshare, truncate
from support.three_cheaters import SESSION, TOP, Fault, Message, flipped, is_right, play, raised, small_program
from support.three_parties import encoded, parties, revealed, revealed_bits, run, shared


def audited(function, shares, release=True):
    """Run a function of shared values under audit at three parties that follow the protocol."""

    def operation(party):
        audit = Audit(party, SESSION, os.urandom)
        mine = [each[party.index] for each in shares]
        yield from audit.agree(party, mine)
        result = yield from function(party, *mine)
        if release:
            return (yield from audit.release(party, result))
        yield from audit.settle(party)
        return result

    return run(parties(), operation).results


def computed(function, *inputs):
    shares = [shared(encoded(each), seed=7 + 2 * i) for i, each in enumerate(inputs)]
    return revealed(audited(function, shares)).double() / 2**16


GENERATOR = torch.Generator().manual_seed(3)
ROWS = torch.randn(6, 16, generator=GENERATOR, dtype=torch.float64)
HEADS = [torch.randn(2, 8, 4, generator=GENERATOR, dtype=torch.float64) for _ in range(3)]
LINE = torch.linspace(-10, 10, 401, dtype=torch.float64)
# The function, its inputs, what float64 says, the largest error: that of the functions for parties that follow the
# protocol, and for GELU what two units of a window add near its limits.
FUNCTIONS = {
    "gelu": (gelu, [LINE], torch.nn.functional.gelu, 0.006),
    "tanh": (tanh, [LINE], torch.tanh, 3e-4),
    "softmax": (softmax, [ROWS], lambda x: x.softmax(-1), 4e-4),
    "maximum": (maximum, [ROWS], lambda x: x.max(-1, keepdim=True).values, 2**-16),
    "layer norm": (
        lambda p, x, w, b: layer_norm(p, x, Norm(w, b, 1e-12)),
        [ROWS, torch.ones(16), torch.zeros(16)],
        lambda x, w, b: torch.nn.functional.layer_norm(x, (16,)),
        4e-3,
    ),
    "attention": (
        attention, HEADS, lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0), 5e-3
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_against_float64(name):
    function, inputs, exact, largest = FUNCTIONS[name]
    assert (computed(function, *inputs) - exact(*inputs)).abs().max() < largest


@settings(deadline=None, max_examples=12)
@given(st.data(), st.sampled_from((1, 8, 16, 18, 25, 32, 37, 40)))
def test_truncation_errs_by_less_than_one_and_a_half_units(data, count):
    bound = 2**62 - 2 ** (count - 1)
    values = data.draw(st.lists(st.integers(-bound, bound - 1), min_size=1, max_size=9))
    x = shared(torch.tensor(values))
    got = revealed(audited(lambda p, mine: truncate(p, mine, count), [x])).tolist()
    for value, result in zip(values, got, strict=True):
        assert abs((result << count) - value) < 3 << (count - 1)


@settings(deadline=None, max_examples=12)
@given(st.data(), st.integers(0, 32), st.sampled_from((8, 16, 32)))
def test_signs_in_a_window_err_below_two_units_alone(data, low, width):
    end = 2 ** (low + width - 1)
    least = -end + (2 ** (low + 1) if low else 0)
    near = st.integers(-3, 3).flatmap(lambda d: st.sampled_from((d, 2 ** (low + 1) + d, least + abs(d))))
    values = data.draw(st.lists(near | st.integers(least, end - 1), min_size=1, max_size=20))
    values = [min(max(value, least), end - 1) for value in values]
    x = shared(torch.tensor(values))
    signs = revealed_bits(audited(lambda p, mine: sign(p, mine, Window(low, width)), [x], release=False))
    for value, bit in zip(values, signs.tolist(), strict=True):
        assert bit == int(value < 0) or (0 <= value < 2 ** (low + 1) and low)


def test_products_and_injection_of_whole_words():
    values = torch.tensor([2**63 - 1, -(2**63), 12345, -1])
    x, bits = shared(values), torch.tensor([1, 0, 0, 1])

    def both(p, mine):
        squares = yield from reshare(p, product(p, mine, mine))
        zero = torch.zeros_like(bits)
        bit = Shared(bits if p.index == 0 else zero, bits if p.following == 0 else zero)
        return squares + (yield from inject(p, [Pair(bit, mine)]))

    # 2^63 - 1 and -1 squared are 1, 2^63 squared is 0, mod 2^64.
    assert revealed(audited(both, [x])).tolist() == [1 + 2**63 - 1 - 2**64, 0, 12345**2, 1 - 1]


def prime(n):
    return all(n % divisor for divisor in range(2, isqrt(n) + 1))


def test_buckets_are_as_shallow_as_forty_bits_allow():
    for depth, units in UNITS.items():
        smaller = next(n for n in range(units - 1, 0, -1) if prime(n))
        assert prime(units)
        assert units**depth >= 2**SECURITY > smaller**depth
    for count in (1, 5, 100, 1_048_581, 1_048_582, 1_048_583, 3_000_000):
        buckets = fit(count)
        assert prime(buckets.units)
        assert buckets.units**buckets.depth >= 2**SECURITY
        assert buckets.most >= count  # a unit of filling is left, which no message has made


@given(st.sets(st.integers(0, 10)), st.sets(st.integers(0, 10)))
def test_of_a_prime_number_of_turns_one_at_most_takes_wrong_places_to_others(wrong, others):
    turns = [turn for turn in range(11) if {(place + turn) % 11 for place in wrong} == others]
    assert len(turns) <= 1 or len(wrong) in (0, 11)


@pytest.mark.parametrize(
    ("taken", "left", "wanted", "made"),
    [
        (0, 0, 10, 1024),
        (0, 20, 10, 0),
        (5000, 60, 100, 5100),  # as many again as were ever asked for
        (1 << 17, 0, 10, 1 << 20),  # a long program: where two comparisons are enough
        (0, 1 << 20, 3 << 20, 2 << 20),
    ],
)
def test_bits_are_made_ahead_by_what_was_asked_for(taken, left, wanted, made):
    none = Shared(torch.zeros(left, dtype=torch.int8), torch.zeros(left, dtype=torch.int8))
    assert Stock(Numbers(none, none), taken).reserve(wanted) == made


def test_nobody_cheats():
    played = play(small_program, 0)
    assert played.error is None
    assert is_right(played.values)


HONEST = [play(small_program, cheater) for cheater in range(3)]


def messages(cheater, tensors):
    """Name each message that the cheater sends, and how many tensors of it."""
    for number, exchange in enumerate(HONEST[cheater].sent):
        for to_next, payload in ((False, exchange.to_previous), (True, exchange.to_next)):
            for tensor in range(min(len(payload), tensors)):
                yield number, to_next, tensor


def caught(cheater, attack):
    played = play(small_program, cheater, attack)
    return played.values is None and isinstance(played.error, JobFailed)


@pytest.mark.parametrize("cheater", range(3))
def test_a_changed_message_ends_the_session(cheater):
    passed = [place for place in messages(cheater, 1) if not caught(cheater, [Message(*place, raised)])]
    assert [place for place in passed if not is_a_word(cheater, *place)] == []


@pytest.mark.nightly
@pytest.mark.parametrize("cheater", range(3))
@pytest.mark.parametrize("change", [flipped, lambda t: t + 1, lambda t: t * 0], ids=["top bit", "one more", "nothing"])
def test_every_changed_tensor_ends_the_session_or_changes_nothing(cheater, change):
    """The top bit of what is doubled changes nothing, nor does a zero that is sent anyway."""
    for place in messages(cheater, 1000):
        played = play(small_program, cheater, [Message(*place, change)])
        assert played.error is not None or is_right(played.values)


def is_a_word(cheater, number, to_next, tensor):
    """A word of one byte says by coming that its sender is as far; what it holds says nothing."""
    exchange = HONEST[cheater].sent[number]
    return (exchange.to_next if to_next else exchange.to_previous)[tensor].numel() == 1 and number != 0


# Errors that fit all of the cheater's own state: one that counts everywhere, and a high bit that does. A product with a
# bit is doubled mod 2^16 or 2^32; carries have at least 32 bits.
ERRORS = {"share": (1, TOP), "convert": (1, 2**14), "deal": (1, 2**20)}


@pytest.mark.parametrize("step", ERRORS)
@pytest.mark.parametrize("cheater", range(3))
def test_an_error_that_a_party_computes_on_with_ends_the_session(step, cheater):
    calls = range(len(HONEST[cheater].calls[step]))
    assert [n for n in calls if not caught(cheater, [Fault(step, n, ERRORS[step][n % 2])])] == []


def test_a_claim_and_random_products_that_are_wrong_alike_are_told_apart_by_their_places():
    """The first of GELU's two times four squares, and the random ones that it would meet if nothing were turned."""
    calls, buckets = HONEST[0].calls["share"], fit(8)
    claim = [n for n, size in enumerate(calls) if size == 4][1]  # the linear map's results are the first four
    random = calls.index(buckets.depth * buckets.size)
    places = [row * buckets.size for row in range(buckets.depth)]
    assert caught(0, [Fault("share", claim, TOP), Fault("share", random, TOP, places)])


@pytest.mark.parametrize("cheater", range(3))
def test_of_a_wrong_result_nobody_is_shown_a_tag_beside_the_one_who_judges(cheater):
    played = play(small_program, cheater, [Fault("share", 0)])
    assert len(played.sent) == len(HONEST[cheater].sent) - 3  # no word, no tags, no word


@pytest.mark.parametrize("party", range(3))
@pytest.mark.parametrize("part", ["own", "next"])
def test_shares_that_do_not_fit_end_the_session_before_anything_is_computed(party, part):
    x = shared(encoded(LINE))
    wrong = {"own": x[party].own, "next": x[party].next}
    wrong[part] = wrong[part] + 1
    x[party] = Shared(**wrong)
    with pytest.raises(JobFailed, match="hold different values"):
        audited(lambda p, mine: pytest.fail("computed"), [x])


def tossed(party):
    return toss(party, SESSION, os.urandom)


def coins(cheater, *attack):
    def operation(party):
        made = yield from tossed(party)
        seed = torch.frombuffer(bytearray(made.seed), dtype=torch.int64)
        zero = torch.zeros_like(seed)
        return Shared(seed if party.index == 0 else zero, seed if party.following == 0 else zero)

    return play(operation, cheater, attack)


def test_all_three_toss_the_same_coins_and_others_the_next_time():
    assert coins(0).error is None
    assert coins(0).values.tolist() != coins(0).values.tolist()


@pytest.mark.parametrize("number", [0, 1], ids=["committed", "revealed"])
def test_coins_that_are_not_those_that_were_committed_to_end_the_session(number):
    attack = [Message(number, to_next, 0, flipped) for to_next in (False, True)]
    assert "reveals other coins" in str(coins(1, *attack).error)


def test_two_commitments_of_one_party_end_the_session():
    """The cheater commits to one party as it should and to the other to what it can open, too."""
    other = b"o" * 32
    forged = torch.frombuffer(bytearray(commitment(SESSION, 0, 1, other)), dtype=torch.int8)

    def reveal(tensor):
        return torch.cat([torch.frombuffer(bytearray(other), dtype=torch.int8), tensor[32:]])

    played = coins(1, Message(0, True, 0, lambda t: forged), Message(1, True, 0, reveal))
    assert "committed to different coins" in str(played.error)


@pytest.mark.parametrize("cheater", range(3))
def test_a_false_opening_is_seen_by_its_other_holder(cheater):
    x = shared(torch.arange(4))

    def operation(party):
        transcripts = Transcripts(party)
        yield from open_to_all(party, [x[party.index]], ARITHMETIC, transcripts, bits=64)
        yield from compare(party, transcripts)
        return x[party.index]

    assert play(operation, cheater).error is None
    assert play(operation, cheater, [Message(0, True, 0, flipped)]).error is not None


@pytest.mark.parametrize("cheater", range(3))
def test_masked_values_that_two_parties_see_are_compared_with_what_the_third_knows(cheater):
    """The opened value alone, without claims that would be false with it."""
    x = shared(torch.arange(4) << 20)

    def operation(party):
        audit = Audit(party, SESSION, os.urandom)
        yield from truncate(party, x[party.index], 16)
        audit._record.claims = Claims()
        yield from audit.settle(party)
        return x[party.index]

    masked = 5  # rounds in which random bits are made come before
    sent = play(operation, cheater).sent[masked]
    for to_next, payload in ((False, sent.to_previous), (True, sent.to_next)):
        # The dealer of step 1, party 1, sends carries there, which is a claim.
        if payload and cheater != 1:
            assert play(operation, cheater, [Message(masked, to_next, 0, flipped)]).error is not None


@pytest.mark.parametrize("party", range(3))
@pytest.mark.parametrize("part", ["own", "next"])
def test_a_result_of_which_the_copies_differ_is_none(party, part):
    def changed(shares):
        parts = {"own": shares[party].own, "next": shares[party].next}
        parts[part] = parts[part] + TOP
        return [Shared(**parts) if i == party else each for i, each in enumerate(shares)]

    assert play(small_program, party, last=changed).values is None

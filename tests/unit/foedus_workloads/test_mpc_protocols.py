from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus_workloads.mpc.arithmetic import (
    dot,
    matrix_product,
    multiply,
    open_to_all,
    prepare,
    product,
    reshare,
    square_sum,
)
from foedus_workloads.mpc.comparison import Window, larger, maximum, narrow, negative, sign
from foedus_workloads.mpc.conversion import Pair, bit_to_arithmetic, inject
from foedus_workloads.mpc.party import Shared
from foedus_workloads.mpc.ring import Ring
from foedus_workloads.mpc.rounds import together
from foedus_workloads.mpc.truncation import truncate
from support.three_parties import parties, revealed, revealed_bits, run, shared

WORDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40)
BITS = (4, 8, 16, 64)


def ring_value(value: int, bits: int = 64) -> int:
    """Python's big integers as the oracle: the signed representative mod 2^bits."""
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


@settings(deadline=None, max_examples=30)
@given(values=WORDS, bits=st.sampled_from(BITS))
def test_opening_gives_what_was_shared(values, bits):
    x = shared(torch.tensor(values), Ring(bits))
    done = run(parties(bits=bits), lambda p: open_to_all(p, x[p.index]))
    assert [result.tolist() for result in done.results] == [[ring_value(v, bits) for v in values]] * 3


@settings(deadline=None, max_examples=30)
@given(left=WORDS, right=WORDS, bits=st.sampled_from(BITS))
def test_products_equal_those_of_big_integers(left, right, bits):
    size = min(len(left), len(right))
    x, y = (shared(torch.tensor(v[:size]), Ring(bits), seed) for v, seed in ((left, 7), (right, 9)))
    done = run(parties(bits=bits), lambda p: multiply(p, x[p.index], y[p.index]))
    assert revealed(done.results, bits).tolist() == [ring_value(a * b, bits) for a, b in zip(left, right, strict=False)]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)), min_size=3, max_size=3))
def test_dot_products_equal_those_of_big_integers(pairs):
    x, y = shared(torch.tensor([a for a, _ in pairs])), shared(torch.tensor([b for _, b in pairs]), seed=9)

    def both(p):
        one = dot(p, [(x[p.index].map(lambda t, i=i: t[i]), y[p.index].map(lambda t, i=i: t[i])) for i in range(3)])
        return together([reshare(p, one), reshare(p, square_sum(p, x[p.index]))])

    results = run(parties(), both).results
    assert revealed([r[0] for r in results]).item() == ring_value(sum(a * b for a, b in pairs))
    assert revealed([r[1] for r in results]).item() == ring_value(sum(a * a for a, _ in pairs))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32))
def test_matrix_products_equal_those_of_big_integers(m, k, n, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(-(2**63), 2**63 - 1, (2, m, k), generator=generator)
    b = torch.randint(-(2**63), 2**63 - 1, (k, n), generator=generator)
    x, y = shared(a), shared(b, seed=9)
    done = run(parties(), lambda p: reshare(p, matrix_product(p, x[p.index], prepare(y[p.index]))))
    want = [
        [[ring_value(sum(r * b[i, j].item() for i, r in enumerate(row))) for j in range(n)] for row in rows]
        for rows in a.tolist()
    ]
    assert revealed(done.results).tolist() == want


CUTS = [(4, 1), (8, 3), (16, 7), (64, 16), (64, 18), (64, 27), (64, 32), (64, 40)]


@settings(deadline=None, max_examples=80)
@given(st.data(), st.sampled_from(CUTS), st.booleans(), st.integers(0, 255))
def test_truncation_errs_by_less_than_one_and_a_half_units(data, kind, from_product, seed):
    bits, cut = kind
    bound = 2 ** (bits - 2) - 2 ** (cut - 1)
    values = data.draw(st.lists(st.integers(-bound, bound - 1), min_size=1, max_size=20))
    x, one = shared(torch.tensor(values), Ring(bits)), shared(torch.ones(len(values), dtype=torch.int64), Ring(bits), 9)

    def operation(p):
        summand = product(p, x[p.index], one[p.index]) if from_product else x[p.index]
        return truncate(p, summand, cut)

    got = revealed(run(parties(bits=bits, seed=seed), operation).results, bits).tolist()
    for value, result in zip(values, got, strict=True):
        assert abs((result << cut) - value) < 3 << (cut - 1)


def test_truncation_has_no_bias():
    values = torch.randint(-(2**40), 2**40, (200_000,), generator=torch.Generator().manual_seed(1))
    x = shared(values)
    got = revealed(run(parties(), lambda p: truncate(p, x[p.index], 16)).results)
    error = got.double() - values.double() / 2**16
    # Three uniform roundings: variance 3/12, so the mean of 200,000 has a standard deviation of 0.0011.
    assert abs(error.mean().item()) < 0.006
    assert error.std().item() == pytest.approx(0.5, abs=0.01)


@settings(deadline=None, max_examples=40)
@given(values=WORDS, bits=st.sampled_from(BITS), seed=st.integers(0, 255))
def test_sign_is_that_of_big_integers(values, bits, seed):
    x = shared(torch.tensor(values), Ring(bits))
    done = run(parties(bits=bits, seed=seed), lambda p: sign(p, x[p.index]))
    assert revealed_bits(done.results).tolist() == [int(ring_value(v, bits) < 0) for v in values]


@settings(deadline=None, max_examples=20)
@given(values=WORDS, bits=st.sampled_from(BITS))
def test_sign_as_an_arithmetic_bit(values, bits):
    x = shared(torch.tensor(values), Ring(bits))
    done = run(parties(bits=bits), lambda p: negative(p, x[p.index]))
    assert revealed(done.results, bits).tolist() == [int(ring_value(v, bits) < 0) for v in values]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(0, 32), st.sampled_from((8, 16, 32)), st.integers(0, 255))
def test_sign_in_a_window_errs_below_its_unit_alone(data, low, width, seed):
    end = 2 ** (low + width - 1)
    least = -end + (2**low if low else 0)
    # Around 0, the unit and the ends, and anywhere between.
    near = st.integers(-3, 3).flatmap(lambda d: st.sampled_from((d, 2**low + d, least + abs(d), end - 1 - abs(d))))
    values = data.draw(st.lists(near | st.integers(least, end - 1), min_size=1, max_size=70))
    x = shared(torch.tensor(values))
    done = run(parties(seed=seed), lambda p: sign(p, x[p.index], Window(low, width)))
    for value, bit in zip(values, revealed_bits(done.results).tolist(), strict=True):
        assert bit == int(value < 0) or (0 <= value < 2**low)


@pytest.mark.parametrize(
    ("fraction", "range_bits", "unit_bits", "window"),
    [
        (16, 15, 16, Window(0, 32)),
        (18, 15, 16, Window(2, 32)),
        (16, 15, 0, Window(16, 16)),
        (16, 10, 5, Window(11, 16)),
        (16, 10, 16, Window(0, 32)),
        (18, 20, 18, Window(0, 64)),
        (16, 3, 3, Window(12, 8)),
    ],
)
def test_windows_are_as_narrow_as_range_and_unit_allow(fraction, range_bits, unit_bits, window):
    assert narrow(parties(fraction=fraction)[0], range_bits=range_bits, unit_bits=unit_bits) == window


def test_sign_of_more_elements_than_a_word_has_places():
    values = torch.randint(-(2**63), 2**63 - 1, (3, 5, 77), generator=torch.Generator().manual_seed(2))
    x = shared(values)
    assert torch.equal(revealed_bits(run(parties(), lambda p: sign(p, x[p.index])).results), (values < 0).long())


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(-(2**61), 2**61), st.integers(-(2**61), 2**61)), min_size=1, max_size=9))
def test_the_larger_of_two(pairs):
    x, y = shared(torch.tensor([a for a, _ in pairs])), shared(torch.tensor([b for _, b in pairs]), seed=9)
    done = run(parties(), lambda p: larger(p, x[p.index], y[p.index]))
    assert revealed(done.results).tolist() == [max(pair) for pair in pairs]


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(1, 3), st.sampled_from(BITS), st.integers(0, 255))
def test_injection_adds_up_what_its_bits_choose(data, count, bits, seed):
    words = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=5, max_size=5)
    values = [data.draw(words) for _ in range(count)]
    chosen = [data.draw(st.lists(st.integers(0, 1), min_size=5, max_size=5)) for _ in range(count)]
    x = [shared(torch.tensor(each), Ring(bits), seed=7 + 2 * i) for i, each in enumerate(values)]
    b = [xor_shared(torch.tensor(each)) for each in chosen]
    done = run(
        parties(bits=bits, seed=seed),
        lambda p: inject(p, [Pair(bit[p.index], each[p.index]) for bit, each in zip(b, x, strict=True)]),
    )
    sums = [sum(v[i] * c[i] for v, c in zip(values, chosen, strict=True)) for i in range(5)]
    assert revealed(done.results, bits).tolist() == [ring_value(each, bits) for each in sums]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13])
def test_maximum_of_rows(count):
    rows = torch.randint(-(2**40), 2**40, (4, count), generator=torch.Generator().manual_seed(count))
    x = shared(rows)
    done = run(parties(), lambda p: maximum(p, x[p.index]))
    assert torch.equal(revealed(done.results), rows.max(-1, keepdim=True).values)


def xor_shared(bits: torch.Tensor) -> list[Shared]:
    generator = torch.Generator().manual_seed(5)
    zero, one = (torch.randint(0, 2, bits.shape, generator=generator) for _ in range(2))
    parts = [zero, one, bits ^ zero ^ one]
    return [Shared(parts[i], parts[(i + 1) % 3]) for i in range(3)]


N = 64
# Rounds, and bytes for each of 64 elements from parties 0, 1 and 2. Step 0's dealer is party 0, so party 1 is first and
# party 2 second; step 1's dealer is party 1.
COSTS = {
    "open": (lambda p, x, b: open_to_all(p, x), 1, (8, 8, 8)),
    "multiply": (lambda p, x, b: multiply(p, x, x), 1, (8, 8, 8)),
    "truncate by 8": (lambda p, x, b: truncate(p, x, 8), 2, (2, 9, 9)),
    "truncate by 16": (lambda p, x, b: truncate(p, x, 16), 2, (4, 10, 10)),
    "truncate by 18": (lambda p, x, b: truncate(p, x, 18), 2, (8, 12, 12)),
    "fixed-point product, 16": (lambda p, x, b: truncate(p, product(p, x, x), 16), 2, (20, 10, 10)),
    "fixed-point product, 18": (lambda p, x, b: truncate(p, product(p, x, x), 18), 2, (24, 12, 12)),
    "sign": (lambda p, x, b: sign(p, x), 8, (23.75, 23.75, 23.75)),
    "sign, 32 bits": (lambda p, x, b: sign(p, x, Window(0, 32)), 7, (11.75, 11.75, 11.75)),
    "sign, 16 bits": (lambda p, x, b: sign(p, x, Window(7, 16)), 6, (5.75, 5.75, 5.75)),
    "sign, 8 bits": (lambda p, x, b: sign(p, x, Window(7, 8)), 5, (2.75, 2.75, 2.75)),
    "bit to arithmetic": (lambda p, x, b: bit_to_arithmetic(p, b), 2, (8, 8, 8)),
    "inject": (lambda p, x, b: inject(p, [Pair(b, x)]), 2, (8, 16, 8)),
    "inject two": (lambda p, x, b: inject(p, [Pair(b, x)] * 2), 2, (8, 32, 8)),
    "comparison": (lambda p, x, b: negative(p, x), 10, (31.75, 31.75, 31.75)),
    "larger, 32 bits": (lambda p, x, b: larger(p, x, x, Window(0, 32)), 9, (19.75, 27.75, 19.75)),
}


@pytest.mark.parametrize("name", COSTS)
def test_rounds_and_bytes_of_each_primitive(name):
    operation, rounds, per_element = COSTS[name]
    x, b = shared(torch.arange(N)), xor_shared(torch.arange(N) % 2)
    done = run(parties(), lambda p: operation(p, x[p.index], b[p.index]))
    assert (done.rounds, done.sent) == (rounds, [N * size for size in per_element])


def test_a_matrix_product_costs_one_element_per_result():
    x, y = shared(torch.ones(3, 100, dtype=torch.int64)), shared(torch.ones(100, 5, dtype=torch.int64))
    done = run(parties(), lambda p: reshare(p, matrix_product(p, x[p.index], prepare(y[p.index]))))
    assert (done.rounds, done.sent) == (1, [15 * 8] * 3)


def test_independent_operations_share_their_rounds():
    x = shared(torch.arange(N))
    done = run(
        parties(),
        lambda p: together([maximum(p, x[p.index]), truncate(p, x[p.index], 16), multiply(p, x[p.index], x[p.index])]),
    )
    assert done.rounds == 6 * 10
    assert revealed([r[0] for r in done.results]).tolist() == [N - 1]

"""Passes over elements: every unit gives what Python's integers give by the formulas of `native/ring.h`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus_ring.passes import Passes, units

WORD, COUNT = 2**64, 67  # not a multiple of any vector
NARROW = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}
words = st.one_of(st.sampled_from([0, 1, 2**63 - 1, 2**63, WORD - 1]), st.integers(0, WORD - 1))

pytestmark = pytest.mark.skipif(not units(), reason="no kernels")


@pytest.fixture(params=units())
def passes(request):
    return Passes(request.param)


def signed(value, bits=64):
    """Return the representative of a value mod 2^bits in [-2^(bits-1), 2^(bits-1))."""
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def tensor(values, bits=64, *, kind=None):
    return torch.tensor([signed(value, bits) for value in values], dtype=NARROW[kind or bits])


def drawn(seed, bits=64, count=COUNT):
    """Return words with corners among them, as unsigned integers."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator).tolist()
    corners = [0, 1, 2**63 - 1, 2**63, WORD - 1]
    return [value % 2**bits for value in [*corners, *values][:count]]


def by_element(formula, *operands, bits=64):
    return tensor([formula(*each) for each in zip(*operands, strict=True)], bits)


def test_sums_products_and_squares(passes):
    a, b, c, d = (drawn(seed) for seed in range(4))
    ta, tb, tc, td = map(tensor, (a, b, c, d))
    assert torch.equal(passes.total((ta, tb), -5), by_element(lambda a, b: a + b - 5, a, b))
    assert torch.equal(passes.total((ta, tb, tc), 2**62), by_element(lambda a, b, c: a + b + c + 2**62, a, b, c))
    assert torch.equal(passes.total((ta, tb, tc, td)), by_element(lambda *all: sum(all), a, b, c, d))
    want = by_element(lambda x0, x1, y0, y1: x0 * (y0 + y1) + x1 * y0, a, b, c, d)
    assert torch.equal(passes.product((ta, tb), (tc, td)), want)
    want = by_element(lambda x0, x1, y0, y1: (x0 & (y0 ^ y1)) ^ (x1 & y0), a, b, c, d)
    assert torch.equal(passes.product((ta, tb), (tc, td), bits=True), want)
    assert torch.equal(passes.square(ta, tb), by_element(lambda x0, x1: x0 * (x0 + 2 * x1), a, b))


def test_combinations_and_masked_products(passes):
    a, b, c, d, e, f = (drawn(seed) for seed in range(6))
    ta, tb, tc, td, te, tf = map(tensor, (a, b, c, d, e, f))
    want = by_element(lambda a, b: -13 * a + 2**40 * b + 2**63, a, b)
    assert torch.equal(passes.combine([(ta, -13), (tb, 2**40)], 2**63), want)
    assert torch.equal(passes.combine([(ta, 3)], -1), by_element(lambda a: 3 * a - 1, a))
    want = by_element(lambda x0, x1, y0, y1, m, n: (x0 & (y0 ^ y1)) ^ (x1 & y0) ^ m ^ n, a, b, c, d, e, f)
    assert torch.equal(passes.masked_bits((ta, tb), (tc, td), (te, tf)), want)


CUTS = [(1, 8), (8, 8), (9, 16), (16, 16), (26, 32), (32, 32), (44, 64), (62, 64)]


@pytest.mark.parametrize("of_product", [True, False])
@pytest.mark.parametrize(("cut", "bits"), CUTS)
def test_what_a_truncations_dealer_makes(passes, cut, bits, of_product):
    x, a0, a1, b0, b1 = (drawn(seed) if of_product or seed in (1, 3) else [0] * COUNT for seed in range(5))
    narrow = [drawn(seed, bits) for seed in range(5, 9)]
    component = lambda mask, pad: -((mask % WORD >> cut) + (pad << (64 - cut)))
    rows = list(zip(x, a0, a1, b0, b1, *narrow, strict=True))
    want = [
        tensor([x + b1 for x, _, _, _, b1, *_ in rows]) if of_product else None,
        tensor([x + a1 for x, _, a1, *_ in rows]) if of_product else None,
        tensor([component(b0 + b1, q) for *_, b0, b1, _, _, _, q in rows]),
        tensor([component(a0 + a1, p) for _, a0, a1, _, _, _, _, p, _ in rows]),
        tensor(
            [((a0 + a1) % WORD + (b0 + b1) % WORD) // WORD - u for _, a0, a1, b0, b1, u, *_ in rows], cut, kind=bits
        ),
        tensor([(a0 + a1 + b0 + b1) % WORD // 2**63 - v for _, a0, a1, b0, b1, _, v, *_ in rows], cut, kind=bits),
    ]
    rest = lambda values: tensor(values) if of_product else None
    made = passes.deal(rest(x), (tensor(a0), rest(a1)), (tensor(b0), rest(b1)), [tensor(n, bits) for n in narrow], cut)
    for got, wanted in zip(made, want, strict=True):
        assert got is wanted or torch.equal(got, wanted)


@pytest.mark.parametrize("parts", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("cut", "bits"), CUTS)
def test_what_a_truncations_other_parties_make(passes, cut, bits, parts):
    x, y, mask, rest, came, third = (drawn(seed) for seed in range(6))
    wrap, top, pad = (drawn(seed, bits) for seed in range(6, 9))
    y, rest = (values if there else [0] * COUNT for values, there in zip((y, rest), parts, strict=True))
    third = third if parts[1] else [0] * COUNT
    ty, trest, tthird = (tensor(values) if any(values) else None for values in (y, rest, third))
    sent, component = passes.send((tensor(x), ty), (tensor(mask), trest), tensor(pad, bits), cut, 2**62 - 1)
    assert torch.equal(sent, by_element(lambda x, y, m: x + y + m + 2**62 - 1, x, y, mask))
    want = by_element(lambda m, r, p: -(((m + r) % WORD >> cut) + (p << (64 - cut))), mask, rest, pad)
    assert torch.equal(component, want)
    arrived = [tensor(came)] if tthird is None else [tensor(came), tthird]
    c, share = passes.open(tensor(x), arrived, trest, [tensor(each, bits) for each in (wrap, top, pad)], cut)
    sums = [sum(each) % WORD for each in zip(x, came, rest, third, strict=True)]
    assert torch.equal(c, tensor(sums))
    low = lambda value: signed(value, cut)
    want = by_element(lambda c, u, v, p: low(u + v * (1 - (c >> 63)) + p), sums, wrap, top, pad, bits=bits)
    assert torch.equal(share, want)
    want = by_element(lambda c, p, q: (c >> cut) + ((p + q) << (64 - cut)) - 2 ** (62 - cut) - 1, sums, wrap, top)
    assert passes.common(c, tensor(wrap, bits), tensor(top, bits), cut) is c
    assert torch.equal(c, want)


@pytest.mark.parametrize(("width", "low"), [(8, 0), (8, 56), (16, 11), (32, 7), (64, 0)])
def test_windows_of_sums(passes, width, low):
    x, y = drawn(0), drawn(1)
    out = torch.full((COUNT + 3,), 1, dtype=NARROW[width])
    passes.window([tensor(x), tensor(y)], low, out)
    want = tensor([(a + b) % WORD >> low for a, b in zip(x, y, strict=True)], width)
    assert torch.equal(out[:COUNT], want)
    assert out[COUNT:].tolist() == [1] * 3
    passes.window([tensor(x)], low, out)
    assert torch.equal(out[:COUNT], tensor([a >> low for a in x], width))


def test_products_with_bits(passes):
    x0, x1, u, e = (drawn(seed) for seed in range(4))
    bit = [value & 1 for value in drawn(9)]
    t0, t1, tu, te, tbit = tensor(x0), tensor(x1), tensor(u), tensor(e), torch.tensor(bit, dtype=torch.int8)
    product, masked = passes.offer(tbit, (t0, t1), (tu, te))
    assert torch.equal(product, by_element(lambda n, a, b, u: n * (a + b) - u, bit, x0, x1, u))
    assert torch.equal(masked, by_element(lambda n, e: n - e, bit, e))
    for known in ((x0,), (x0, x1)):
        part = tensor(drawn(7))
        passes.choose(part, tbit, tuple(map(tensor, known)), (tu, te, t1))
        rows = zip(drawn(7), bit, u, e, x1, *known, strict=True)
        want = [s + (sum(k) - (u + e * x) if n else u + e * x) for s, n, u, e, x, *k in rows]
        assert torch.equal(part, tensor(want))


def bits_of(word):
    return [word >> place & 1 for place in range(64)]


def word_of(bits):
    return sum(bit << place for place, bit in enumerate(bits))


@given(passes=words, arises=words, keep=words)
@settings(deadline=None, max_examples=30)
def test_pairs_of_neighbouring_places(passes, arises, keep):
    p, g = passes << 1 & keep, arises << 1 & keep
    ps, gs = bits_of(p), bits_of(g)
    for unit in units():
        high, low, rest = Passes(unit).pairs(tensor([passes]), tensor([arises]), keep)
        assert int(rest) % WORD == word_of([gs[place] if place % 2 else 0 for place in range(64)])
        assert int(high) % WORD == word_of([ps[place | 1] for place in range(64)])
        assert int(low) % WORD == word_of([gs[place - 1] if place % 2 else ps[place] for place in range(64)])


@given(left=words, right=words, half=st.sampled_from([2, 4, 8, 16, 32]))
@settings(deadline=None, max_examples=50)
def test_groups_of_two_words_beside_each_other(left, right, half):
    lower = sum(((1 << half) - 1) << start for start in range(0, 64, 2 * half))
    p_places = sum(1 << (start + place) for start in range(0, 64, 2 * half) for place in range(0, half, 2))

    def beside(of):
        """Return both words' lower places, those of the right word put above: `of` says what becomes of a place."""
        places = [(place - half * (place // half % 2), place // half % 2) for place in range(64)]
        return word_of([of(bits_of((left, right)[word]), place) for place, word in places])

    want = (
        beside(lambda bits, place: bits[half + place - place % 2]),  # the upper group's p, at both places
        beside(lambda bits, place: bits[place]),
        beside(lambda bits, place: bits[half + place] if place % 2 else 0),
    )
    for unit in units():
        found = Passes(unit).groups(tensor([left, right]), half, lower, p_places)
        assert tuple(int(each) % WORD for each in found) == want


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_carries_slice_by_slice(passes, width):
    values = drawn(1, count=5)
    order = torch.randperm(width // 2, generator=torch.Generator().manual_seed(0)).to(torch.int8)
    want = [
        value >> (lane * width + 2 * place + 1) & 1
        for place in order.tolist()
        for value in values
        for lane in range(64 // width)
    ]
    assert passes.carries(tensor(values), width, order).tolist() == want


def test_what_is_not_contiguous_or_of_another_shape_is_not_taken(passes):
    x = torch.zeros(4, 4, dtype=torch.int64)
    assert passes.takes((x, x), (x.to(torch.int8),))
    for others in ((x, x.t()), (x, x[0]), (x, x.to(torch.int32)), (x, x.to("meta"))):
        assert not passes.takes(others)
    assert not passes.takes((x,), (x.to(torch.int8), x.to(torch.int16)))

"""Products over Z_2^64: every path gives the bits that Python's big integers and numpy's wrapping uint64 give."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus_ring import OperandRefused, available, matmul, pack, product

CORNERS = (0, 1, -1, 2, 2**31, 2**32 - 1, 2**52, -(2**52), 2**63 - 1, -(2**63), -(2**63) + 1, 0x0101010101010101)


@pytest.fixture(autouse=True)
def small_work_is_shared_too(monkeypatch):
    monkeypatch.setattr(product, "THREAD_WORK", 1)


@pytest.fixture(params=available())
def path(request):
    return request.param


def random(*shape, seed=0):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(-(2**63), 2**63, shape, dtype=np.int64))


def wrapped(x, w):
    """Return the product by numpy in uint64, one outer product after the other: arithmetic that wraps by definition."""
    left, right = x.numpy().astype(np.uint64), w.numpy().astype(np.uint64)
    terms = (left[..., :, i, None] * right[..., i, None, :] for i in range(left.shape[-1]))
    return torch.from_numpy(functools.reduce(np.add, terms).astype(np.int64))


def big(x, w):
    """Return the product by Python's integers, reduced once at the end."""
    right = list(zip(*w.tolist(), strict=True))
    sums = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in right] for row in x.tolist()]
    return torch.tensor([[(entry + 2**63) % 2**64 - 2**63 for entry in row] for row in sums])


# Around the edges of blocks: 2 and 6 rows, 16 and 32 columns, 64, 256 and 512 of the inner dimension.
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [
        (1, 1, 1),
        (3, 2, 5),
        (5, 63, 31),
        (6, 64, 32),
        (7, 65, 33),
        (16, 255, 16),
        (17, 257, 15),
        (31, 511, 47),
        (33, 513, 65),
        (128, 129, 96),
        (257, 66, 17),
        (300, 40, 8),
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_odd_shapes(path, m, k, n, threads):
    x, w = random(m, k, seed=1), random(k, n, seed=2)
    expected = wrapped(x, w)
    assert torch.equal(matmul(x, pack(w, path=path), threads=threads), expected)
    assert torch.equal(matmul(x, w, threads=threads, path=path), expected)


@pytest.mark.parametrize("k", [6144, 20001])
def test_long_sums_match_big_integers(path, k):
    x, w = random(2, k, seed=3), random(k, 3, seed=4)
    assert torch.equal(matmul(x, w, path=path), big(x, w))


# All digits 255 is the largest that a sum of bytes can get.
@pytest.mark.parametrize("left", CORNERS)
def test_corners_fill_whole_matrices(path, left):
    x = torch.full((9, 6144), left)
    w = torch.tensor(CORNERS).repeat(6144, 1)
    expected = [(left * right * 6144 + 2**63) % 2**64 - 2**63 for right in CORNERS]
    assert matmul(x, w, path=path).tolist() == [expected] * 9


@pytest.mark.parametrize("value", [1, -(2**63)])
def test_corners_with_low_bits_flipped(path, value):
    x, w = torch.full((18, 700), value) ^ (random(18, 700) & 1), torch.full((700, 40), value) ^ (random(700, 40) & 1)
    assert torch.equal(matmul(x, w, path=path), wrapped(x, w))


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (5, 3, 0), (0, 0, 0)])
@pytest.mark.parametrize("batch", [(), (2,), (0,)])
def test_empty_dimensions(path, shape, batch):
    m, k, n = shape
    x, w = random(*batch, m, k), random(*batch, k, n)
    product = matmul(x, w, path=path)
    assert torch.equal(product, torch.zeros(*batch, m, n, dtype=torch.int64))
    assert torch.equal(matmul(x, pack(random(k, n), path=path)), product)


def test_operands_of_any_strides(path):
    square, wide = random(70, 70, seed=5), random(140, 210, seed=6)
    for x in (square.T, wide[::2, 1::3], square[:1].expand(70, 70), square[5:, :]):
        for w in (square.T, wide[::2, ::3], square[:, :1].expand(70, 70), square[:, 3:40]):
            assert torch.equal(matmul(x, w, path=path), wrapped(x.contiguous(), w.contiguous()))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((12, 20, 64), (12, 64, 20)),
        ((2, 3, 7, 65), (2, 3, 65, 33)),
        ((4, 1, 5, 6), (3, 6, 7)),
        ((5, 6), (3, 6, 7)),
        ((3, 4, 5, 6), (6, 7)),
        ((0, 5, 6), (1, 6, 7)),
    ],
)
@pytest.mark.parametrize("threads", [1, 5])
def test_batches_broadcast(path, left, right, threads):
    x, w = random(*left, seed=7), random(*right, seed=8)
    assert torch.equal(matmul(x, w, threads=threads, path=path), wrapped(x, w))


def test_attention_takes_transposed_heads(path):
    q, keys = random(12, 128, 64, seed=9), random(12, 128, 64, seed=10)
    expected = wrapped(q, keys.transpose(1, 2))
    assert torch.equal(matmul(q, keys.transpose(1, 2), threads=2, path=path), expected)


def test_operands_stay_as_they_are(path):
    x, w = random(40, 70), random(70, 50)
    before = x.clone(), w.clone()
    packed = pack(w, path=path)
    first = matmul(x, packed)
    w.zero_()  # packing copies
    assert torch.equal(matmul(x, packed), first)
    assert torch.equal(x, before[0])
    assert torch.equal(first, wrapped(*before))


X, W = torch.ones(2, 3, dtype=torch.int64), torch.ones(3, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("x", "w", "options", "says"),
    [
        (X.int(), W, {}, "x must be int64, not torch.int32"),
        (X, W.double(), {}, "w must be int64, not torch.float64"),
        (X, W.to(torch.uint64), {}, "w must be int64, not torch.uint64"),
        ([[1]], W, {}, "x must be a tensor, not list"),
        (X, None, {}, "w must be a tensor, not NoneType"),
        (X[0], W, {}, "x must have at least 2 dimensions, not 1"),
        (X, W[:, 0], {}, "w must have at least 2 dimensions, not 1"),
        (X, W.T, {}, "x has 3 columns, w has 4 rows"),
        (X, pack(W.T), {}, "x has 3 columns, w has 4 rows"),
        (X, W.T.expand(5, 4, 3), {}, "x has 3 columns, w has 4 rows"),
        (X.expand(2, 2, 3), W.expand(5, 3, 4), {}, "batches [2] and [5] do not broadcast"),
        (X.to("meta"), W, {}, "x must be a dense tensor on the CPU, not torch.strided on meta"),
        (X, W.to_sparse(), {}, "w must be a dense tensor on the CPU, not torch.sparse_coo on cpu"),
        (X, W, {"threads": 0}, "threads must be at least 1, not 0"),
        (X, W, {"path": "gpu"}, "there is no path 'gpu': amx, avx512, avx2, plain, torch"),
        (X, pack(W, path="torch"), {"path": "amx"}, "w is packed for path 'torch', not 'amx'"),
    ],
)
def test_other_operands_are_refused(x, w, options, says):
    with pytest.raises(OperandRefused) as refusal:
        matmul(x, w, **options)
    assert str(refusal.value) == says


def test_only_matrices_are_packed():
    with pytest.raises(OperandRefused, match="2 dimensions to be packed, not 3"):
        pack(W[None])


entries = st.one_of(st.sampled_from(CORNERS), st.integers(-(2**63), 2**63 - 1))


@st.composite
def products(draw):
    m, k, n = draw(st.integers(1, 19)), draw(st.integers(1, 70)), draw(st.integers(1, 36))
    pool = torch.tensor(draw(st.lists(entries, min_size=1, max_size=40)))
    seed = draw(st.integers(0, 2**32))
    picks = np.random.default_rng(seed).integers(0, len(pool), m * k + k * n)
    chosen = pool[torch.from_numpy(picks)]
    return chosen[: m * k].view(m, k), chosen[m * k :].view(k, n)


@settings(max_examples=60, deadline=None)
@given(operands=products(), transposed=st.booleans())
def test_every_path_equals_big_integers(operands, transposed):
    x, w = operands
    right = w.T.contiguous().T if transposed else w
    expected = big(x, w)
    for one in available():
        assert torch.equal(matmul(x, right, path=one), expected), one

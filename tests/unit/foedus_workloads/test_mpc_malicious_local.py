"""What a party computes for the checks: the passes and torch, each against Python's integers."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from foedus_ring.checks import Checks
from foedus_ring.passes import units
from foedus_workloads.mpc.arithmetic import ARITHMETIC, BOOLEAN
from foedus_workloads.mpc.malicious import local

WORD = 2**64
NARROW = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}


@pytest.fixture(autouse=True, params=[*units(), "torch"])
def way(request, monkeypatch):
    passes = None if request.param == "torch" else Checks(request.param)
    monkeypatch.setattr(local, "fastest", lambda: passes)


def signed(value, bits=64):
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def tensor(values, bits=64):
    return torch.tensor([signed(value, bits) for value in values], dtype=NARROW[bits])


def drawn(seed, count, bits=64):
    """Return unsigned integers with corners among them."""
    chosen = random.Random(seed)
    corners = (0, 1, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 1)
    return [chosen.choice(corners) if chosen.random() < 0.3 else chosen.getrandbits(bits) for _ in range(count)]


LENGTHS, COUNT = (3, 70, 0, 1, 20), 97  # claims, and what they meet: three zeros are left
PLACES = [range(COUNT), range(50), range(73, 74), range(60, COUNT), range(95, COUNT)]


def claimed(seed):
    parts = [drawn(seed + i, length) for i, length in enumerate(LENGTHS)]
    return local.Row(tuple(map(tensor, parts))), [*itertools.chain.from_iterable(parts), 0, 0, 0]


@pytest.mark.parametrize("turn", [0, 1, 40, COUNT - 1])
@pytest.mark.parametrize("places", PLACES)
def test_claims_meet_random_words_from_a_turn_on_and_zeros_come_last(turn, places):
    row, values = claimed(1)
    others = drawn(2, COUNT)
    met = [(values[i], others[(i + turn) % COUNT]) for i in places]
    for domain, want in ((ARITHMETIC, [x - a for x, a in met]), (BOOLEAN, [x ^ a for x, a in met])):
        assert torch.equal(local.conceal(row, tensor(others), turn, places, domain), tensor(want))


@pytest.mark.parametrize("turn", [0, 40])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("first", [True, False])
def test_what_is_left_of_a_claim(turn, places, first):
    row, values = claimed(3)
    c, a, b = (drawn(seed, COUNT) for seed in (4, 5, 6))
    rho, sigma = (drawn(seed, len(places)) for seed in (7, 8))
    rows = [
        (values[i], *(each[(i + turn) % COUNT] for each in (c, a, b)), p, s)
        for i, p, s in zip(places, rho, sigma, strict=True)
    ]
    made = tuple(map(tensor, (c, a, b)))
    opened = tensor(rho), tensor(sigma)

    def left(domain, made=made, opened=opened):
        return local.remain(row, made, turn, places, opened, domain, first=first)

    assert torch.equal(left(ARITHMETIC), tensor([z - c - s * a - p * b - first * p * s for z, c, a, b, p, s in rows]))
    want = tensor([z ^ c ^ (s & a) ^ (p & b) ^ (p & s if first else 0) for z, c, a, b, p, s in rows])
    assert torch.equal(left(BOOLEAN), want)
    want = tensor([z - c - 2 * p * a - first * p * p for z, c, a, _, p, _ in rows])
    assert torch.equal(left(ARITHMETIC, (*made[:2], None), (opened[0], None)), want)


@pytest.mark.parametrize("repetitions", [1, 8, 41, 64])
@pytest.mark.parametrize("turned", [False, True])
def test_projections_by_the_bits_of_coins(repetitions, turned):
    rows, inner = 7, 21
    values, coins = drawn(1, rows * inner), drawn(2, inner)
    matrix = [values[i * inner : (i + 1) * inner] for i in range(rows)]
    want = [
        sum(value for value, coin in zip(row, coins, strict=True) if coin >> bit & 1)
        for row in matrix
        for bit in range(repetitions)
    ]
    given = tensor(values).reshape(rows, inner)
    given = given.t().contiguous().t() if turned else given
    made = local.project(given, tensor(coins), repetitions)
    assert torch.equal(made, tensor(want).reshape(rows, repetitions))


@pytest.mark.parametrize("count", [1, 63, 64, 200])
def test_bits_in_words(count):
    left, right = drawn(1, count, 8), drawn(2, count, 8)
    left, right = [each & 1 for each in left], [each & 1 for each in right]

    def words(bits):
        filled = [*bits, *[0] * (-count % 64)]
        return tensor([sum(bit << j for j, bit in enumerate(filled[i : i + 64])) for i in range(0, len(filled), 64)])

    assert torch.equal(local.pack(tensor(left, 8)), words(left))
    both = words([a ^ b for a, b in zip(left, right, strict=True)])
    assert torch.equal(local.pack(tensor(left, 8), tensor(right, 8)), both)


@pytest.mark.parametrize("bits", NARROW)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("count", [5, 64, 130])
def test_numbers_turned_by_bits(bits, first, count):
    words = drawn(1, -(-count // 64))
    ds = [words[i // 64] >> i % 64 & 1 for i in range(count)]
    q, base = drawn(2, count, bits), drawn(3, count, bits)
    want = [(-x if d else x) + (d if first else 0) for d, x in zip(ds, q, strict=True)]
    assert torch.equal(local.flip(tensor(words), tensor(q, bits), first=first), tensor(want, bits))
    less = tensor([b - w for b, w in zip(base, want, strict=True)], bits)
    assert torch.equal(local.flip(tensor(words), tensor(q, bits), first=first, base=tensor(base, bits)), less)

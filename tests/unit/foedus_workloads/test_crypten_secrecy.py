"""What parties of CrypTen's protocol see, over many sessions: uniform whatever the secret is, alone and in pairs.

At 64 bits randomness cannot be enumerated. So each protocol runs on two very different secrets under 4,096 keys at once
(as elements of one tensor), and of everything that is opened the four lowest and the four highest bits are counted:
each value alone, and the difference and XOR of every two, which a mask that is used twice would make constant. Draws
come from fixed keys, so a result is always the same. A chi-square of 15 degrees of freedom is above 60 once in
four million.
"""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from foedus_workloads.mpc.crypten import truncation
from foedus_workloads.mpc.crypten.beaver import conjunction, matrix_product, multiply, square
from foedus_workloads.mpc.crypten.comparison import negative
from foedus_workloads.mpc.crypten.deals import Streams, square_pair, zero
from foedus_workloads.mpc.crypten.truncation import truncate
from support.crypten_parties import run, split, world

COUNT = 4096
MOST = 60.0
SECRETS = (0, -(2**61) + 12345)


def constant(value, *shape):
    return torch.full(shape or (COUNT,), value)


def opened(operation, secret, parties):
    """Return each value that was opened, a row of COUNT."""
    shares = split(constant(secret), parties, seed=secret % 97)
    result = run(world(parties, seed=5), lambda p: operation(p, shares[p.index]))
    return [row for each in result.opened for row in each.reshape(-1, COUNT)]


def chi_square(values):
    """Return how far four bits at each end of the values are from uniform: the larger of both."""
    worst = 0.0
    for bits in (values & 15, (values >> 60) & 15):
        counts = torch.bincount(bits, minlength=16).double()
        worst = max(worst, float(((counts - values.numel() / 16) ** 2).sum() / (values.numel() / 16)))
    return worst


def skewed(rows):
    """Return the largest chi-square of the rows and of what two of them have to do with each other."""
    pairs = [each for left, right in combinations(rows, 2) for each in (left - right, left ^ right)]
    return max(map(chi_square, [*rows, *pairs]))


PROTOCOLS = {
    "multiply": lambda p, x: multiply(p, x, x),
    "square": square,
    "conjunction": lambda p, x: conjunction(p, x, x),
    "truncate": lambda p, x: truncate(p, x, 16),
    "matrix product": lambda p, x: matrix_product(p, x.reshape(COUNT, 1, 1), x.reshape(COUNT, 1, 1)),
}


@pytest.mark.parametrize("parties", [2, 4])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_is_opened_is_uniform_whatever_the_secret(name, parties):
    for secret in SECRETS:
        assert skewed(opened(PROTOCOLS[name], secret, parties)) < MOST


@pytest.mark.parametrize("secret", SECRETS)
def test_what_a_comparison_opens_is_uniform(secret):
    """Its words hold many elements, so each round is looked at by itself: all words of one opening as one sample."""
    shares = split(constant(secret), 2)
    result = run(world(2, seed=5), lambda p: negative(p, shares[p.index]))
    *words, bits = result.opened
    assert len(words) == 11  # x under its mask, then two factors at each of five levels
    for each in words:
        assert chi_square(each.reshape(-1)) < MOST
    found = torch.cat([(bits >> place) & 1 for place in range(1, 64, 2)]).double().mean()
    assert abs(found - 0.5) < 0.04  # five standard deviations of 4,096 bits
    assert not (bits & 0x5555_5555_5555_5555).any()  # places that are not masked for the last opening are not opened


def test_a_mask_that_is_used_twice_is_noticed(monkeypatch):
    def careless(party, x):
        deal = truncation.cut(tuple(x.shape), 16)
        mask, *_ = party.deals.take(deal)
        for _ in range(2):
            yield truncation.Opening(sums=(x + mask,))
        return x

    assert skewed(opened(careless, SECRETS[1], 2)) > 1000


def test_a_result_reaches_the_client_under_a_fresh_mask():
    zeros = [run(world(3, seed=seed), _zero).shares for seed in range(2)]
    for shares in zeros:
        assert not sum(shares).any()
        assert skewed(list(shares[:2])) < MOST
    assert not any((left == right).any() for left, right in zip(*zeros, strict=True))


def test_no_two_deals_are_drawn_alike():
    streams = Streams(bytes(32))
    first, second = (streams.draw(square_pair((8,)).parts) for _ in range(2))
    assert len({tuple(each.tolist()) for each in (*first, *second)}) == 4


def _zero(party):
    return party.deals.take(zero((COUNT,)))[0]
    yield

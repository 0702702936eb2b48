from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus_contract.errors import InvalidInput
from foedus_workloads.secagg.shamir import PRIME, parse_share, recover, split, zero_weights
from support.secagg_world import keyed_entropy

SECRETS = st.binary(min_size=32, max_size=32)


def rational_weights(xs: tuple[int, ...]) -> list[Fraction]:
    """Lagrange's basis at 0 over the rationals, from its definition."""
    weights = []
    for x in xs:
        weight = Fraction(1)
        for y in xs:
            if y != x:
                weight *= Fraction(0 - y, x - y)
        weights.append(weight)
    return weights


def is_prime(number: int) -> bool:
    """Miller-Rabin with the first twenty primes: an independent look at a published prime."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71):
        power = pow(base, odd, number)
        if power not in (1, number - 1) and all((power := power * power % number) != number - 1 for _ in range(twos)):
            return False
    return True


def test_the_field_is_nist_p521s() -> None:
    # SP 800-186, section 3.2.1.5
    assert int("01ff" + "ff" * 64, 16) == PRIME
    assert is_prime(PRIME)


@given(st.lists(st.integers(1, 2**64), min_size=1, max_size=12, unique=True))
def test_weights_are_the_rational_ones(xs: list[int]) -> None:
    rational = rational_weights(tuple(xs))
    for weight, fraction in zip(zero_weights(tuple(xs)), rational, strict=True):
        assert weight * fraction.denominator % PRIME == fraction.numerator % PRIME


@pytest.mark.parametrize("xs", [(1, 1), (0, 1), (2, PRIME)])
def test_weights_need_distinct_points_without_zero(xs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="distinct"):
        zero_weights(xs)


@given(secret=SECRETS, data=st.data(), seed=st.integers())
def test_any_t_shares_give_the_secret_back(secret: bytes, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, count))
    shares = split(secret, threshold=threshold, count=count, entropy=keyed_entropy(seed))
    chosen = data.draw(st.sets(st.integers(1, count), min_size=threshold))
    assert recover({x: shares[x - 1] for x in chosen}, threshold=threshold) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\x01", b"\x01" + bytes(31)])
def test_the_ends_of_the_range_come_back_from_every_subset(secret: bytes) -> None:
    shares = split(secret, threshold=4, count=6, entropy=keyed_entropy("ends"))
    for chosen in combinations(range(1, 7), 4):
        assert recover({x: shares[x - 1] for x in chosen}, threshold=4) == secret


def test_a_share_is_the_polynomials_value() -> None:
    """With coefficients 2 and 3 drawn, share x is a_0 + 2x + 3x^2, and a_0 starts with the secret."""
    drawn = iter([(2).to_bytes(66, "big"), (3).to_bytes(66, "big")])
    secret = b"k" * 32
    shares = [int.from_bytes(s, "big") for s in split(secret, threshold=3, count=4, entropy=lambda _: next(drawn))]
    constant = shares[0] - 5
    assert constant.to_bytes(64, "big")[:32] == secret
    assert [share - constant for share in shares] == [5, 16, 33, 56]


def test_the_one_value_outside_the_field_is_drawn_again() -> None:
    drawn = iter([b"\xff" * 66, (7).to_bytes(66, "big")])
    shares = split(bytes(32), threshold=2, count=2, entropy=lambda _: next(drawn))
    assert int.from_bytes(shares[1], "big") - int.from_bytes(shares[0], "big") == 7


@given(secret=SECRETS, other=SECRETS, seed=st.integers())
def test_fewer_than_t_shares_fit_every_secret(secret: bytes, other: bytes, seed: int) -> None:
    """For t - 1 shares of one secret there is a polynomial of degree t - 1 through them with any other secret at 0."""
    shares = split(secret, threshold=3, count=5, entropy=keyed_entropy(seed))
    elements = {2: parse_share(shares[1]), 5: parse_share(shares[4])}
    zero = parse_share(split(other, threshold=1, count=1, entropy=keyed_entropy(0))[0])
    points = {0: zero, **elements}
    value = 0
    for x, y in points.items():
        weight = Fraction(1)
        for z in points:
            if z != x:
                weight *= Fraction(3 - z, x - z)
        value += y * weight.numerator * pow(weight.denominator, -1, PRIME)
    third = (value % PRIME).to_bytes(66, "big")
    assert recover({2: shares[1], 3: third, 5: shares[4]}, threshold=3) == other


@settings(max_examples=50)
@given(secret=SECRETS, shift=st.integers(1, PRIME - 1), position=st.integers(1, 3), seed=st.integers())
def test_a_false_share_is_noticed(secret: bytes, shift: int, position: int, seed: int) -> None:
    honest = split(secret, threshold=3, count=3, entropy=keyed_entropy(seed))
    shares = dict(enumerate(honest, start=1))
    shares[position] = ((parse_share(shares[position]) + shift) % PRIME).to_bytes(66, "big")
    with pytest.raises(InvalidInput, match="do not belong to one secret"):
        recover(shares, threshold=3)


def test_shares_of_two_secrets_are_noticed() -> None:
    one = split(b"a" * 32, threshold=2, count=2, entropy=keyed_entropy(1))
    two = split(b"b" * 32, threshold=2, count=2, entropy=keyed_entropy(2))
    with pytest.raises(InvalidInput, match="do not belong to one secret"):
        recover({1: one[0], 2: two[1]}, threshold=2)


def test_too_few_shares_are_refused() -> None:
    shares = split(bytes(32), threshold=3, count=3, entropy=keyed_entropy(0))
    with pytest.raises(InvalidInput, match="2 shares, 3 are needed"):
        recover({1: shares[0], 2: shares[1]}, threshold=3)


@pytest.mark.parametrize("share", [b"", bytes(65), bytes(67), PRIME.to_bytes(66, "big"), b"\xff" * 66])
def test_a_malformed_share_is_refused(share: bytes) -> None:
    with pytest.raises(InvalidInput, match="66 bytes below"):
        parse_share(share)


@pytest.mark.parametrize(
    ("secret", "threshold", "count"), [(bytes(31), 2, 3), (bytes(33), 2, 3), (bytes(32), 0, 3), (bytes(32), 4, 3)]
)
def test_a_split_that_cannot_be_undone_is_refused(secret: bytes, threshold: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"secret|threshold"):
        split(secret, threshold=threshold, count=count, entropy=keyed_entropy(0))

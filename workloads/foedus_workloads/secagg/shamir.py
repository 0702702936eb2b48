"""Shamir's secret sharing of 32-byte secrets over GF(p), p = 2^521 - 1, with a check on what comes back.

p is the Mersenne prime under NIST's curve P-521 (SP 800-186). It leaves room for the secret and for a SHA-256 tag
of it beside it: 64 bytes are below 2^512. Fewer than t shares say nothing about either (Shamir 1979), and a false
share shifts the recovered element by something that depends on the other shares only through public weights, so
hitting another valid pair of secret and tag means predicting SHA-256 on an unknown secret.

Own code because nothing at hand fits: `cryptography` has no secret sharing, PyCryptodome's works on 16-byte blocks
and draws its own randomness, `shamirs` draws its own randomness too, and neither notices a false share.
Python's integers are not constant-time: a process that can time this one is outside the adversary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from foedus_contract.errors import InvalidInput
from foedus_workloads.secagg.effects import Entropy

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66  # ceil(521 / 8)
_TAG_DOMAIN = b"foedus/secagg/shamir/v1"


def split(secret: bytes, *, threshold: int, count: int, entropy: Entropy) -> tuple[bytes, ...]:
    """Return `count` shares of `secret`, share i being the polynomial's value at x = i + 1.

    1. a_0 is secret || tag as a big-endian integer; a_1 .. a_(t-1) are uniform in GF(p).
    2. Share x is a_0 + a_1 x + ... + a_(t-1) x^(t-1) mod p, as 66 bytes big-endian.
    """
    if not 1 <= threshold <= count < PRIME:
        raise ValueError("the threshold must be between 1 and the number of shares")
    coefficients = [_element(secret), *(_uniform(entropy) for _ in range(threshold - 1))]
    return tuple(_evaluate(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in range(1, count + 1))


def recover(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """Return the secret behind `shares` (by x), or raise InvalidInput when they do not belong to one secret.

    1. Take the t lowest x; the secret's element is sum_x share_x * prod_(y != x) y / (y - x) mod p.
    2. Split it into secret and tag; the tag must be the secret's.
    """
    if len(shares) < threshold:
        raise InvalidInput(f"{len(shares)} shares, {threshold} are needed", where="secret sharing")
    xs = sorted(shares)[:threshold]
    weights = zero_weights(tuple(xs))
    value = sum(weight * parse_share(shares[x]) for x, weight in zip(xs, weights, strict=True)) % PRIME
    if value >> (16 * SECRET_BYTES):
        raise InvalidInput("the shares do not belong to one secret", where="secret sharing")
    element = value.to_bytes(2 * SECRET_BYTES, "big")
    secret = element[:SECRET_BYTES]
    if element[SECRET_BYTES:] != _tag(secret):
        raise InvalidInput("the shares do not belong to one secret", where="secret sharing")
    return secret


def parse_share(share: bytes) -> int:
    """Return the field element of a share; raises InvalidInput unless it is 66 bytes below p."""
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise InvalidInput(f"a share must be {SHARE_BYTES} bytes below the field's prime", where="secret sharing")
    return value


def zero_weights(xs: tuple[int, ...]) -> tuple[int, ...]:
    """Return the Lagrange weights at 0 for the distinct, non-zero points `xs`."""
    if len(set(xs)) != len(xs) or any(x % PRIME == 0 for x in xs):
        raise ValueError("the points must be distinct and not zero")
    weights = []
    for x in xs:
        numerator, denominator = 1, 1
        for y in xs:
            if y != x:
                numerator = numerator * y % PRIME
                denominator = denominator * (y - x) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)


def _element(secret: bytes) -> int:
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret must be {SECRET_BYTES} bytes")
    return int.from_bytes(secret + _tag(secret), "big")


def _tag(secret: bytes) -> bytes:
    return hashlib.sha256(_TAG_DOMAIN + secret).digest()


def _uniform(entropy: Entropy) -> int:
    # 521 bits of 528 by masking; the one value p is drawn again, so every element is equally likely.
    while (value := int.from_bytes(entropy(SHARE_BYTES), "big") & PRIME) == PRIME:
        pass
    return value


def _evaluate(coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value

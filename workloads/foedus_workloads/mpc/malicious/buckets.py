"""How many random objects each claim is compared with, and which ones.

n units are claimed, n a prime, at least one of which is a zero that no message has made (filling). Random units that
the parties made in the same way lie in rows of n. Two rows are compared unit by unit, the second one turned by a number
of places that is uniform in 0 to n - 1 and unknown until both were fixed. A comparison fails unless both units are
right, or both are wrong by the same error; so all pass only if the turn takes the set of wrong places of the one row
exactly to that of the other. For sets of g places, 1 <= g < n, at most one of n turns does: two that did would differ
by a turn that takes a set to itself, and as n is prime only the empty set and the whole row have one. That is a
probability of at most 1/n, whatever the sets are and however they were chosen before the turn.

Products: row 0 is compared with c - 1 more rows, then the claims with row 0; all c turns are independent. If a claim is
wrong, then, filling being right, the claims' wrong places are neither none nor all. So the turn towards row 0 has to
fit, row 0's wrong places are neither none nor all, and its c - 1 turns have to fit as well: n^-c in all.
Random bits, which are used as they are: row 0 has the unit of filling and is compared with c more rows: n^-c again.
n is the least prime with n^c >= 2^SECURITY, or a greater one. A unit is several elements where there are many.

That wrong objects must meet wrong ones is the argument of Furukawa et al. (EUROCRYPT 2017) and Araki et al. (S&P 2017),
who shuffle; of rows of prime length turns alone do, and memory is read from front to back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import isqrt

SECURITY = 40  # a false answer has at most this probability, 2^-SECURITY
# For numbers of comparisons c, the least prime n with n^c >= 2^SECURITY; a test counts them anew.
UNITS = {
    2: 1_048_583,
    3: 10_331,
    4: 1_031,
    5: 257,
    6: 103,
    7: 53,
    8: 37,
    9: 23,
    10: 17,
    11: 13,
    12: 11,
    15: 7,
    18: 5,
    26: 3,
}


@dataclass(frozen=True)
class Buckets:
    """`units` of `width` elements, each compared `depth` times."""

    units: int
    width: int
    depth: int

    @property
    def size(self) -> int:
        """Elements of a row, filling included."""
        return self.units * self.width

    @property
    def most(self) -> int:
        """Elements of a row that a unit of filling leaves."""
        return self.size - self.width


@cache
def fit(count: int) -> Buckets:
    """Return the cheapest buckets for `count` elements and at least one unit of filling."""
    return min((_of_depth(count, depth) for depth in UNITS), key=lambda each: each.size * (each.depth + 1))


def _of_depth(count: int, depth: int) -> Buckets:
    width = max(1, count // UNITS[depth])
    return Buckets(_prime(max(UNITS[depth], -(-count // width) + 1)), width, depth)


def _prime(least: int) -> int:
    """Return the least prime from an odd number, or the one after an even one, on."""
    found = least | 1
    while any(found % divisor == 0 for divisor in range(3, isqrt(found) + 1, 2)):
        found += 2
    return found

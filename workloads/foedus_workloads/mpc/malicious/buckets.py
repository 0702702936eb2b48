"""How many random objects each claim is compared with, and in which order.

n units are claimed, at least one of which is a zero that no message has made (filling). Each is compared with B random
units that the parties made in the same way, put into its bucket by a permutation of all n B that was unknown when they
were made. A comparison fails unless both are right or both are wrong by the same error. To pass with g > 0 wrong units,
1 <= g < n, a party must have made exactly g B wrong random ones, and exactly these must fall into the g buckets: of all
C(nB, gB) sets they may be, one does, and C(nB, gB) >= C(nB, B). So B is the smallest with C(nB, B) >= 2^SECURITY (the
combinatorial argument of Furukawa et al., EUROCRYPT 2017, and Araki et al., S&P 2017). A unit is several elements where
there are many.
"""

from __future__ import annotations

from dataclasses import dataclass

SECURITY = 40  # a false answer has at most this probability, 2^-SECURITY
# For depths b, the least n with C(n b, b) >= 2^SECURITY; a test counts them anew.
UNITS = {
    2: 741_456,
    3: 6_252,
    4: 567,
    5: 134,
    6: 52,
    7: 26,
    8: 16,
    9: 11,
    10: 8,
    12: 5,
    16: 3,
}


@dataclass(frozen=True)
class Buckets:
    """`units` of `width` elements, each compared with `depth` random ones."""

    units: int
    width: int
    depth: int

    @property
    def size(self) -> int:
        """Elements that are claimed, filling included."""
        return self.units * self.width


def fit(count: int) -> Buckets:
    """Return the cheapest buckets for `count` claimed elements and at least one unit of filling."""
    widths = ((depth, units, max(1, count // units)) for depth, units in UNITS.items())
    found = (Buckets(max(units, -(-count // width) + 1), width, depth) for depth, units, width in widths)
    return min(found, key=lambda each: each.size * (each.depth + 1))

"""A party, what it holds of a secret, and who does what in a step that is not symmetric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ldexp
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foedus_workloads.mpc.ring import Ring, combination, container, low_bits
from foedus_workloads.mpc.rounds import Expected
from foedus_workloads.mpc.streams import Streams

if TYPE_CHECKING:
    from foedus_workloads.mpc.primitives import Primitives

PARTIES = 3
_WORD = torch.int64


@dataclass(frozen=True)
class Shared:
    """A party's two components of a secret: `own` is x_i, `next` is x_{i+1}.

    Sums and differences of secrets, and products with public integers, are local. Arithmetic unless a function says
    that its words are Boolean, where components add up by XOR.
    """

    own: Tensor = field(repr=False)
    next: Tensor = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the secret."""
        return tuple(self.own.shape)

    def map(self, local: Callable[[Tensor], Tensor]) -> Shared:
        """Return the secret after a linear, local function such as a reshape, on each component."""
        return Shared(local(self.own), local(self.next))

    def columns(self, start: int, stop: int) -> Shared:
        """Return the entries start to stop of the last dimension."""
        return Shared(self.own[..., start:stop], self.next[..., start:stop])

    def __add__(self, other: Shared) -> Shared:
        return Shared(self.own + other.own, self.next + other.next)

    def __sub__(self, other: Shared) -> Shared:
        return Shared(self.own - other.own, self.next - other.next)

    def __neg__(self) -> Shared:
        return Shared(-self.own, -self.next)

    def __mul__(self, public: int | Tensor) -> Shared:
        return Shared(self.own * public, self.next * public)

    def __xor__(self, other: Shared) -> Shared:
        return Shared(self.own ^ other.own, self.next ^ other.next)


@dataclass(frozen=True)
class Summand:
    """A party's summand of a secret, as a product leaves it: a function of its shares that others must not see.

    So it never leaves the party as it is: `arithmetic.reshare` and `truncation.truncate` mask it, each time afresh.
    """

    value: Tensor = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the secret."""
        return tuple(self.value.shape)

    def __add__(self, other: Shared) -> Summand:
        return Summand(self.value + other.own)


@dataclass(frozen=True)
class Roles:
    """Who does what in one step: the dealer's two neighbours are `first`, after it, and `second`, before it.

    first holds components (first, second), second holds (second, dealer), dealer holds (dealer, first).
    """

    dealer: int

    @property
    def first(self) -> int:
        """The party after the dealer."""
        return (self.dealer + 1) % PARTIES

    @property
    def second(self) -> int:
        """The party before the dealer."""
        return (self.dealer + 2) % PARTIES


def _semi_honest() -> Primitives:
    from foedus_workloads.mpc.semi_honest import SEMI_HONEST

    return SEMI_HONEST


@dataclass
class Party:
    """One of the three parties of a session: its number, its ring, its streams and the count of its steps.

    All parties start the same steps in the same order, so a step's number is the same at all of them.
    """

    index: int
    streams: Streams
    ring: Ring = field(default_factory=Ring)
    fraction: int = 16  # bits after the point; 18 gives finer values and less room
    steps: int = 0
    primitives: Primitives = field(default_factory=_semi_honest, repr=False)

    @property
    def following(self) -> int:
        """The next party, whose first component this one holds as its second."""
        return (self.index + 1) % PARTIES

    def begin(self) -> Step:
        """Start a step: a number that no other step of the session has."""
        self.steps += 1
        return Step(self, self.steps - 1)

    def add_public(self, x: Shared, value: int | Tensor) -> Shared:
        """Return x + value."""
        return Shared(x.own + value if self.index == 0 else x.own, x.next + value if self.following == 0 else x.next)

    def combine(self, terms: Sequence[tuple[Shared, int]], constant: int = 0) -> Shared:
        """Return the sum of one or two secrets, each times its public factor, and a public constant."""
        return Shared(
            combination([(x.own, factor) for x, factor in terms], constant if self.index == 0 else 0),
            combination([(x.next, factor) for x, factor in terms], constant if self.following == 0 else 0),
        )

    def encode(self, value: float, bits: int | None = None) -> int:
        """Return the nearest fixed-point integer of a public number, at `bits` bits after the point."""
        return round(ldexp(value, self.fraction if bits is None else bits))


@dataclass(frozen=True)
class Step:
    """One step of the protocol; its draws are bound to its number."""

    party: Party
    number: int

    def roles(self) -> Roles:
        """Return the step's roles; the dealer changes from step to step, so that each party sends as much."""
        return Roles(self.number % PARTIES)

    def draw(self, component: int, slot: int, shape: tuple[int, ...], bits: int | None = None) -> Tensor:
        """Return what the two holders of `component` draw alike, as int64; each slot of a step is drawn once."""
        width = self.party.ring.bits if bits is None else bits
        return self.draw_narrow(component, slot, shape, width).to(_WORD)

    def draw_narrow(self, component: int, slot: int, shape: tuple[int, ...], bits: int) -> Tensor:
        """Return the same in the smallest type that holds `bits` bits."""
        return self.party.streams.draw(component, self.number, slot, bits, shape)


def to_wire(values: Tensor, bits: int) -> Tensor:
    """Return what travels of values mod 2^bits: the smallest integer type that holds them."""
    return low_bits(values, bits).to(container(bits))


def from_wire(values: Tensor, bits: int) -> Tensor:
    """Return the int64 values that arrived."""
    return low_bits(values.to(dtype=_WORD), bits)


def expected(shape: tuple[int, ...], bits: int) -> Expected:
    """Return what the other side of `to_wire` announces."""
    return Expected(container(bits), shape)

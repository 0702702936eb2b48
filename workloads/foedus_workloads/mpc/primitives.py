"""The operations on which layers are built, and which a protocol brings along.

Layers, polynomials and normalisation call these functions; a party's `primitives` say what they do. Protocols differ in
how products are shared, values rounded, signs and bits converted, and in what must be shown of them later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.rounds import Operation

if TYPE_CHECKING:
    from foedus_workloads.mpc.arithmetic import Domain
    from foedus_workloads.mpc.comparison import Words
    from foedus_workloads.mpc.conversion import Pair

Weight = Any
"""The right-hand factor of matrix products, prepared once, as the protocol wants it."""


class Product(Protocol):
    """A product that is not shared yet; sharings can be added to it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the secret."""
        ...

    def __add__(self, other: Shared) -> Product: ...


@dataclass(frozen=True)
class Primitives:
    """A protocol's operations; what each promises stands at the function of its name below."""

    product: Callable[[Party, Shared, Shared], Any]
    square: Callable[[Party, Shared], Any]
    square_sum: Callable[[Party, Shared], Any]
    prepare: Callable[[Shared], Weight]
    matrix_product: Callable[[Party, Shared, Weight], Any]
    reshare: Callable[[Party, Any], Operation[Shared]]
    truncate: Callable[[Party, Any, int], Operation[Shared]]
    multiply: Callable[..., Operation[Shared]]
    carry_words: Callable[[Party, Shared, Any], Operation[tuple[Shared, Shared]]]
    bit_to_arithmetic: Callable[[Party, Shared], Operation[Shared]]
    inject: Callable[[Party, Sequence[Any]], Operation[Shared]]
    pause: Callable[[Party], Operation[None]]


def product(party: Party, x: Shared, y: Shared) -> Product:
    """Return x * y, element by element."""
    made: Product = party.primitives.product(party, x, y)
    return made


def square(party: Party, x: Shared) -> Product:
    """Return x squared, element by element."""
    made: Product = party.primitives.square(party, x)
    return made


def square_sum(party: Party, x: Shared) -> Product:
    """Return the sum of x squared over the last dimension."""
    made: Product = party.primitives.square_sum(party, x)
    return made


def prepare(party: Party, y: Shared) -> Weight:
    """Return `y` as `matrix_product` wants it."""
    return party.primitives.prepare(y)


def matrix_product(party: Party, x: Shared, weight: Weight) -> Product:
    """Return x @ y: [..., m, k] x [..., k, n]."""
    made: Product = party.primitives.matrix_product(party, x, weight)
    return made


def reshare(party: Party, z: Product) -> Operation[Shared]:
    """Return a sharing of a product."""
    return party.primitives.reshare(party, z)


def truncate(party: Party, x: Shared | Product, count: int) -> Operation[Shared]:
    """Return a sharing of x / 2^count, rounded up or down; `count` from 1 to k - 2."""
    return party.primitives.truncate(party, x, count)


def multiply(party: Party, x: Shared, y: Shared, domain: Domain, *, bits: int | None = None) -> Operation[Shared]:
    """Return a sharing of x * y in the domain; `bits` are those of Boolean words, where fewer than the ring's."""
    return party.primitives.multiply(party, x, y, domain, bits=bits)


def carry_words(party: Party, x: Shared, words: Words) -> Operation[tuple[Shared, Shared]]:
    """Return Boolean sharings of where a carry passes and where one arises, when x's components are added up."""
    return party.primitives.carry_words(party, x, words)


def bit_to_arithmetic(party: Party, bit: Shared) -> Operation[Shared]:
    """Return an arithmetic sharing of a Boolean bit."""
    return party.primitives.bit_to_arithmetic(party, bit)


def inject(party: Party, pairs: Sequence[Pair]) -> Operation[Shared]:
    """Return a sharing of the sum of bit * x over the pairs, element by element."""
    return party.primitives.inject(party, pairs)


def pause(party: Party) -> Operation[None]:
    """Do between two steps of a program what the protocol wants to be done now and then."""
    return party.primitives.pause(party)

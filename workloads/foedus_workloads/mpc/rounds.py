"""One round: what is sent, what is expected, and how independent operations share their rounds.

An operation is a generator that yields an `Exchange` and gets the `Received` that answers it. It opens nothing: what
carries the messages is its driver's matter, and rounds and bytes are counted by looking at what it yields.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Payload = tuple[Tensor, ...]


@dataclass(frozen=True)
class Expected:
    """Type and shape of one tensor that the other side will send."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes on the wire."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Exchange:
    """One round of one party: tensors for its neighbours, and what it needs from them before it can go on."""

    to_previous: Payload = field(default=(), repr=False)
    to_next: Payload = field(default=(), repr=False)
    from_previous: tuple[Expected, ...] = ()
    from_next: tuple[Expected, ...] = ()


@dataclass(frozen=True)
class Received:
    """What came in a round, in the order in which it was expected."""

    from_previous: Payload = field(default=(), repr=False)
    from_next: Payload = field(default=(), repr=False)


Operation = Generator[Exchange, Received, T]


def together(operations: Sequence[Operation[T]]) -> Operation[tuple[T, ...]]:
    """Run independent operations in step, one merged exchange a round; returns their results in order.

    All parties give the same operations in the same order, so the merged payloads fit.
    """
    results: dict[int, T] = {}
    running: list[tuple[int, Operation[T], Exchange]] = []
    for index, operation in enumerate(operations):
        _advance(index, operation, None, running, results)
    while running:
        received = yield _merged([exchange for _, _, exchange in running])
        waiting, running = running, []
        parts = _split(received, [exchange for _, _, exchange in waiting])
        for (index, operation, _), part in zip(waiting, parts, strict=True):
            _advance(index, operation, part, running, results)
    return tuple(results[index] for index in range(len(operations)))


def _advance(
    index: int,
    operation: Operation[T],
    received: Received | None,
    running: list[tuple[int, Operation[T], Exchange]],
    results: dict[int, T],
) -> None:
    try:
        exchange = next(operation) if received is None else operation.send(received)
    except StopIteration as end:
        results[index] = end.value
    else:
        running.append((index, operation, exchange))


def _merged(exchanges: Sequence[Exchange]) -> Exchange:
    def joined(name: str) -> tuple[Any, ...]:
        return tuple(item for exchange in exchanges for item in getattr(exchange, name))

    return Exchange(joined("to_previous"), joined("to_next"), joined("from_previous"), joined("from_next"))


def _split(received: Received, exchanges: Sequence[Exchange]) -> Iterator[Received]:
    previous, following = iter(received.from_previous), iter(received.from_next)
    for exchange in exchanges:
        yield Received(
            tuple(next(previous) for _ in exchange.from_previous), tuple(next(following) for _ in exchange.from_next)
        )

"""One round: what all parties open to each other, and how independent operations share their rounds.

An operation is a generator that yields an `Opening` and is resumed with what was opened. It sends nothing itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")
WORD_BYTES = 8


@dataclass(frozen=True)
class Opening:
    """A party's shares of what is opened in one round: of secrets that add up, and of words that XOR.

    Secrets of fewer than 64 bits come in a narrower type, and fill whole words.
    """

    sums: tuple[Tensor, ...] = field(default=(), repr=False)
    words: tuple[Tensor, ...] = field(default=(), repr=False)

    @property
    def size(self) -> int:
        """How many integers of 64 bits it takes."""
        return sum(each.numel() * each.element_size() for each in (*self.sums, *self.words)) // WORD_BYTES


@dataclass(frozen=True)
class Opened:
    """What came out, in the order of the opening."""

    sums: tuple[Tensor, ...] = field(default=(), repr=False)
    words: tuple[Tensor, ...] = field(default=(), repr=False)


Operation = Generator[Opening, Opened, T]


@dataclass
class _Running:
    place: int
    operation: Operation[object]
    opening: Opening


def together(*operations: Operation[T]) -> Operation[tuple[T, ...]]:
    """Run independent operations in step, one merged opening a round; returns their results in order."""
    results: dict[int, T] = {}
    waiting = list(_advanced(((place, each, None) for place, each in enumerate(operations)), results))
    while waiting:
        opened = yield Opening(
            tuple(part for each in waiting for part in each.opening.sums),
            tuple(part for each in waiting for part in each.opening.words),
        )
        answers = zip(waiting, _split(opened, waiting), strict=True)
        waiting = list(_advanced(((each.place, each.operation, answer) for each, answer in answers), results))
    return tuple(results[place] for place in range(len(operations)))


def _advanced(steps: Iterator[tuple[int, Operation, Opened | None]], results: dict[int, T]) -> Iterator[_Running]:  # type: ignore[type-arg]
    for place, operation, answer in steps:
        try:
            opening = next(operation) if answer is None else operation.send(answer)
        except StopIteration as end:
            results[place] = end.value
        else:
            yield _Running(place, operation, opening)


def _split(opened: Opened, waiting: Sequence[_Running]) -> Iterator[Opened]:
    sums, words = iter(opened.sums), iter(opened.words)
    for each in waiting:
        yield Opened(tuple(next(sums) for _ in each.opening.sums), tuple(next(words) for _ in each.opening.words))

"""Products by CrypTen's Beaver protocol, run as it is up to its opening and from there.

CrypTen's functions open in the middle and wait. Here each is run twice: first with a communicator that takes down what
is to be opened and stops it there, and, once that is opened, again with the same dealt values and the result at hand.
The first run ends before anything is changed, so the second is the protocol's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from torch import Tensor
from torch.distributed import ReduceOp

from foedus_workloads.mpc.crypten.deals import Deal, matrix_triple, square_pair, triple, word_triple
from foedus_workloads.mpc.crypten.openings import Opened, Opening, Operation
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.crypten.shims import PROTOCOLS, arithmetic, boolean, one_opening


class _Stopped(Exception):
    """A protocol has come to its opening."""


@dataclass
class _OneOpening:
    """Communicator and provider of one protocol at one party."""

    party: Party
    dealt: tuple[Any, ...] = field(repr=False)
    opening: Opening | None = None
    opened: Opened | None = None

    def get_rank(self) -> int:
        return self.party.index

    def get_world_size(self) -> int:
        return self.party.parties

    def all_reduce(self, values: Any, op: Any = ReduceOp.SUM, *, batched: bool = False) -> Any:
        """Return what was opened; the first time, take the shares down and stop."""
        shares = tuple(values) if batched else (values,)
        words = op == ReduceOp.BXOR
        if self.opened is None:
            self.opening = Opening(words=shares) if words else Opening(sums=shares)
            raise _Stopped
        results = list(self.opened.words if words else self.opened.sums)
        return results if batched else results[0]

    def generate_additive_triple(self, left: Any, right: Any, op: str, *, device: Any = None) -> tuple[Any, ...]:
        return self.dealt

    def square(self, size: Any, *, device: Any = None) -> tuple[Any, ...]:
        return self.dealt

    def generate_binary_triple(self, left: Any, right: Any, *, device: Any = None) -> tuple[Any, ...]:
        return self.dealt

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(f"CrypTen asked for {name}, which no protocol here needs")


def _run(party: Party, deal: Deal, wrap: Callable[[Tensor], Any], protocol: Callable[[], Any]) -> Operation[Tensor]:
    turn = _OneOpening(party, tuple(map(wrap, party.deals.take(deal))))
    try:
        with one_opening(turn, turn):
            protocol()
    except _Stopped:
        assert turn.opening is not None
        turn.opened = yield turn.opening
    with one_opening(turn, turn):
        share: Tensor = protocol().share
    return share


def multiply(party: Party, x: Tensor, y: Tensor) -> Operation[Tensor]:
    """Return the share of x * y, by element and broadcast, without truncation: 1 round."""
    deal = triple(tuple(x.shape), tuple(y.shape))
    return _run(party, deal, arithmetic, lambda: PROTOCOLS.multiply(arithmetic(x), arithmetic(y)))


def square(party: Party, x: Tensor) -> Operation[Tensor]:
    """Return the share of x squared, without truncation: 1 round."""
    return _run(party, square_pair(tuple(x.shape)), arithmetic, lambda: PROTOCOLS.square(arithmetic(x)))


def matrix_product(party: Party, x: Tensor, y: Tensor) -> Operation[Tensor]:
    """Return the share of x @ y, [..., m, k] x [..., k, n], without truncation: 1 round."""
    deal = matrix_triple(tuple(x.shape), tuple(y.shape))
    return _run(party, deal, arithmetic, lambda: PROTOCOLS.matrix_product(arithmetic(x), arithmetic(y)))


def conjunction(party: Party, x: Tensor, y: Tensor) -> Operation[Tensor]:
    """Return the share of the words x AND y, of one shape: 1 round."""
    deal = word_triple(tuple(x.shape))
    return _run(party, deal, boolean, lambda: PROTOCOLS.conjunction(boolean(x), boolean(y)))

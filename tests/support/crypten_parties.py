"""Parties of CrypTen's protocol and their dealer in one process: operations run in step, every opening is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from foedus_workloads.mpc.crypten.deals import CorrectedDeals, Deal, Dealer, DrawnDeals, Masks, Streams
from foedus_workloads.mpc.crypten.openings import Opened, Opening, Operation
from foedus_workloads.mpc.crypten.party import Party


@dataclass
class Run:
    """What came of an operation: each party's share, the rounds, and every integer that was opened or shared."""

    shares: list
    rounds: int = 0
    opened: list[Tensor] = field(default_factory=list)
    size: int = 0  # integers that a party sends each other party

    @property
    def total(self) -> Tensor:
        return sum(self.shares)


def keys(parties: int, seed: int) -> list[bytes]:
    return [bytes([seed, party]) * 16 for party in range(parties)]


class Lockstep:
    """The last party's deals, of which the dealer makes each when it is taken."""

    def __init__(self, dealer: Dealer, streams: Streams) -> None:
        self._dealer, self._deals = dealer, CorrectedDeals(streams)

    def take(self, deal: Deal) -> tuple[Tensor, ...]:
        if deal.following:
            self._deals.feed(torch.cat(self._dealer.corrections(deal)))
        return self._deals.take(deal)


def world(parties: int, *, fraction: int = 16, seed: int = 0, masks: Masks | None = None) -> list[Party]:
    own = keys(parties, seed)
    last = Lockstep(Dealer([Streams(key) for key in own], masks or {}), Streams(own[-1]))
    sources = [*(DrawnDeals(Streams(key)) for key in own[:-1]), last]
    return [Party(index, parties, deals, fraction) for index, deals in enumerate(sources)]


def split(secret: Tensor, parties: int, *, seed: int = 3, words: bool = False) -> list[Tensor]:
    """Share a tensor of integers mod 2^64."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.iinfo(torch.int64)
    others = [torch.randint(full.min, full.max, secret.shape, generator=generator) for _ in range(parties - 1)]
    return [*others, reduce(torch.bitwise_xor if words else torch.sub, others, secret)]


def encoded(values: Tensor, fraction: int = 16) -> Tensor:
    return (values.double() * 2**fraction).round().to(torch.int64)


def decoded(values: Tensor, fraction: int = 16) -> Tensor:
    return values.double() / 2**fraction


def run(parties: Sequence[Party], operation: Callable[[Party], Operation]) -> Run:
    """Run the operation at all parties, one round after the other."""
    running = [operation(party) for party in parties]
    outcome = Run([None] * len(parties))
    opened: Opened | None = None
    while True:
        openings: list[Opening | None] = []
        for index, each in enumerate(running):
            try:
                openings.append(next(each) if opened is None else each.send(opened))
            except StopIteration as end:
                outcome.shares[index] = end.value
                openings.append(None)
        if None in openings:
            assert openings == [None] * len(parties), "parties differ in their rounds"
            return outcome
        outcome.rounds += 1
        outcome.size += openings[0].size
        assert len({each.size for each in openings}) == 1
        sums = zip(*(each.sums for each in openings), strict=True)
        words = zip(*(each.words for each in openings), strict=True)
        opened = Opened(
            tuple(reduce(torch.add, each) for each in sums), tuple(reduce(torch.bitwise_xor, each) for each in words)
        )
        outcome.opened += [*opened.sums, *opened.words]

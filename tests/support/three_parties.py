"""Three parties in one process: their operations run in step, every message is kept, bytes and rounds are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foedus_workloads.mpc.arithmetic import deal, dealt_to
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.ring import Ring, low_bits
from foedus_workloads.mpc.rounds import Exchange, Operation, Payload, Received
from foedus_workloads.mpc.streams import KeyedStreams


@dataclass
class Run:
    """What came of an operation: each party's result, the rounds, and the bytes and messages that each party sent."""

    results: list[Any]
    rounds: int = 0
    sent: list[int] = field(default_factory=lambda: [0, 0, 0])
    seen: list[list[Tensor]] = field(default_factory=lambda: [[], [], []])


def parties(*, bits: int = 64, fraction: int = 16, seed: int = 0) -> list[Party]:
    keys = [bytes([seed, component]) * 16 for component in range(3)]
    return [
        Party(i, KeyedStreams({i: keys[i], (i + 1) % 3: keys[(i + 1) % 3]}), Ring(bits), fraction) for i in range(3)
    ]


WHOLE = Ring()


def shared(secret: Tensor, ring: Ring = WHOLE, seed: int = 7) -> list[Shared]:
    """Share a tensor of ring elements among three parties."""
    dealt = deal(secret, (bytes([seed]) * 32, bytes([seed + 1]) * 32), ring)
    return [dealt_to(party, dealt, ring) for party in range(3)]


def encoded(values: Tensor, fraction: int = 16) -> Tensor:
    scaled: Tensor = values.double() * 2**fraction
    return scaled.round().to(torch.int64)


def revealed(shares: Sequence[Shared], bits: int = 64) -> Tensor:
    """Add the components up, after checking that the two copies of each agree."""
    for i in range(3):
        same = low_bits(shares[i].next - shares[(i + 1) % 3].own, bits)
        assert not same.any(), f"parties {i} and {(i + 1) % 3} hold different components"
    return low_bits(shares[0].own + shares[1].own + shares[2].own, bits)


def revealed_bits(shares: Sequence[Shared]) -> Tensor:
    for i in range(3):
        assert torch.equal(shares[i].next, shares[(i + 1) % 3].own)
    return shares[0].own ^ shares[1].own ^ shares[2].own


def run(world: Sequence[Party], operation: Callable[[Party], Operation[Any]]) -> Run:
    """Run the operation at all parties, one round after the other; every payload must be what is expected."""
    running = [operation(party) for party in world]
    outcome = Run([None] * 3)
    received: list[Received | None] = [None] * 3
    while True:
        exchanges: list[Exchange | None] = []
        for i, each in enumerate(running):
            came = received[i]
            try:
                exchanges.append(next(each) if came is None else each.send(came))
            except StopIteration as end:
                outcome.results[i] = end.value
                exchanges.append(None)
        sent = [exchange for exchange in exchanges if exchange is not None]
        if not sent:
            return outcome
        assert len(sent) == 3, "parties differ in their rounds"
        outcome.rounds += 1
        received = [_delivered(sent, i, outcome) for i in range(3)]


def _delivered(exchanges: Sequence[Exchange], i: int, outcome: Run) -> Received:
    mine = exchanges[i]
    outcome.sent[i] += sum(t.numel() * t.element_size() for t in (*mine.to_previous, *mine.to_next))
    from_previous = exchanges[(i - 1) % 3].to_next
    from_next = exchanges[(i + 1) % 3].to_previous
    for sent, wanted in ((from_previous, mine.from_previous), (from_next, mine.from_next)):
        assert [(t.dtype, tuple(t.shape)) for t in sent] == [(w.dtype, w.shape) for w in wanted]
    outcome.seen[i] += [t.to(torch.int64) for t in (*from_previous, *from_next)]
    return Received(_copied(from_previous), _copied(from_next))


def _copied(payload: Payload) -> Payload:
    return tuple(t.clone() for t in payload)

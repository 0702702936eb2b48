"""A program's rounds before it runs: what is opened in each, and what the dealer deals for it.

Both depend on shapes alone. So the program is run on torch's `meta` device, which has shapes and no content, and what
it draws and opens is written down. Parties, dealer and client make the same plan, and hold each other to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus_workloads.mpc.crypten.deals import Deal, zero
from foedus_workloads.mpc.crypten.execute import PartyWeights, build_weights, run_step
from foedus_workloads.mpc.crypten.openings import WORD_BYTES, Opened, Opening
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.model.plan import Elementwise
from foedus_workloads.mpc.model.program import Linear, Program, Step

ASSUMPTION = (
    "private as long as the dealer puts together what it knows with no party, some party keeps what it knows from the "
    "others, and all follow the protocol; members under one administrator are a demonstration"
)
_META = torch.device("meta")


@dataclass(frozen=True)
class Stage:
    """What happens up to one opening: what is dealt, and how many integers are opened; the last opens none."""

    deals: tuple[Deal, ...] = field(repr=False)
    opened: int

    @property
    def corrections(self) -> int:
        """How many integers the dealer sends for it."""
        return sum(deal.corrections for deal in self.deals)


@dataclass(frozen=True)
class Plan:
    """A program's stages for a number of parties."""

    parties: int
    stages: tuple[Stage, ...]

    @property
    def rounds(self) -> int:
        """How often the parties open something."""
        return len(self.stages) - 1

    @property
    def bytes_sent(self) -> int:
        """What each party sends the others, payloads alone."""
        return (self.parties - 1) * WORD_BYTES * sum(stage.opened for stage in self.stages)

    @property
    def bytes_dealt(self) -> int:
        """What the dealer sends the last party."""
        return WORD_BYTES * sum(stage.corrections for stage in self.stages)


class _Recorder:
    """Deals without content that writes down what is taken, and beside it how much is opened."""

    def __init__(self) -> None:
        self.events: _Events = []

    def take(self, deal: Deal) -> tuple[Tensor, ...]:
        self.events.append(deal)
        return tuple(torch.empty(part.shape, dtype=torch.int64, device=_META) for part in deal.parts)


_Event = Deal | int  # what is dealt, or how many integers are opened
_Events = list[_Event]
_Made = Mapping[str, Tensor]


def plan(program: Program, parties: int) -> Plan:
    """Return the program's stages."""
    with _META, Elementwise():  # constants are without content, too
        weights = build_weights(program, lambda _, shape: torch.empty(shape, dtype=torch.int64))
        values = {secret.name: torch.empty(secret.shape, dtype=torch.int64) for secret in program.inputs}
        # Layers repeat their steps. Only a linear map's deals name something of its own.
        known: dict[str, tuple[_Events, _Made]] = {}
        events: _Events = []
        for step in program.steps:
            key = step.name if isinstance(step, Linear) else str(step)
            if key not in known:
                known[key] = _rehearsed(step, parties, program.fraction, values, weights)
            happened, made = known[key]
            events += happened
            values.update(made)
    return Plan(parties, tuple(_stages([*events, zero(program.output)])))


def _rehearsed(step: Step, parties: int, fraction: int, values: _Made, weights: PartyWeights) -> tuple[_Events, _Made]:
    """Return what a step deals and opens, and the shapes of what it makes."""
    recorder = _Recorder()
    operation = run_step(Party(0, parties, recorder, fraction), step, values, weights)
    opened: Opened | None = None
    while True:
        try:
            opening: Opening = next(operation) if opened is None else operation.send(opened)
        except StopIteration as end:
            return recorder.events, end.value
        recorder.events.append(opening.size)
        opened = Opened(tuple(map(torch.empty_like, opening.sums)), tuple(map(torch.empty_like, opening.words)))


def _stages(events: Sequence[_Event]) -> Iterator[Stage]:
    """Yield what happens between one opening and the next."""
    deals: list[Deal] = []
    for event in events:
        if isinstance(event, Deal):
            deals.append(event)
        else:
            yield Stage(tuple(deals), event)
            deals = []
    yield Stage(tuple(deals), 0)

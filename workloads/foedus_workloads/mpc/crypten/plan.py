"""A program's rounds before it runs: what is opened in each, and what the dealer deals for it.

Both depend on shapes alone. So the program is run on torch's `meta` device, which has shapes and no content, and what
it draws and opens is written down. Parties, dealer and client make the same plan, and hold each other to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus_workloads.mpc.crypten.deals import Deal
from foedus_workloads.mpc.crypten.execute import build_weights, run_steps
from foedus_workloads.mpc.crypten.openings import Opened, Opening
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.model.program import Program

ASSUMPTION = (
    "private as long as the dealer puts together what it knows with no party, some party keeps what it knows from the "
    "others, and all follow the protocol; members under one administrator are a demonstration"
)
_META = torch.device("meta")
_WORD_BYTES = 8


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
        return (self.parties - 1) * _WORD_BYTES * sum(stage.opened for stage in self.stages)

    @property
    def bytes_dealt(self) -> int:
        """What the dealer sends the last party."""
        return _WORD_BYTES * sum(stage.corrections for stage in self.stages)


class _Recorder:
    """Deals without content that writes down what is taken."""

    def __init__(self) -> None:
        self._taken: list[Deal] = []

    def take(self, deal: Deal) -> tuple[Tensor, ...]:
        self._taken.append(deal)
        return tuple(torch.empty(part.shape, dtype=torch.int64, device=_META) for part in deal.parts)

    def since(self) -> tuple[Deal, ...]:
        """Return what was taken since the last call."""
        taken, self._taken = tuple(self._taken), []
        return taken


def plan(program: Program, parties: int) -> Plan:
    """Return the program's stages."""
    recorder, stages = _Recorder(), list[Stage]()
    party = Party(0, parties, recorder, program.fraction)
    with _META:  # constants are without content, too
        weights = build_weights(program, lambda _, shape: torch.empty(shape, dtype=torch.int64))
        values = {secret.name: torch.empty(secret.shape, dtype=torch.int64) for secret in program.inputs}
        operation = run_steps(party, program, weights, values)
        opened: Opened | None = None
        while True:
            try:
                opening: Opening = next(operation) if opened is None else operation.send(opened)
            except StopIteration:
                stages.append(Stage(recorder.since(), 0))
                return Plan(parties, tuple(stages))
            stages.append(Stage(recorder.since(), opening.size))
            opened = Opened(tuple(map(torch.empty_like, opening.sums)), tuple(map(torch.empty_like, opening.words)))

"""CrypTen's scheme: two or more parties and a dealer. Importing it needs CrypTen's package."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from foedus_contract.mpc_wire import DEALER, ProtocolName
from foedus_workloads.inference.task import Start, Task
from foedus_workloads.mpc.crypten.execute import execute, prepare_masks, prepare_weights
from foedus_workloads.mpc.crypten.plan import ASSUMPTION, Plan, plan
from foedus_workloads.mpc.crypten.session import DealerSession, PartySession
from foedus_workloads.mpc.crypten.sharing import Shares, share_input, share_weights, shipped
from foedus_workloads.mpc.model import EmbeddedText, PlainModel, Program
from foedus_workloads.mpc.session import Entropy

Tasks = Callable[[Program], Task]


@dataclass(frozen=True)
class CrypTen:
    """Additive shares among `parties`, with correlated randomness from a dealer."""

    parties: int
    protocol: ProtocolName = "CrypTen"
    assumption: str = ASSUMPTION

    def share_weights(self, model: PlainModel, program: Program, entropy: Entropy) -> Shares:
        """Return what each party and the dealer are sent of a model's weights."""
        return share_weights(model, program, self.parties, entropy)

    def share_input(self, embedded: EmbeddedText, program: Program, entropy: Entropy) -> Shares:
        """Return what each party is sent of a text."""
        return share_input(embedded, program, self.parties, entropy)

    def rounds(self, program: Program) -> int:
        """Return how many rounds the program takes."""
        return self._plan(program).rounds

    def tasks(self, member: int, program: Program, shares: Mapping[str, Tensor]) -> Tasks:
        """Return what a member does for programs of every length."""
        return self._dealers_tasks(program, shares) if member == DEALER else self._tasks(member, program, shares)

    def _tasks(self, party: int, program: Program, shares: Mapping[str, Tensor]) -> Tasks:
        weights = prepare_weights(program, party, self.parties, shares)

        def make(asked: Program) -> Task:
            # What the dealer sends is the last party's to expect.
            rehearsed = self._plan(asked) if party == self.parties - 1 else None

            def begin(start: Start) -> PartySession:
                return PartySession(
                    party,
                    start.terms,
                    rehearsed,
                    lambda at: execute(at, asked, weights, start.inputs),
                    incarnation=start.incarnation,
                )

            return Task(asked.digest, shipped(asked.inputs, party, self.parties), begin)

        return make

    def _dealers_tasks(self, program: Program, shares: Mapping[str, Tensor]) -> Tasks:
        masks = prepare_masks(program, self.parties, shares)

        def make(asked: Program) -> Task:
            rehearsed = self._plan(asked)

            def begin(start: Start) -> DealerSession:
                return DealerSession(
                    start.terms, rehearsed, masks, incarnation=start.incarnation, entropy=start.entropy
                )

            return Task(asked.digest, {}, begin)

        return make

    def _plan(self, program: Program) -> Plan:
        return _plan(program, self.parties)


@functools.lru_cache(8)  # as many lengths as a member keeps programs of
def _plan(program: Program, parties: int) -> Plan:
    return plan(program, parties)

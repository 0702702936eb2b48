"""What protocols differ in: how many take part, how secrets are shared among them, and what each member runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from foedus_contract.errors import InvalidInput
from foedus_contract.mpc_wire import MAX_PARTIES, MIN_PARTIES, PARTIES, ProtocolName
from foedus_workloads.inference.task import Task, checked, replicated
from foedus_workloads.mpc.malicious.record import prepare as prepare_checked
from foedus_workloads.mpc.model import (
    ASSUMPTIONS,
    EmbeddedText,
    PlainModel,
    Program,
    dealt,
    execute,
    plan,
    prepare_weights,
    share_input,
    share_weights,
    shipped,
)
from foedus_workloads.mpc.session import Entropy

Shares = Mapping[int, Mapping[str, Tensor]]  # by member


class Scheme(Protocol):
    """One protocol for one number of parties."""

    @property
    def protocol(self) -> ProtocolName:
        """Its name."""
        ...

    @property
    def parties(self) -> int:
        """How many parties it is for, a dealer not counted."""
        ...

    @property
    def assumption(self) -> str:
        """Under which assumption it is private, as people are told."""
        ...

    def share_weights(self, model: PlainModel, program: Program, entropy: Entropy) -> Shares:
        """Return what each member is sent of a model's weights; raises InvalidInput naming what cannot be shared."""
        ...

    def share_input(self, embedded: EmbeddedText, program: Program, entropy: Entropy) -> Shares:
        """Return what each party is sent of a text."""
        ...

    def rounds(self, program: Program) -> int:
        """Return how many rounds the program takes."""
        ...

    def tasks(self, member: int, program: Program, shares: Mapping[str, Tensor]) -> Callable[[Program], Task]:
        """Return what a member does for programs of every length, with its shares of the weights.

        Raises InvalidInput where they do not fit `program`, which may be of any length.
        """
        ...


class Replicated:
    """Three parties, replicated shares."""

    protocol: ProtocolName = "Replicated3PC"
    parties = PARTIES
    assumption = ASSUMPTIONS["Replicated3PC"]

    def share_weights(self, model: PlainModel, program: Program, entropy: Entropy) -> Shares:
        """Return what each party is sent of a model's weights."""
        return dict(enumerate(share_weights(model, program, entropy)))

    def share_input(self, embedded: EmbeddedText, program: Program, entropy: Entropy) -> Shares:
        """Return what each party is sent of a text."""
        return dict(enumerate(share_input(embedded, program, entropy)))

    def rounds(self, program: Program) -> int:
        """Return how many rounds the program takes, its checks among them."""
        return plan(program, self.protocol).total.rounds

    def tasks(self, member: int, program: Program, shares: Mapping[str, Tensor]) -> Callable[[Program], Task]:
        """Return what a party does for programs of every length."""
        weights = prepare_weights(member, program, shares)

        def make(asked: Program) -> Task:
            run = replicated(member, lambda party, inputs: execute(party, asked, weights, inputs))
            return Task(asked.digest, shipped(asked.inputs, member), run)

        return make


class ReplicatedMalicious(Replicated):
    """Three parties, replicated shares, one of them may deviate."""

    protocol: ProtocolName = "Replicated3PCMalicious"
    assumption = ASSUMPTIONS["Replicated3PCMalicious"]

    def tasks(self, member: int, program: Program, shares: Mapping[str, Tensor]) -> Callable[[Program], Task]:
        """Return what a party does for programs of every length."""
        weights = prepare_weights(member, program, shares, prepare=prepare_checked)

        def make(asked: Program) -> Task:
            run = checked(
                member,
                lambda party, inputs: execute(party, asked, weights, inputs),
                lambda inputs: dealt(member, asked, weights, inputs),
            )
            return Task(asked.digest, shipped(asked.inputs, member), run)

        return make


def find_scheme(protocol: str, parties: int) -> Scheme:
    """Return the scheme; raises InvalidInput for one that there is not, Unavailable where CrypTen is not installed."""
    for scheme in (Replicated(), ReplicatedMalicious()):
        if (protocol, parties) == (scheme.protocol, scheme.parties):
            return scheme
    if protocol == "CrypTen" and MIN_PARTIES <= parties <= MAX_PARTIES:
        from foedus_workloads.inference.crypten import CrypTen

        return CrypTen(parties)
    raise InvalidInput(
        f"there is no {protocol} by {parties} parties",
        where="protocol",
        cure=f"use Replicated3PC or Replicated3PCMalicious by {PARTIES} parties, CrypTen by {MIN_PARTIES} to "
        f"{MAX_PARTIES}",
    )

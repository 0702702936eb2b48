"""What the parties of a session compute together, and how its inputs and outputs travel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus_contract.inference_wire import NamedTensor
from foedus_contract.mpc_wire import SessionTerms
from foedus_workloads.mpc.arithmetic import zero_mask
from foedus_workloads.mpc.malicious.audit import Audit
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.rounds import Expected, Operation
from foedus_workloads.mpc.session import Entropy, MemberSession, Session
from foedus_workloads.mpc.wire import tensor_header

SAME_FILES = "give client and parties the same model files and the same version of Foedus"  # a cure


@dataclass(frozen=True)
class Start:
    """What a member's side of a session begins with."""

    terms: SessionTerms
    inputs: Mapping[str, Tensor] = field(repr=False)
    incarnation: int
    entropy: Entropy


Begin = Callable[[Start], MemberSession[Tensor]]


@dataclass(frozen=True)
class Task:
    """A program for one number of tokens, with what one member holds for it.

    `inputs` says what this member is sent of an input, in order; `begin` makes its side of a session about one.
    """

    digest: str
    inputs: Mapping[str, Expected]
    begin: Begin


Tasks = Callable[[int], Task]  # by the number of tokens; raises InvalidInput for one that the model does not take


def replicated(party: int, run: Callable[[Party, Mapping[str, Tensor]], Operation[Shared]]) -> Begin:
    """Return how a party of the replicated protocol begins a session in which it runs `run` on its inputs."""

    def begin(start: Start) -> Session[Tensor]:
        return Session(
            party,
            start.terms,
            lambda at: to_client(at, run(at, start.inputs)),
            incarnation=start.incarnation,
            entropy=start.entropy,
        )

    return begin


def checked(
    party: int,
    run: Callable[[Party, Mapping[str, Tensor]], Operation[Shared]],
    dealt: Callable[[Mapping[str, Tensor]], Iterable[Shared]],
) -> Begin:
    """Return how a party begins a session in which any other one may deviate.

    `dealt` gives all sharings that others made, weights and input: neighbours compare them first.
    """

    def begin(start: Start) -> Session[Tensor]:
        return Session(
            party,
            start.terms,
            lambda at: checked_to_client(
                Audit(at, start.terms.session, start.entropy), at, dealt(start.inputs), run(at, start.inputs)
            ),
            incarnation=start.incarnation,
            entropy=start.entropy,
        )

    return begin


def checked_to_client(
    audit: Audit, party: Party, dealt: Iterable[Shared], operation: Operation[Shared]
) -> Operation[Tensor]:
    """Run the operation and return both components of a fresh sharing of its result, one above the other.

    Nothing is returned before everything is checked. The client compares each component's two copies.
    """
    yield from audit.agree(party, dealt)
    result = yield from operation
    released = yield from audit.release(party, result)
    return torch.stack([released.own, released.next])


def to_client(party: Party, operation: Operation[Shared]) -> Operation[Tensor]:
    """Run the operation and return this party's summand of the result under a fresh mask.

    The client adds three summands up. Each two of them are uniform, so it learns the sum and nothing of how it came
    about; a party's components themselves would also show it what truncation has drawn.
    """
    result = yield from operation
    return result.own + zero_mask(party.begin(), result.shape)


def named_header(name: str, kind: Expected) -> NamedTensor:
    """Return how a named tensor is announced."""
    return NamedTensor(name=name, **tensor_header(kind).model_dump())

"""What the parties of a session compute together, and how its inputs and outputs travel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foedus_contract.inference_wire import NamedTensor
from foedus_contract.mpc_wire import MpcProtocol
from foedus_workloads.mpc.arithmetic import zero_mask
from foedus_workloads.mpc.malicious.audit import Audit
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.rounds import Expected, Operation
from foedus_workloads.mpc.session import Entropy
from foedus_workloads.mpc.wire import tensor_header

SAME_FILES = "give client and parties the same model files and the same version of Foedus"  # a cure


@dataclass(frozen=True)
class Task:
    """A program for one number of tokens, with the weights that one party holds, under one protocol.

    `inputs` says what this party is sent of an input, in order; `dealt` yields all sharings that others made,
    weights and input, which neighbours compare where a protocol wants that.
    """

    digest: str
    inputs: Mapping[str, Expected]
    run: Callable[[Party, Mapping[str, Tensor]], Operation[Shared]]
    protocol: MpcProtocol = "Replicated3PC"
    dealt: Callable[[Party, Mapping[str, Tensor]], Iterator[Shared]] = lambda _party, _inputs: iter(())


Tasks = Callable[[int], Task]  # by the number of tokens; raises InvalidInput for one that the model does not take


def to_client(
    party: Party, task: Task, inputs: Mapping[str, Tensor], *, session: bytes, entropy: Entropy
) -> Operation[Tensor]:
    """Run the task and return what this party sends the client.

    `Replicated3PC`: its summand of the result under a fresh mask. The client adds three summands up. Each two of them
    are uniform, so it learns the sum and nothing of how it came about; a party's components themselves would also show
    it what truncation has drawn.
    `Replicated3PCMalicious`: both its components of a fresh sharing of the result, one above the other, after
    everything has been checked. The client compares each component's two copies.
    """
    if task.protocol == "Replicated3PC":
        result = yield from task.run(party, inputs)
        return result.own + zero_mask(party.begin(), result.shape)
    audit = Audit(party, session, entropy)
    yield from audit.agree(party, task.dealt(party, inputs))
    result = yield from task.run(party, inputs)
    released = yield from audit.release(party, result)
    return torch.stack([released.own, released.next])


def named_header(name: str, kind: Expected) -> NamedTensor:
    """Return how a named tensor is announced."""
    return NamedTensor(name=name, **tensor_header(kind).model_dump())

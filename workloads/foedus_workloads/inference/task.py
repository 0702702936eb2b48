"""What the parties of a session compute together, and how its inputs and outputs travel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from foedus_contract.inference_wire import NamedTensor
from foedus_workloads.mpc.arithmetic import zero_mask
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.rounds import Expected, Operation
from foedus_workloads.mpc.wire import tensor_header

SAME_FILES = "give client and parties the same model files and the same version of Foedus"  # a cure


@dataclass(frozen=True)
class Task:
    """A program for one number of tokens, with the weights that one party holds.

    `inputs` says what this party is sent of an input, in order.
    """

    digest: str
    inputs: Mapping[str, Expected]
    run: Callable[[Party, Mapping[str, Tensor]], Operation[Shared]]


Tasks = Callable[[int], Task]  # by the number of tokens; raises InvalidInput for one that the model does not take


def to_client(party: Party, task: Task, inputs: Mapping[str, Tensor]) -> Operation[Tensor]:
    """Run the task and return this party's summand of the result under a fresh mask.

    The client adds three summands up. Each two of them are uniform, so it learns the sum and nothing of how it came
    about; a party's components themselves would also show it what truncation has drawn.
    """
    result = yield from task.run(party, inputs)
    return result.own + zero_mask(party.begin(), result.shape)


def named_header(name: str, kind: Expected) -> NamedTensor:
    """Return how a named tensor is announced."""
    return NamedTensor(name=name, **tensor_header(kind).model_dump())

"""What the parties of a session compute together, and how its inputs and outputs travel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ldexp

import numpy as np
import torch
from torch import Tensor

from foedus_contract.inference_wire import NamedTensor
from foedus_contract.mpc_wire import TensorHeader
from foedus_workloads.mpc.arithmetic import zero_mask
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.rounds import Expected, Operation


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


def revealed(summands: Sequence[Tensor], fraction: int) -> list[float]:
    """Return the numbers that the three summands add up to."""
    total = torch.stack(tuple(summands)).sum(0)  # wraps modulo 2^64, as it must
    return [ldexp(value, -fraction) for value in total.reshape(-1).tolist()]


def tensor_header(kind: Expected) -> TensorHeader:
    """Return how a tensor is announced."""
    return TensorHeader.model_validate({"dtype": _name(kind.dtype), "shape": kind.shape})


def named_header(name: str, kind: Expected) -> NamedTensor:
    """Return how a named tensor is announced."""
    return NamedTensor.model_validate({"name": name, "dtype": _name(kind.dtype), "shape": kind.shape})


def buffer(kind: Expected) -> np.ndarray:
    """Return room for a tensor that will come."""
    return np.empty(kind.shape, np.dtype(_name(kind.dtype)))


def bytes_in(room: np.ndarray) -> memoryview:
    """Return the room as bytes to be filled."""
    return room.reshape(-1).view(np.uint8).data


def bytes_of(values: Tensor) -> memoryview:
    """Return what travels of a tensor."""
    return bytes_in(values.contiguous().numpy())


def kind_of(values: Tensor) -> Expected:
    """Return type and shape of a tensor."""
    return Expected(values.dtype, tuple(values.shape))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

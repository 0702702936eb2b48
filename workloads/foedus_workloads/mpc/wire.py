"""How a tensor travels: what announces it, and the bytes that are sent or filled, little endian."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from foedus_contract.mpc_wire import TensorHeader
from foedus_workloads.mpc.rounds import Expected


def kind_of(values: Tensor) -> Expected:
    """Return type and shape of a tensor."""
    return Expected(values.dtype, tuple(values.shape))


@lru_cache(4096)  # a program's rounds repeat a few hundred
def tensor_header(kind: Expected) -> TensorHeader:
    """Return how a tensor is announced."""
    return TensorHeader.model_validate({"dtype": _name(kind.dtype), "shape": kind.shape})


def buffer(kind: Expected) -> np.ndarray:
    """Return room for a tensor that will come."""
    return np.empty(kind.shape, _numpy_type(kind.dtype))


def bytes_in(room: np.ndarray) -> memoryview:
    """Return the room as bytes to be filled."""
    return room.reshape(-1).view(np.uint8).data


def bytes_of(values: Tensor) -> memoryview:
    """Return what travels of a tensor."""
    return bytes_in(values.contiguous().numpy())


@cache
def _numpy_type(dtype: torch.dtype) -> np.dtype[np.generic]:
    return np.dtype(_name(dtype))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

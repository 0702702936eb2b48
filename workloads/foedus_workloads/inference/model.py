"""A model from a checkpoint, as its owner, a client and a party need it: the compiler's parts put together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import PARTIES, SESSION_BYTES, SessionTerms
from foedus_workloads.inference.inquiry import Question
from foedus_workloads.inference.shares import SHARING_BYTES, ShareLabel
from foedus_workloads.inference.task import Task, Tasks, kind_of
from foedus_workloads.mpc.model import (
    Architecture,
    EmbeddedText,
    PlainModel,
    compile_program,
    execute,
    plan,
    read_model,
    share_input,
    share_weights,
)
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.rounds import Expected, Operation

FRACTION = 16
Entropy = Callable[[int], bytes]
_ARCHITECTURE: TypeAdapter[Architecture] = TypeAdapter(Architecture)


def make_tasks(label: ShareLabel, shares: Mapping[str, Tensor]) -> Tasks:
    """Return what a party computes with its shares, by the number of tokens; raises InvalidInput for a bad label."""
    try:
        architecture = _ARCHITECTURE.validate_json(label.architecture)
    except ValidationError:
        what = "the architecture is not one that this version of Foedus knows"
        raise InvalidInput(what, where="shares", cure="share the model again", code=ExitCode.INVALID_MODEL) from None
    return functools.lru_cache(maxsize=8)(lambda tokens: _task(architecture, label.fraction, shares, tokens))

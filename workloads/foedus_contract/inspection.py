"""What an inspecting process found out about a base model: at most 4 KiB, in the termination log.

Everything here is public: the base model is, and every silo's process reads it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from foedus_contract.models import ContractModel, Digest

MAX_MODULES = 16  # linear maps of one layer; at 64 characters each the result stays below 4 KiB
MAX_SIZE = 1 << 24  # rows or columns of one map

ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=64)]
Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]


class InspectedModel(ContractModel):
    """A base model as planning needs to know it.

    `positions` is the longest text in tokens. `modules` names every linear map of one layer by its path inside the
    layer, with its (inputs, outputs).
    """

    digest: Digest
    hidden_size: Size
    layers: Annotated[int, Field(ge=1, le=10_000)]
    positions: Size
    modules: Annotated[dict[ModuleName, tuple[Size, Size]], Field(min_length=1, max_length=MAX_MODULES)]


class Inspection(ContractModel):
    """What came out: the model, or in one line why it cannot be used."""

    model: InspectedModel | None = None
    problem: Annotated[str, Field(max_length=1024)] = ""
    code: int = 0

    @model_validator(mode="after")
    def _says_one_thing(self) -> Inspection:
        if (self.model is None) == (not self.problem):
            raise ValueError("exactly one of model and problem is needed")
        return self

"""The base of every contract model: frozen, unknown fields refused, camelCase outside and snake_case inside."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from foedus_contract import limits
from foedus_contract.errors import InvalidInput

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
DIGEST = r"^sha256:[0-9a-f]{64}$"
DIGEST_SHOWN = 19  # `sha256:` and twelve digits: enough to compare by eye

SiloName = Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=63)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=limits.MAX_LABEL_LENGTH)]
Digest = Annotated[str, StringConstraints(pattern=DIGEST, max_length=71)]


class ContractModel(BaseModel):
    """A frozen record that two processes share; refuses what it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        allow_inf_nan=False,
    )

    def to_json(self) -> bytes:
        """Return the JSON text with camelCase names."""
        return self.model_dump_json(by_alias=True).encode("utf-8")

    @classmethod
    def from_json(cls, text: bytes | str) -> Self:
        """Parse and validate `text`; raises InvalidInput naming the first wrong field."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InvalidInput(first_problem(error), where=cls.__name__) from None


def first_problem(error: ValidationError) -> str:
    """Return the first validation problem as `field.path: what`, without echoing the value (it may be secret)."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    message = re.sub(r"^Value error, ", "", first["msg"])
    return f"{path}: {message}" if path else message

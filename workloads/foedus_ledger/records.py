"""One silo dataset's budget and what jobs have reserved and charged in it, as plain frozen data."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from foedus_contract import limits
from foedus_contract.models import ContractModel, Digest, Label
from foedus_ledger.mechanisms import Mechanism

MAX_EPSILON = 50.0  # beyond it e^ε·δ_gap is no longer negligible beside δ; and such an ε promises nothing
NO_ATTEMPT = -1

JobUid = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.]*$")]


class Account(ContractModel):
    """One job's part of a budget. While Open, all that is reserved counts as spent; once Closed, what was charged.

    `last_attempt` is the highest attempt number charged so far: attempts are charged in rising order, each once.
    """

    mechanism: Mechanism
    reserved: Annotated[int, Field(ge=1, le=limits.MAX_ATTEMPTS)]
    charged: Annotated[int, Field(ge=0)] = 0
    last_attempt: Annotated[int, Field(ge=NO_ATTEMPT, lt=limits.MAX_ATTEMPTS)] = NO_ATTEMPT
    claimant: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    state: Literal["Open", "Closed"] = "Open"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.charged > self.reserved:
            raise ValueError("charged must not exceed reserved")
        if self.charged > self.last_attempt + 1:
            raise ValueError("charged must not exceed the attempts that were made")
        return self

    @property
    def committed(self) -> int:
        """Return how many releases count against the limit."""
        return self.reserved if self.state == "Open" else self.charged


class BudgetSpec(ContractModel):
    """What the holder decided: which data (digest and size), how much, and who decided. Immutable.

    `labels` are all that records may bear, as the holder has made them public; without them no job may use the data.
    `least_colluders` is how many silos, at least, a job has to assume against this one, unless its noise is local.
    """

    digest: Digest
    records: Annotated[int, Field(ge=1, le=limits.MAX_RECORDS)]
    epsilon: Annotated[float, Field(gt=0, le=MAX_EPSILON)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    owner: Annotated[str, StringConstraints(max_length=256)] = ""
    labels: Annotated[tuple[Label, ...], Field(max_length=limits.MAX_LABELS)] = ()
    least_colluders: Annotated[int, Field(ge=0, le=limits.MAX_SILOS)] = 1

    @model_validator(mode="after")
    def _meaningful(self) -> Self:
        if self.delta * self.records >= 1:
            raise ValueError("delta must be below 1/records, else one record in the data may be published outright")
        return self


class BudgetRecord(ContractModel):
    """A budget with all its accounts; `version` rises by one with every change."""

    spec: BudgetSpec
    accounts: dict[JobUid, Account] = Field(default_factory=dict)
    version: Annotated[int, Field(ge=0)] = 0

"""What a pod and the ledger service of its cluster say to each other: HTTPS, JSON bodies, one answer a request.

Who asks, for which job and on which budget is never said: the service finds it from the token of the pod. Answers to
GET BUDGET_PATH and POST CHARGES_PATH are the budget's record; every refusal is a Fault.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from foedus_contract import limits
from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.models import ContractModel

AUDIENCE = "foedus-ledger"  # of the token: whoever else gets it, the API server included, refuses it
BUDGET_PATH = "/v1/budget"
CHARGES_PATH = "/v1/charges"
INCARNATIONS_PATH = "/v1/incarnations"
MAX_REQUEST_BYTES = 1024  # an attempt and a number
MAX_ANSWER_BYTES = 2 * 1024 * 1024  # a record is smaller than its object, and that than etcd's 1.5 MiB
SERVICE_SECONDS = 20.0  # until the service answers, whatever has happened: an API server may be restarting
ANSWER_SECONDS = 30.0  # until a pod gives up: later than the service, so that mostly a fault says why


class ChargeRequest(ContractModel):
    """Charge one release: the attempt, and the noise multiplier that is about to be drawn with."""

    attempt: Annotated[int, Field(ge=0, lt=limits.MAX_ATTEMPTS)]
    noise_multiplier: Annotated[float, Field(gt=0)]


class Incarnation(ContractModel):
    """The answer to a claim: which start of its role the pod is, counted from 0."""

    incarnation: Annotated[int, Field(ge=0)]


class Fault(ContractModel):
    """Why a request was refused or came to nothing, with the exit code that says whether to try again."""

    code: ExitCode
    what: Annotated[str, Field(max_length=1024)]
    where: Annotated[str, Field(max_length=512)] = ""
    cure: Annotated[str, Field(max_length=512)] = ""

    @classmethod
    def of(cls, error: FoedusError) -> Fault:
        """Return what is told of an error."""
        return cls(code=error.code, what=error.what[:1024], where=error.where[:512], cure=error.cure[:512])

    def error(self) -> FoedusError:
        """Return the error as the one who asked raises it."""
        kind = Unavailable if self.code.retryable else _INPUT.get(self.code, Refused)
        return kind(self.what, where=self.where, cure=self.cure, code=self.code)


_INPUT: dict[ExitCode, type[FoedusError]] = {ExitCode.INVALID_SPEC: InvalidInput}

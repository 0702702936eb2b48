"""Messages between a client of a private inference and each of its members: the parties, and the dealer if it has one.

On the wire: `uint32 header length (big endian) || header || payload`, as between parties. The header is a message of
this module as JSON; payloads of Input and Output are their tensors, little endian, one after the other. The order:

client to party   Open
party to client   Ready, or Failure and the end
client to party   Input, once all are ready for the same terms; to the dealer one without tensors
party to client   Computing, any number of times; then Output, or Failure
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from foedus_contract import limits
from foedus_contract.errors import InvalidInput
from foedus_contract.models import ContractModel, Digest, first_problem
from foedus_contract.mpc_wire import PartyIndex, SessionId, SessionTerms, TensorHeader

INFERENCE_PROTOCOL_VERSION = 1
MAX_WORDS = 1024  # letters of a failure: an error is one line

Count = Annotated[int, Field(ge=0, lt=2**31)]


class Open(ContractModel):
    """A client asks for a session: what it will be about, and nothing of the text but how many tokens are computed."""

    kind: Literal["Open"] = "Open"
    version: int = INFERENCE_PROTOCOL_VERSION
    tokens: Annotated[int, Field(ge=1, le=limits.MAX_TOKENS)]
    model_digest: Digest  # of the model in the clear; the terms name how it was shared
    terms: SessionTerms


class Ready(ContractModel):
    """A party would compute exactly this; the digest of the terms is of its own making."""

    kind: Literal["Ready"] = "Ready"
    party: PartyIndex
    incarnation: Annotated[int, Field(ge=0, lt=2**63)]
    terms_digest: Digest


class NamedTensor(TensorHeader):
    """Name, type and shape of one tensor of a payload."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Input(ContractModel):
    """A party's shares of the input."""

    kind: Literal["Input"] = "Input"
    session: SessionId
    tensors: Annotated[tuple[NamedTensor, ...], Field(max_length=limits.MAX_INPUT_TENSORS)]


class Computing(ContractModel):
    """How many rounds have begun; each report says more than the one before."""

    kind: Literal["Computing"] = "Computing"
    session: SessionId
    rounds: Count


class Output(ContractModel):
    """A party's summand of the result, under a mask that cancels in the sum of all; the dealer's is empty."""

    kind: Literal["Output"] = "Output"
    session: SessionId
    tensor: TensorHeader
    rounds: Count
    bytes_sent: Annotated[int, Field(ge=0, lt=2**63)]


class Failure(ContractModel):
    """Why a party ends the session, and which party it takes for the cause: itself, or a neighbour that failed it."""

    kind: Literal["Failure"] = "Failure"
    blames: PartyIndex
    code: Annotated[int, Field(ge=1, le=255)]
    message: Annotated[str, StringConstraints(max_length=MAX_WORDS)]


PartyMessage = Ready | Computing | Output | Failure
_FROM_PARTY: TypeAdapter[PartyMessage] = TypeAdapter(Annotated[PartyMessage, Field(discriminator="kind")])


def parse_party_message(text: bytes) -> PartyMessage:
    """Parse what a party sent; raises InvalidInput naming the first wrong field."""
    try:
        return _FROM_PARTY.validate_json(text)
    except ValidationError as error:
        raise InvalidInput(first_problem(error), where="message") from None

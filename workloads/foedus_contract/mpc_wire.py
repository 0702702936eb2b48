"""Messages between the members of a private inference: a greeting, then one message a round.

On the wire: `uint32 header length (big endian) || header || payload`. The header is a message of this module as JSON.
The payload of a Hello is a key of 32 bytes where the receiver is dealt one, that of a Round its tensors, little endian,
one after the other.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foedus_contract import limits
from foedus_contract.canonical import digest
from foedus_contract.models import ContractModel, Digest

MPC_PROTOCOL_VERSION = 1
SESSION_BYTES = 16
PARTIES = 3  # of the replicated protocol
MIN_PARTIES, MAX_PARTIES = 2, 4  # of CrypTen's
DEALER = MAX_PARTIES  # the dealer's number among the members of a session: after every party's

PartyIndex = Annotated[int, Field(ge=0, le=DEALER)]
PartyCount = Annotated[int, Field(ge=MIN_PARTIES, le=MAX_PARTIES)]
ProtocolName = Literal["Replicated3PC", "Replicated3PCMalicious", "CrypTen"]
SessionId = Annotated[bytes, Field(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]


def member_name(member: int) -> str:
    """Return how people are told of a member: `party 0`, or `dealer`."""
    return "dealer" if member == DEALER else f"party {member}"


def members(protocol: ProtocolName, parties: int) -> tuple[int, ...]:
    """Return the numbers of all who take part in a session, the parties first."""
    return (*range(parties), *((DEALER,) if protocol == "CrypTen" else ()))


class SessionTerms(ContractModel):
    """What the members must agree on before anything secret is sent; its digest is in every Hello."""

    session: SessionId
    protocol: ProtocolName = "Replicated3PC"
    parties: PartyCount = PARTIES
    model_digest: Digest
    program_digest: Digest
    fraction: Annotated[int, Field(ge=8, le=20)]

    @property
    def digest(self) -> str:
        """What every greeting, and every answer to a client, holds of the terms."""
        return digest("foedus/mpc/terms", self.model_dump())


class Hello(ContractModel):
    """The first message to each other member."""

    kind: Literal["Hello"] = "Hello"
    version: int = MPC_PROTOCOL_VERSION
    party: PartyIndex
    incarnation: Annotated[int, Field(ge=0, lt=2**63)]
    terms_digest: Digest


class TensorHeader(ContractModel):
    """Type and shape of one tensor of a payload."""

    dtype: Literal["int8", "int16", "int32", "int64"]
    shape: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=8)]


class Round(ContractModel):
    """All that a party sends another one in a round; rounds of a session count from 0 and none comes twice."""

    kind: Literal["Round"] = "Round"
    session: SessionId
    number: Annotated[int, Field(ge=0, lt=2**31)]
    tensors: Annotated[tuple[TensorHeader, ...], Field(max_length=limits.MAX_ROUND_TENSORS)]

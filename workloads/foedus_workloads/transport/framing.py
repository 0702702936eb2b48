"""Reading one frame from a body without ever holding more than its kind allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from foedus_contract import limits
from foedus_contract.errors import InvalidInput
from foedus_contract.wire import MaskedVector, Message, Offer, StartAttempt, decode_frame

ReadExactly = Callable[[int], Awaitable[bytes]]

PATH = "/v1/messages"
SESSION_HEADER = "Foedus-Session"  # names one process's connection; made anew at every Join
INCARNATION_HEADER = "Foedus-Incarnation"
SEQUENCE_HEADER = "Foedus-Sequence"  # of the frame in this body; 0 is the Join
ACKNOWLEDGE_HEADER = "Foedus-Acknowledge"  # the last frame the silo has got
COORDINATOR_HEADER = "Foedus-Coordinator"  # in every answer: which start of the coordinator gives it


class TooLarge(InvalidInput):
    """The body is larger than its kind may be; nothing beyond the bound was read."""


async def read_frame(read: ReadExactly, length: int, *, payload_limit: int) -> tuple[Message, bytes]:
    """Read one frame of `length` bytes; the payload is read only after its header has allowed it.

    Raises TooLarge when the announced length or the payload passes its bound, InvalidInput when malformed.
    """
    if length > 4 + limits.MAX_HEADER_BYTES + payload_limit:
        raise TooLarge("the body is too large", where="frame")
    if length < 4:
        raise InvalidInput("the body is too short", where="frame")
    prefix = await read(4)
    header_length = int.from_bytes(prefix, "big")
    if header_length > min(limits.MAX_HEADER_BYTES, length - 4):
        raise InvalidInput("the header length is wrong", where="frame")
    message, _ = decode_frame(prefix + await read(header_length))
    payload_length = length - 4 - header_length
    check_payload(message, payload_length, payload_limit=payload_limit)
    return message, await read(payload_length) if payload_length else b""


def check_payload(message: Message, length: int, *, payload_limit: int) -> None:
    """Raise unless `message` may carry a payload of `length` bytes: a vector, an adapter, or none."""
    if length > payload_limit:
        raise TooLarge("the payload is too large", where=message.kind)
    if isinstance(message, MaskedVector):
        if length != 4 * message.coordinates:
            raise InvalidInput("the payload is not one uint32 a coordinate", where=message.kind)
    elif length and not _carries_adapter(message):
        raise InvalidInput("this kind carries no payload", where=message.kind)


def _carries_adapter(message: Message) -> bool:
    return isinstance(message, StartAttempt) or (isinstance(message, Offer) and message.broadcast is not None)

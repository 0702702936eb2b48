"""How frames cross the simulated network: as they are, or, in exact worlds, through production's encoding."""

from __future__ import annotations

from typing import Any

from foedus_contract.wire import Message, decode_frame, encode_frame

exact = True


def encode(message: Message, payload: bytes) -> Any:
    """Return the frame."""
    return encode_frame(message, payload) if exact else (message, payload)


def decode(frame: Any) -> tuple[Message, bytes]:
    """Return what `encode` was given."""
    return decode_frame(frame) if exact else frame

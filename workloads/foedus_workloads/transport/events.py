"""What the coordinator's transport tells its driver."""

from __future__ import annotations

from dataclasses import dataclass

from foedus_contract.wire import Join, SiloMessage


@dataclass(frozen=True)
class Joined:
    """A silo has opened a session."""

    silo: str
    join: Join


@dataclass(frozen=True)
class Received:
    """A silo's message, once and in order; its sender is who the certificate says."""

    silo: str
    message: SiloMessage
    payload: bytes


@dataclass(frozen=True)
class Lost:
    """A silo's session has ended: it left, fell silent, or a newer process took its place."""

    silo: str


TransportEvent = Joined | Received | Lost

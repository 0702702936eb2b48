"""Where the members of a call run: at which addresses they are found, and what puts a process there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from foedus_engine.cluster.endpoints import LOOPBACK, find_free_port

Addresses = Mapping[int, tuple[str, int]]  # host and port, by member


class Places(Protocol):
    """Places on this machine for the members of one call."""

    async def addresses(self, members: Collection[int]) -> Addresses:
        """Return where each member listens, and is found by the others and by this process."""
        ...

    def entering(self, member: int) -> tuple[str, ...]:
        """Return the command that runs what is written behind it where the member is."""
        ...


class Loopback:
    """All are where this process is, on free ports of the loopback address."""

    async def addresses(self, members: Collection[int]) -> Addresses:
        """Return the loopback address with a free port for each."""
        ports: dict[int, int] = {}
        for member in members:
            ports[member] = await find_free_port(set(ports.values()))
        return {member: (LOOPBACK, port) for member, port in ports.items()}

    def entering(self, member: int) -> tuple[str, ...]:
        """Return nothing: a process is there already."""
        return ()

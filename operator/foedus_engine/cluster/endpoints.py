"""Services as loopback ports: one file says which port stands for which Service, the same after a restart.

The engine only looks for free ports, it serves nothing: the process behind a Service listens itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from foedus_contract.durable import write_durably
from foedus_engine.cluster.protocol import Object
from foedus_engine.cluster.records import PortRecords

LOOPBACK = "127.0.0.1"


class Endpoints:
    """Keeps the ports and the endpoints file in step with the Services."""

    def __init__(self, path: Path, records: PortRecords) -> None:
        self.path = path
        self._records = records
        self._lock = asyncio.Lock()

    async def sync(self, services: Sequence[Object], *, probe: bool = False) -> None:
        """Give each port of each Service a loopback port and write the file.

        With `probe`, a port that another program has taken meanwhile is exchanged; so use it only while no process
        of this engine listens.
        """
        async with self._lock:
            known = self._records.all()
            ports: dict[tuple[str, str, int], int] = {}
            for key in _wanted(services):
                kept = known.get(key)
                if kept is None or (probe and not await _is_free(kept)):
                    kept = await find_free_port({*known.values(), *ports.values()})
                ports[key] = kept
            if ports != known:
                self._records.replace(ports)
            self._write(ports)

    async def exchange(self, namespace: str, names: Sequence[str], services: Sequence[Object]) -> None:
        """Give the named Services other ports: something else listens on theirs."""
        gone = {(namespace, name) for name in names}
        async with self._lock:
            kept = {key: port for key, port in self._records.all().items() if key[:2] not in gone}
            self._records.replace(kept)
        await self.sync(services)

    def _write(self, ports: dict[tuple[str, str, int], int]) -> None:
        # Both spellings of a Service's name resolve, as in a cluster.
        lines = {
            f"{service}.{namespace}{suffix}:{port}": f"{LOOPBACK}:{host_port}"
            for (namespace, service, port), host_port in ports.items()
            for suffix in ("", ".svc")
        }
        write_durably(self.path, json.dumps(lines, indent=1).encode("utf-8"))


async def find_free_port(taken: set[int]) -> int:
    """Return a loopback port that nothing listens on and that is not in `taken`."""
    while True:
        port = await _listen(0)
        if port not in taken:
            return port


async def _is_free(port: int) -> bool:
    try:
        await _listen(port)
    except OSError:
        return False
    return True


async def _listen(port: int) -> int:
    """Bind the port for a moment and return its number; raises OSError when it is taken."""
    server = await asyncio.start_server(_hang_up, LOOPBACK, port)
    number = int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()
    return number


def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def _wanted(services: Sequence[Object]) -> list[tuple[str, str, int]]:
    return [
        (service["metadata"]["namespace"], service["metadata"]["name"], port["port"])
        for service in services
        for port in service["spec"].get("ports", ())
    ]

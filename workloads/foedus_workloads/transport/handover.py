"""Hands a folder's files over to whoever can reach this pod's loopback interface.

`python -m foedus_workloads.transport.handover FOLDER [NAME…]`. Nothing listens on the pod's network: the only way in is
the API server's port-forward, which is a right of its own in the pod's namespace, and TLS all the way to the node. So
there is neither a certificate nor a token here. It takes no request; it sends what `foedus_contract.delivery` says and
waits until the peer has hung up.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from foedus_contract.delivery import BLOCK_BYTES, HANDOVER_PORT, Delivery, describe_folder
from foedus_contract.errors import FoedusError
from foedus_contract.exit_codes import ExitCode

LOOPBACK = "127.0.0.1"
SECONDS = 600.0  # one handover may take this long


def main() -> None:
    """Hand over until told to end; say in one line why it cannot be done."""
    parser = argparse.ArgumentParser(prog="foedus_workloads.transport.handover", description="Hand a folder over.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    try:
        delivery = describe_folder(arguments.folder, arguments.names)
        asyncio.run(serve(arguments.folder, delivery, HANDOVER_PORT))
    except FoedusError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(int(error.code))
    except asyncio.CancelledError:
        sys.exit(int(ExitCode.OK))


async def serve(folder: Path, delivery: Delivery, port: int) -> None:
    """Answer every connection with the delivery, until SIGTERM."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(SECONDS):
                await hand_over(folder, delivery, reader, writer)
        writer.close()

    async with await asyncio.start_server(answer, LOOPBACK, port) as server:
        await server.serve_forever()


async def hand_over(
    folder: Path, delivery: Delivery, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send the delivery, and wait for the peer's end: one who closes first may take what is under way along."""
    writer.write(delivery.to_json() + b"\n")
    for file in delivery.files:
        for block in _blocks(folder / file.name, file.size):
            writer.write(block)
            await writer.drain()
    while await reader.read(BLOCK_BYTES):
        pass


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of the file: a log may grow meanwhile."""
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(BLOCK_BYTES, size))):
            size -= len(block)
            yield block


if __name__ == "__main__":
    main()

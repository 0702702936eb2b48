"""The bytes of one forwarded port, and a delivery out of them.

The API server forwards over `v4.channel.k8s.io`: of the one port that was asked for, channel 0 carries data and
channel 1 says what went wrong. The first message of each bears the port's number, two bytes, little-endian.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from foedus_contract.delivery import MAX_HEADER_BYTES, DeliveredFile, Delivery
from foedus_contract.errors import InvalidInput, Unavailable

DATA, ERROR = 0, 1
PORT_BYTES = 2
SILENCE_SECONDS = 60.0  # of a peer that only reads a file and sends it
MAX_ERROR = 512

Messages = AsyncIterator[bytes]
Said = Callable[[int, int], None]  # bytes so far, of all


class NotListening(Unavailable):
    """Nothing answers on the port yet."""


class ForwardedPort:
    """The data of a forwarded port, in order, from the messages of its channels."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._greeted: set[int] = set()
        self._held = bytearray()

    async def line(self, most: int) -> bytes:
        """Return what comes before the next line feed; raises InvalidInput when that is longer than `most`."""
        while (end := self._held.find(b"\n")) < 0:
            if len(self._held) > most:
                raise InvalidInput("what comes is no delivery", where="handover")
            self._held += await self._next()
        found = bytes(self._held[:end])
        del self._held[: end + 1]
        return found

    async def block(self, most: int) -> bytes:
        """Return the next bytes, at least one and at most so many; raises Unavailable when none come."""
        while not self._held:
            self._held += await self._next()
        found = bytes(self._held[:most])
        del self._held[:most]
        return found

    async def _next(self) -> bytes:
        """Return the data of the next message, which may be empty."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                message = await anext(self._messages)
        except (StopAsyncIteration, TimeoutError):
            raise Unavailable("the connection ended half way", where="handover", cure="try again") from None
        channel, content = message[0] if message else DATA, message[1:]
        if channel not in self._greeted:
            self._greeted.add(channel)
            content = content[PORT_BYTES:]
        if channel == ERROR and content:
            raise NotListening(content.decode("utf-8", "replace")[:MAX_ERROR], where="handover", cure="try again")
        return content if channel == DATA else b""


async def receive(port: ForwardedPort, folder: Path, *, expected: str, said: Said) -> Delivery:
    """Write the files of a delivery into `folder`, and return it.

    `expected` is the digest that it must have, empty when nobody has named one: the files still are what the delivery
    says. Raises InvalidInput when it is another one, Unavailable when it ends early.
    """
    delivery = Delivery.from_json(await port.line(MAX_HEADER_BYTES))
    if expected and delivery.digest() != expected:
        cure = "somebody may have changed the volume: do not use the files, and ask who could write there"
        raise InvalidInput("the files are not those that the job's result names", where="adapter", cure=cure)
    whole, done = sum(file.size for file in delivery.files), 0
    for file in delivery.files:
        with (folder / file.name).open("xb") as out:
            found = hashlib.sha256()
            left = file.size
            while left > 0:
                block = await port.block(left)
                found.update(block)
                await _write(out.write, block, folder)
                left, done = left - len(block), done + len(block)
                said(done, whole)
        _check(file, f"sha256:{found.hexdigest()}")
    return delivery


async def _write(write: Callable[[bytes], int], block: bytes, folder: Path) -> None:
    try:
        await asyncio.to_thread(write, block)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        cure = "choose another folder with --out"
        raise Unavailable(f"cannot be written ({reason})", where=str(folder), cure=cure) from None


def _check(file: DeliveredFile, found: str) -> None:
    if found != file.digest:
        raise InvalidInput("changed on its way", where=file.name, cure="try again")

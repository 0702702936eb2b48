"""A folder is handed over on the loopback interface, whole, to whoever connects."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from foedus.cluster.stream import ForwardedPort, receive
from foedus_contract.delivery import describe_folder
from foedus_workloads.transport.handover import LOOPBACK, hand_over

FILES = {"README.md": b"card", "adapter_model.safetensors": bytes(range(256)) * 4000}


async def test_what_is_handed_over_is_what_lies_there(tmp_path: Path) -> None:
    source, got = tmp_path / "source", tmp_path / "got"
    source.mkdir()
    for name, content in FILES.items():
        (source / name).write_bytes(content)
    delivery = describe_folder(source)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hand_over(source, delivery, reader, writer)
        writer.close()

    async with await asyncio.start_server(answer, LOOPBACK, 0) as server:
        number = server.sockets[0].getsockname()[1]
        for folder in (got / "one", got / "two"):
            folder.mkdir(parents=True)
            async with aclosing(framed(number)) as messages:
                await receive(ForwardedPort(messages), folder, expected=delivery.digest(), said=lambda *_: None)
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


async def framed(number: int) -> AsyncGenerator[bytes, None]:
    """Yield what the port says as the API server frames it."""
    yield b"\0" + number.to_bytes(2, "little")
    reader, writer = await asyncio.open_connection(LOOPBACK, number)
    try:
        while block := await reader.read(10_000):
            yield b"\0" + block
    finally:
        writer.close()
        await writer.wait_closed()


def test_a_pod_without_the_folder_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "foedus_workloads.transport.handover", str(tmp_path / "adapter")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 40
    assert done.stderr == f"{tmp_path / 'adapter'}: cannot be read (No such file or directory)\n"


def test_nothing_listens_on_the_pods_network() -> None:
    assert socket.inet_aton(LOOPBACK)[0] == 127

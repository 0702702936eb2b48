"""A delivery out of a forwarded port, as the API server's protocol frames it: nothing false is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from foedus.cluster import stream
from foedus.cluster.stream import ForwardedPort, NotListening, receive
from foedus_contract.canonical import bytes_digest
from foedus_contract.delivery import MAX_HEADER_BYTES, DeliveredFile, Delivery
from foedus_contract.errors import FoedusError, InvalidInput, Unavailable

CONTENTS = {"a.bin": b"first", "b.bin": b"", "c.bin": bytes(range(256)) * 300}
DELIVERY = Delivery(
    files=tuple(
        DeliveredFile(name=name, size=len(content), digest=bytes_digest(content)) for name, content in CONTENTS.items()
    )
)
WIRE = DELIVERY.to_json() + b"\n" + b"".join(CONTENTS.values())
GREETINGS = [b"\0\xfc\x20", b"\1\xfc\x20"]  # port 8444 on each channel


def port(data: Sequence[bytes], *, then: Sequence[bytes] = ()) -> ForwardedPort:
    async def messages() -> AsyncIterator[bytes]:
        for message in (*GREETINGS, *(b"\0" + part for part in data), *then):
            yield message

    return ForwardedPort(messages())


async def fetch(folder: Path, where: ForwardedPort, expected: str = "") -> dict[str, bytes]:
    await receive(where, folder, expected=expected, said=lambda _done, _whole: None)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("size", [1, 7, 4096, len(WIRE)])
async def test_files_come_as_they_were_however_they_are_cut(tmp_path: Path, size: int) -> None:
    parts = [WIRE[start : start + size] for start in range(0, len(WIRE), size)]
    assert await fetch(tmp_path, port([*parts, b"what follows does not count"]), DELIVERY.digest()) == CONTENTS


async def test_how_far_it_is_is_said(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    await receive(port([WIRE]), tmp_path, expected="", said=lambda done, whole: told.append((done, whole)))
    assert told[-1] == (5 + 0 + 76_800, 76_805)


@pytest.mark.parametrize(
    ("data", "want", "match"),
    [
        ([WIRE[:-1]], Unavailable, "ended half way"),
        ([WIRE[:10]], Unavailable, "ended half way"),
        ([WIRE[:-1] + b"x"], InvalidInput, r"c\.bin: changed on its way"),
        ([b"x" * (MAX_HEADER_BYTES + 1)] * 2, InvalidInput, "no delivery"),
        ([b"HTTP/1.1 200 OK\r\n\r\n"], InvalidInput, "Delivery"),
        ([json.dumps({"files": [{"name": "../a", "size": 0, "digest": bytes_digest(b"")}]}).encode() + b"\n"],
         InvalidInput, "Delivery"),
    ],
    ids=["cut", "header cut", "changed", "endless header", "another server", "a path"],
)  # fmt: skip
async def test_what_is_not_the_delivery_is_refused(
    tmp_path: Path, data: list[bytes], want: type[FoedusError], match: str
) -> None:
    with pytest.raises(want, match=match):
        await fetch(tmp_path, port(data))


async def test_files_that_the_result_does_not_name_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not those that the job's result names"):
        await fetch(tmp_path, port([WIRE]), "sha256:" + "0" * 64)
    assert list(tmp_path.iterdir()) == []


async def test_a_port_on_which_nothing_listens_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotListening, match="connection refused"):
        await fetch(tmp_path, port([], then=[b"\1dial tcp4 127.0.0.1:8444: connect: connection refused"]))


async def test_a_peer_that_falls_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SILENCE_SECONDS", 0.05)

    async def silent() -> AsyncIterator[bytes]:
        yield GREETINGS[0]
        await asyncio.Event().wait()

    with pytest.raises(Unavailable, match="ended half way"):
        await fetch(tmp_path, ForwardedPort(silent()))

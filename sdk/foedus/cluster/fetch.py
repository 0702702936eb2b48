"""Fetches what a claim holds, through a pod that is made for it and deleted afterwards.

1. The pod mounts the claim, read-only, and offers the files on its loopback interface.
2. The API server's port-forward leads there.
3. What comes is checked against the digests that it names, and against the one that the job's result names.

Whoever may make pods in the namespace and forward their ports may do this, which is also who could mount the claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from foedus.cluster.stream import ForwardedPort, NotListening, receive
from foedus.plain import one_line
from foedus_contract.delivery import HANDOVER_PORT, Delivery
from foedus_contract.errors import FoedusError, Unavailable
from foedus_engine.build.pods import CONTAINER
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.plan import Manifest, ObjectKey, key_of
from foedus_engine.decide.pod_state import has_started, trouble_of_pod

if TYPE_CHECKING:
    import aiohttp

    from foedus.cluster.session import Session

LOOK_SECONDS = 0.5
START_SECONDS = 300.0  # a node may have to fetch the image, of a gigabyte or more
LISTEN_SECONDS = 60.0  # the pod hashes the files before it offers them

Note = Callable[[str], None]


async def fetch(session: Session, pod: Manifest, folder: Path, *, expected: str, note: Note) -> Delivery:
    """Make the pod, write what it hands over into `folder`, and delete it again; return what came.

    `expected` is the digest of the delivery, empty when nobody has named one.
    """
    key = key_of(pod)
    await session.create(pod)
    try:
        await _until_started(session, key, note)
        return await _receive(session, key, folder, expected, note)
    finally:
        await session.delete(key)


async def _until_started(session: Session, key: ObjectKey, note: Note) -> None:
    loop = asyncio.get_running_loop()
    deadline, said = loop.time() + START_SECONDS, set[str]()
    while not has_started(pod := await session.get(key)):
        waits = what_it_waits_for(pod)
        if waits not in said:  # a kubelet alternates between two words for one image that it does not get
            note(f"waiting for the pod {key.name}: {waits}")
        if loop.time() > deadline:
            cure = "mend that, or name another image with --image; then try again"
            raise Unavailable(f"the pod that reads the volume does not start: {waits}", where=key.name, cure=cure)
        said.add(waits)
        await asyncio.sleep(LOOK_SECONDS)


def what_it_waits_for(pod: Object) -> str:
    """Return in a few words why a pod's process is not there yet."""
    trouble = trouble_of_pod(pod)
    if trouble is not None:
        return one_line(trouble.message)
    node = pod["spec"].get("nodeName")
    return f"node {node} prepares it" if node else "no node has taken it yet"


async def _receive(session: Session, key: ObjectKey, folder: Path, expected: str, note: Note) -> Delivery:
    """Receive the delivery; as long as nothing listens and the process runs, it is tried again."""
    loop = asyncio.get_running_loop()
    deadline, fault = loop.time() + LISTEN_SECONDS, None
    said = tenths(note)
    while True:
        try:
            async with session.forward(key, HANDOVER_PORT) as socket:
                return await receive(ForwardedPort(messages(socket)), folder, expected=expected, said=said)
        except NotListening as error:
            fault = error
        except Unavailable:
            await _check_running(session, key)  # a pod that has ended has the better reason
            raise
        await _check_running(session, key)
        if loop.time() > deadline:
            raise fault
        await asyncio.sleep(LOOK_SECONDS)


async def messages(socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[bytes]:
    """Yield the binary messages of a WebSocket, until it is closed."""
    async for message in socket:
        if isinstance(message.data, bytes):
            yield message.data


def tenths(note: Note) -> Callable[[int, int], None]:
    """Return what notes every further tenth that has come."""
    noted = 0

    def said(done: int, whole: int) -> None:
        nonlocal noted
        if whole > 0 and 10 * done // whole > noted:
            noted = 10 * done // whole
            note(f"{done:,} of {whole:,} bytes")

    return said


async def _check_running(session: Session, key: ObjectKey) -> None:
    """Raise Unavailable with the last words of a pod that has ended."""
    pod = await session.get(key)
    if pod["status"].get("phase") not in {"Failed", "Succeeded"}:
        return
    words = str(pod["status"].get("message", ""))
    try:
        async for line in session.log(key, CONTAINER, follow=False):
            words = line.decode("utf-8", "replace")
    except FoedusError:
        pass  # what its status says is all that is known
    cure = "see that the volume is what the job left; an image of an older version cannot hand it over"
    raise Unavailable(f"the pod that reads the volume has ended: {one_line(words)}", where=key.name, cure=cure)

"""A planted text and a planted weight: in no frame, no log, no file and no memory of a party, in any form."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import struct
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from foedus.inference.local import Request, infer_local
from foedus.inference.show import Silent
from foedus_contract.mpc_wire import members
from foedus_contract.run_spec import Patience
from foedus_workloads.inference.inquiry import Inquiry
from foedus_workloads.inference.model import Owner, make_tasks
from foedus_workloads.inference.party import PartyService
from foedus_workloads.inference.schemes import find_scheme
from foedus_workloads.transport.caller import Call, CallerPatience
from support.inference_world import World, free_addresses
from support.tiny_classifier import write_classifier

CANARY = "the striker told parliament about a faster computer chip"
BITS = 16
PAGE = 4096
BIAS = "encoder.layer.0.intermediate.dense.bias"
WEIGHT = "bert.encoder.layer.0.intermediate.dense.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("model"), "bert")[0]


def fixed(values: torch.Tensor) -> bytes:
    return (values.double() * 2**BITS).round().to(torch.int64).contiguous().numpy().tobytes()


def secrets(model: Path) -> dict[str, bytes]:
    """Return the forms in which the text or a weight would show; each is long enough to be no chance."""
    ids = Tokenizer.from_file(str(model / "tokenizer.json")).encode(CANARY).ids
    embedded = Owner(model, None).embed(CANARY)
    weight = load_file(model / "model.safetensors")[WEIGHT]
    return {
        "text": CANARY.encode("utf-8"),
        "words": CANARY[4:30].encode("utf-8"),
        "text as UTF-16": CANARY.encode("utf-16-le"),
        "ids as int64": struct.pack(f"<{len(ids)}q", *ids),
        "ids as int32": struct.pack(f"<{len(ids)}i", *ids),
        "ids as text": ",".join(map(str, ids)).encode(),
        "ids as a list": ", ".join(map(str, ids)).encode(),
        "an embedded token in fixed point": fixed(embedded.values[1]),
        "an embedded token in floating point": embedded.values[1].numpy().tobytes(),
        "the mask in fixed point": fixed(embedded.mask),
        "a row of weights in fixed point": fixed(weight[0]),
        "a column of weights in fixed point": fixed(weight[:, 0]),
        "a row of weights in floating point": weight[0].numpy().tobytes(),
    }


def found(secrets: dict[str, bytes], content: bytes) -> list[str]:
    return [name for name, secret in secrets.items() if secret in content]


def without_zeros(content: bytes) -> bytes:
    """Leave out pages that hold zeros alone and lie between such pages: there are many, and searching them is slow."""
    pages = np.frombuffer(content, np.uint64).reshape(-1, PAGE // 8)
    held = pages.any(axis=1)
    held = held | np.append(held[1:], False) | np.append(False, held[:-1])
    return pages[held].tobytes()


def memory(pid: int) -> bytes:
    """Return all that a process can write to: heap, stacks, and the pages of its libraries' data."""
    parts = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as content:
        for line in maps:
            span, mode, *_ = line.split()
            if mode.startswith("rw"):
                start, end = (int(part, 16) for part in span.split("-"))
                try:
                    content.seek(start)
                    parts.append(without_zeros(content.read(end - start)))
                except OSError:
                    continue  # the kernel's own pages
    return b"\0".join(parts)


def child(state: Path, name: str) -> int:
    """Return the process of a member."""
    for entry in Path("/proc").iterdir():
        try:
            folder = entry.joinpath("cwd").resolve()
        except OSError:
            continue
        if entry.name.isdigit() and folder.is_relative_to(state) and folder.name == name:
            return int(entry.name)
    raise LookupError(name)


class Looking(Silent):
    """Copies the parties' memories in the middle of a computation and at the end, and what lies in their files."""

    def __init__(self, state: Path, names: tuple[str, ...]) -> None:
        self._state, self._names = state, names
        self.memories: list[tuple[str, bytes]] = []  # with the member's name
        self.files: list[bytes] = []

    def rounds(self, text: int, texts: int, begun: int, total: int) -> None:
        if begun > 0 and not self.memories:
            self.look()

    def answer(self, number: int, answer: object) -> None:
        self.look()

    def look(self) -> None:
        processes = [child(self._state, name) for name in self._names]
        for process in processes:
            os.kill(process, signal.SIGSTOP)  # so that nothing is let go before it is copied
        self.memories += [(name, memory(process)) for name, process in zip(self._names, processes, strict=True)]
        for process in processes:
            os.kill(process, signal.SIGCONT)
        self.files += [path.read_bytes() for path in self._state.rglob("*") if path.is_file()]


# With names of members, and who was sent a canary's share in full, under which name.
PROTOCOLS = {
    "Replicated3PC": (3, ("party-0", "party-1", "party-2"), {"party-1", "party-2"}, f"{BIAS}.2", "embedded.2"),
    "Replicated3PCMalicious": (
        3, ("party-0", "party-1", "party-2"), {"party-1", "party-2"}, f"{BIAS}.2", "embedded.2"
    ),
    "CrypTen": (2, ("party-0", "party-1", "dealer"), {"party-1"}, f"{BIAS}.share", "embedded.share"),
}  # fmt: skip


@pytest.mark.parametrize(
    "protocol", ["Replicated3PC", pytest.param("Replicated3PCMalicious", marks=pytest.mark.nightly), "CrypTen"]
)
def test_no_members_memory_and_no_file_holds_a_canary(model, tmp_path, monkeypatch, protocol):
    parties, names, holders, bias, _ = PROTOCOLS[protocol]
    show, share, sharings = Looking(tmp_path / "state", names), Owner.share, []
    monkeypatch.setattr(Owner, "share", lambda *a: sharings.append(share(*a)) or sharings[-1])
    request = Request((CANARY,), model, None, tmp_path / "state", protocol, parties)
    asyncio.run(infer_local(request, show, os.environ))
    planted = secrets(model)
    assert [(name, found(planted, content)) for name, content in show.memories] == [(name, []) for name in names] * 2
    assert [found(planted, content) for content in show.files if found(planted, content)] == []
    # The look itself works: who was sent this share in full has it in its memory, and this process has the text.
    whole = sharings[0].shares[1][bias].numpy().tobytes()
    assert [name for name, content in show.memories if whole in content] == [n for n in names if n in holders] * 2
    assert CANARY.encode() in memory(os.getpid())


@pytest.fixture
def frames(monkeypatch):
    """All that leaves any end of any connection of this process, as OpenSSL is given it."""
    sent: list[bytes] = []
    original = ssl.SSLSocket.send

    def send(self, data, flags=0):
        count = original(self, data, flags)
        sent.append(bytes(data[:count]))
        return count

    monkeypatch.setattr(ssl.SSLSocket, "send", send)
    return sent


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_frame_between_client_and_members_holds_a_canary(model, tmp_path, frames, protocol):
    parties, _, _, _, embedded = PROTOCOLS[protocol]
    owner = Owner(model, None, find_scheme(protocol, parties))
    world = World(tmp_path, addresses=free_addresses(members(protocol, parties)))
    sharing = owner.share(os.urandom)
    question = owner.ask(owner.embed(CANARY), sharing.digest, os.urandom)
    with ExitStack() as stack:
        for label in sharing.labels.values():
            tasks = make_tasks(label, sharing.shares[label.party])
            service = PartyService(world.place(label.party), label, 1, tasks, Patience(), os.urandom, time.monotonic)
            thread = threading.Thread(target=service.serve)
            thread.start()
            stack.callback(thread.join)
            stack.callback(service.close)
        call, inquiry = Call(world.caller(), CallerPatience()), Inquiry(question)
        call.agree(inquiry)
        reply = call.ask(inquiry, lambda _: None)
    content = b"".join(frames)
    assert len(reply.values) == 3
    assert found(secrets(model), content) == []
    assert sum(reply.bytes_sent) < len(content)  # every frame was seen
    assert question.shares[1][embedded][0].numpy().tobytes() in content
    assert protocol.encode() in content

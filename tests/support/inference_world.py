"""Three parties of an inference and a client on this machine, over TLS, with a program that is small and known."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from cryptography import x509
from torch import Tensor

from foedus_contract.canonical import digest
from foedus_contract.mpc_wire import SessionTerms
from foedus_contract.run_spec import Patience
from foedus_workloads.inference.inquiry import Inquiry, Question, Reply
from foedus_workloads.inference.party import PartyService
from foedus_workloads.inference.shares import ShareLabel
from foedus_workloads.inference.task import Task, replicated
from foedus_workloads.mpc.activations import gelu
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.rounds import Expected, Operation
from foedus_workloads.transport.caller import Call, CallerPatience, CallerPlace
from foedus_workloads.transport.reception import PartyPlace
from foedus_workloads.transport.tls import caller_uri, party_uri
from support.certificates import Authority
from support.three_parties import encoded, shared

MODEL = "sha256:" + "a" * 64
ROUNDS = 8
VALUES = torch.linspace(-4, 4, 50, dtype=torch.float64)
QUICK = Patience(open_seconds=20, input_seconds=20, connect_seconds=20, round_seconds=20, output_seconds=20)
PATIENT = CallerPatience(connect_seconds=30, consent_seconds=60, input_seconds=20, silence_seconds=60)
LABELS = tuple(
    ShareLabel(party=party, model_digest=MODEL, sharing=b"s" * 16, fraction=16, architecture="{}") for party in range(3)
)
Program = Callable[[Party, Shared], Operation[Shared]]


def gelu_task(party: int, tokens: int, program: Program = gelu) -> Task:
    """GELU of as many values as there are tokens."""

    def run(at: Party, inputs: dict[str, Tensor]) -> Operation[Shared]:
        return (yield from program(at, Shared(inputs["own"], inputs["next"])))

    kinds = {"own": Expected(torch.int64, (tokens,)), "next": Expected(torch.int64, (tokens,))}
    return Task(digest("test/gelu", {"tokens": tokens}), kinds, replicated(party, run))


def question(values: Tensor = VALUES, *, session: bytes = b"q" * 16) -> Question:
    shares = shared(encoded(values))
    task = gelu_task(0, values.numel())
    return Question(
        tokens=values.numel(),
        model_digest=MODEL,
        terms=SessionTerms(session=session, model_digest=LABELS[0].digest, program_digest=task.digest, fraction=16),
        shares={party: {"own": each.own, "next": each.next} for party, each in enumerate(shares)},
        output=(values.numel(),),
        rounds=ROUNDS,
    )


def free_addresses(members: Iterable[int] = range(3)) -> dict[int, tuple[str, int]]:
    sockets = {member: socket.create_server(("127.0.0.1", 0)) for member in members}
    addresses = {member: each.getsockname() for member, each in sockets.items()}
    for each in sockets.values():
        each.close()
    return addresses


@dataclass
class World:
    """Places of three parties and of a client under one authority."""

    folder: Path
    authority: Authority = field(default_factory=Authority.create)
    addresses: dict[int, tuple[str, int]] = field(default_factory=free_addresses)

    def place(self, party: int) -> PartyPlace:
        name = x509.UniformResourceIdentifier(party_uri("lab", "bert", party))
        return PartyPlace(
            party, "lab", "bert", self.addresses, self.authority.issue(self.folder / f"party-{party}", name)
        )

    def caller(self, *, authority: Authority | None = None, uri: str = "") -> CallerPlace:
        name = x509.UniformResourceIdentifier(uri or caller_uri("lab", "bert", "somebody"))
        files = (authority or self.authority).issue(self.folder / "caller", name, trust=self.authority)
        return CallerPlace("lab", "bert", self.addresses, files)

    def call(self, asked: Question | None = None, *, patience: CallerPatience = PATIENT, **caller: object) -> Reply:
        return ask(Call(self.caller(**caller), patience), asked or question())

    def service(
        self, party: int, label: ShareLabel | None = None, program: Program = gelu, patience: Patience = QUICK
    ) -> PartyService:
        return PartyService(
            place=self.place(party),
            label=label or LABELS[party],
            incarnation=1,
            tasks=lambda tokens: gelu_task(party, tokens, program),
            patience=patience,
            entropy=lambda count: bytes([party + 1]) * count,
            clock=time.monotonic,
        )


def ask(call: Call, asked: Question) -> Reply:
    inquiry = Inquiry(asked)
    call.agree(inquiry)
    return call.ask(inquiry, lambda _: None)


@contextmanager
def serving(*services: PartyService) -> Iterator[None]:
    """Run the parties in threads of this process."""
    with ExitStack() as stack:
        for service in services:
            thread = threading.Thread(target=service.serve)
            thread.start()
            stack.callback(thread.join)
            stack.callback(service.close)
        yield


def relabelled(party: int, **changes: object) -> ShareLabel:
    return LABELS[party].model_copy(update=changes)


def with_terms(asked: Question, **changes: object) -> Question:
    return replace(asked, terms=asked.terms.model_copy(update=changes))

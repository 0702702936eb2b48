"""One party's side of a session as a state machine without effects: greeting, keys, then the program's rounds.

Steps of party i:
1. Draw a key of 32 bytes and send it to party i - 1 with a Hello; send party i + 1 a Hello alone. Both carry the digest
   of the terms (session, protocol, model, program, fraction) and this process's incarnation.
2. Take both neighbours' Hellos; other terms, another version or another party than the connection's end the session.
3. Each key becomes the stream's key by HKDF-SHA256 over terms, component and all three incarnations. Keys are drawn
   anew for each session of each process, so a restarted party never meets a stream again.
4. Run the program; each round sends at most one message to each neighbour, and goes on when what it expects has come.

What comes is compared with what the program expects before its payload is read: session, number of the round, and type
and shape of every tensor. Anything else (a repeat, an old session, another shape) ends the session with JobFailed, and
a session that has ended takes nothing more.

The driver asks `waiting_for`, reads that party's next header, gives it to `announce`, fills the buffers it returns, and
calls `arrived`. It owns the clock: a party that is late is told to `time_out`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from foedus_contract.canonical import domain_bytes
from foedus_contract.errors import FoedusError, InvalidInput, JobFailed
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import MPC_PROTOCOL_VERSION, Hello, Round, SessionTerms, member_name
from foedus_workloads.mpc.party import PARTIES, Party
from foedus_workloads.mpc.rounds import Exchange, Expected, Operation, Received
from foedus_workloads.mpc.streams import KEY_BYTES, KeyedStreams
from foedus_workloads.mpc.wire import buffer, bytes_in, bytes_of, kind_of, tensor_header

T = TypeVar("T")
Entropy = Callable[[int], bytes]
Program = Callable[[Party], Operation[T]]
Buffer = np.ndarray


@dataclass(frozen=True)
class Send:
    """One message to a neighbour."""

    party: int
    header: bytes
    payload: tuple[memoryview, ...] = field(default=(), repr=False)

    @property
    def size(self) -> int:
        """The payload's bytes."""
        return sum(part.nbytes for part in self.payload)


@dataclass
class Inbox:
    """What is awaited from one neighbour in this round: its tensors, and whether they are there."""

    expected: tuple[Expected, ...]
    buffers: tuple[Buffer, ...] = field(default=(), repr=False)
    announced: bool = False
    complete: bool = False


@dataclass
class Totals:
    """What a session has cost so far, without the greeting."""

    rounds: int = 0
    bytes_sent: int = 0
    messages_sent: int = 0


class MemberSession(ABC, Generic[T]):
    """What every member's side of a session has in common: whom it waits for, and what it lets in.

    A kind of session says what comes of what is there (`_go_on`) and which number a message must have (`_number`).
    """

    def __init__(
        self, member: int, terms: SessionTerms, greetings: Mapping[int, tuple[Expected, ...]], *, incarnation: int
    ) -> None:
        """`greetings` says what each other member's Hello carries."""
        self._index = member
        self._terms = terms
        self._incarnation = incarnation
        self._hellos: dict[int, Hello] = {}
        self._operation: Generator[Any, Any, T] | None = None
        self._inboxes = {each: Inbox(kinds) for each, kinds in greetings.items()}
        self._over = False
        self._results: list[T] = []
        self.totals = Totals()

    @property
    def result(self) -> T:
        """What the program returned; LookupError before its end and after an error."""
        return self._results[0]

    @property
    def over(self) -> bool:
        """Whether the session has ended, with a result or with an error."""
        return self._over

    @property
    def waiting_for(self) -> int | None:
        """The neighbour whose message is needed next; None when none is."""
        if self._over:
            return None
        return next((party for party, inbox in self._inboxes.items() if not inbox.complete), None)

    @abstractmethod
    def start(self) -> tuple[Send, ...]:
        """Return the greetings."""

    def announce(self, sender: int, header: bytes) -> tuple[memoryview, ...]:
        """Check a header and return what its payload fills, in order; a wrong one ends the session with JobFailed."""
        inbox = self._inboxes.get(sender)
        if self._over or inbox is None or inbox.announced:
            raise self._ended(sender, "sent a message that nobody waits for")
        try:
            if self._operation is None:
                self._take_hello(sender, Hello.from_json(header))
            else:
                self._check_round(sender, Round.from_json(header), inbox.expected)
        except InvalidInput as error:
            raise self._ended(sender, f"sent something malformed ({error.what})") from None
        inbox.announced = True
        inbox.buffers = tuple(map(buffer, inbox.expected))
        return tuple(map(bytes_in, inbox.buffers))

    def arrived(self, sender: int) -> Iterable[Send]:
        """The buffers of `sender` are filled; return what is to be sent now."""
        self._inboxes[sender].complete = True
        if any(not inbox.complete for inbox in self._inboxes.values()):
            return ()
        return self._go_on()

    def time_out(self) -> JobFailed:
        """End the session because the awaited neighbour is late; returns the error to raise."""
        return self._ended(self.waiting_for, "did not answer in time", code=ExitCode.DEADLINE_EXCEEDED)

    def lose(self, party: int) -> JobFailed:
        """End the session because a neighbour's connection is gone; returns the error to raise."""
        return self._ended(party, "is gone", code=ExitCode.QUORUM_LOST)

    @abstractmethod
    def _go_on(self) -> Iterable[Send]:
        """All that was waited for is there; return what is to be sent now."""

    def _number(self, sender: int) -> int:
        """Return the number of the message that is awaited from `sender`."""
        return self.totals.rounds - 1

    def _hello(self) -> bytes:
        return Hello(party=self._index, incarnation=self._incarnation, terms_digest=self._terms.digest).to_json()

    def _incarnations(self) -> list[int]:
        """Return all members' incarnations in the order of their numbers."""
        known = {sender: hello.incarnation for sender, hello in self._hellos.items()}
        known[self._index] = self._incarnation
        return [known[member] for member in sorted(known)]

    def _message(self, number: int, tensors: Sequence[Tensor]) -> bytes:
        """Return the header of a round's message."""
        headers = tuple(tensor_header(kind_of(each)) for each in tensors)
        return Round(session=self._terms.session, number=number, tensors=headers).to_json()

    def _count(self, sends: Sequence[Send]) -> None:
        self.totals.messages_sent += len(sends)
        self.totals.bytes_sent += sum(each.size for each in sends)

    def _ended(self, sender: int | None, what: str, *, code: ExitCode = ExitCode.QUORUM_LOST) -> JobFailed:
        self._over = True
        self._inboxes = {}
        if self._operation is not None:
            self._operation.close()
        where = "session" if sender is None else member_name(sender)
        return JobFailed(what, where=where, cure="start a new session", code=code)

    def _take_hello(self, sender: int, hello: Hello) -> None:
        if hello.party != sender:
            raise self._ended(sender, f"says that it is {member_name(hello.party)}")
        if hello.version != MPC_PROTOCOL_VERSION:
            raise self._ended(
                sender, f"speaks version {hello.version} of the protocol, here it is {MPC_PROTOCOL_VERSION}"
            )
        if hello.terms_digest != self._terms.digest:
            raise self._ended(sender, "was given another session, model or program")
        self._hellos[sender] = hello

    def _check_round(self, sender: int, message: Round, expected: tuple[Expected, ...]) -> None:
        if message.session != self._terms.session:
            raise self._ended(sender, "sent a message of another session")
        if message.number != self._number(sender):
            raise self._ended(sender, f"sent round {message.number} instead of {self._number(sender)}")
        if message.tensors != tuple(map(tensor_header, expected)):
            raise self._ended(sender, "sent tensors of another type or shape")


class Session(MemberSession[T]):
    """A session of one of the three parties of replicated shares."""

    def __init__(
        self, party: int, terms: SessionTerms, program: Program[T], *, incarnation: int, entropy: Entropy
    ) -> None:
        previous, following = (party - 1) % PARTIES, (party + 1) % PARTIES
        greetings = {previous: (), following: (Expected(torch.int8, (KEY_BYTES,)),)}
        super().__init__(party, terms, greetings, incarnation=incarnation)
        self._program = program
        self._key = entropy(KEY_BYTES)

    @property
    def previous(self) -> int:
        """The party before this one."""
        return (self._index - 1) % PARTIES

    @property
    def following(self) -> int:
        """The party after this one."""
        return (self._index + 1) % PARTIES

    def start(self) -> tuple[Send, ...]:
        """Return the greetings."""
        hello = self._hello()
        return Send(self.previous, hello, (memoryview(self._key),)), Send(self.following, hello)

    def _go_on(self) -> Iterable[Send]:
        """All that was waited for is there; return what is to be sent now."""
        if self._operation is None:
            self._operation = self._program(self._party())
            return self._advance(None)
        return self._advance(Received(self._tensors(self.previous), self._tensors(self.following)))

    def _party(self) -> Party:
        neighbours = self._inboxes[self.following].buffers[0].tobytes()
        keys = {self._index: self._key, self.following: neighbours}
        streams = {
            component: derive_stream_key(key, self._terms, component, self._incarnations())
            for component, key in keys.items()
        }
        self._key = b""
        return Party(self._index, KeyedStreams(streams), fraction=self._terms.fraction)

    def _tensors(self, sender: int) -> tuple[Tensor, ...]:
        inbox = self._inboxes.get(sender)
        return () if inbox is None else tuple(torch.from_numpy(buffer) for buffer in inbox.buffers)

    def _advance(self, received: Received | None) -> tuple[Send, ...]:
        """Run the program until it waits for something or ends; rounds in which nothing comes are passed."""
        assert self._operation is not None
        sends: list[Send] = []
        while True:
            try:
                exchange = next(self._operation) if received is None else self._operation.send(received)
            except FoedusError:  # a check of the protocol's own
                self._over, self._inboxes = True, {}
                raise
            except StopIteration as end:
                self._results, self._over, self._inboxes = [end.value], True, {}
                return tuple(sends)
            sends += self._outgoing(exchange)
            wanted = {self.previous: exchange.from_previous, self.following: exchange.from_next}
            self._inboxes = {party: Inbox(expected) for party, expected in wanted.items() if expected}
            if self._inboxes:
                return tuple(sends)
            received = Received()

    def _outgoing(self, exchange: Exchange) -> list[Send]:
        number = self.totals.rounds
        self.totals.rounds += 1
        sends = []
        for party, tensors in ((self.previous, exchange.to_previous), (self.following, exchange.to_next)):
            if tensors:
                sends.append(Send(party, self._message(number, tensors), tuple(map(bytes_of, tensors))))
        self._count(sends)
        return sends


def derive_stream_key(key: bytes, terms: SessionTerms, component: int, incarnations: list[int]) -> bytes:
    """Return the key of a component's stream: HKDF-SHA256 (RFC 5869) of what the neighbours share, for this session."""
    info = domain_bytes(
        "foedus/mpc/stream",
        {"terms": terms.model_dump(), "component": component, "incarnations": incarnations},
    )
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)

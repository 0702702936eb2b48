"""A client's session with the members of an inference, as a state machine without effects.

1. Ask each member in turn with the same terms, and take its Ready. The session's number is drawn by the client; each
   party answers with its own digest of the terms, so all four mean the same session, model, sharing and program, or the
   session ends here: nothing secret has been sent.
2. Send each party its shares of the input.
3. Take what they say of their rounds, and their summands of the result.

Parties are asked in the order of their numbers, and each serves one session at a time: so of two clients one waits
for the other, and neither holds what the other needs. Adversary: whoever is not in the TLS certificates is nobody; of
the parties, one may look at all it has, and follows the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foedus_contract.errors import FoedusError, InvalidInput, JobFailed, Refused
from foedus_contract.exit_codes import ExitCode
from foedus_contract.inference_wire import (
    Computing,
    Failure,
    Input,
    NamedTensor,
    Open,
    Output,
    PartyMessage,
    Ready,
    parse_party_message,
)
from foedus_contract.mpc_wire import DEALER, SessionTerms, member_name, members
from foedus_workloads.inference.task import SAME_FILES, named_header
from foedus_workloads.mpc.model.sharing import reveal, revealed
from foedus_workloads.mpc.party import Shared
from foedus_workloads.mpc.rounds import Expected
from foedus_workloads.mpc.wire import buffer, bytes_in, bytes_of, kind_of, tensor_header


@dataclass(frozen=True)
class Question:
    """What a client asks: for how many tokens, under which terms, with which shares for each party.

    A dealer is asked too, and is given none.
    """

    tokens: int
    model_digest: str
    terms: SessionTerms
    shares: Mapping[int, Mapping[str, Tensor]] = field(repr=False)  # by party
    output: tuple[int, ...]
    rounds: int  # of the program, as planned

    @property
    def copies(self) -> bool:
        """Whether parties send both their components, so that each has two copies to compare."""
        return self.terms.protocol == "Replicated3PCMalicious"

    @property
    def sent(self) -> tuple[int, ...]:
        """The shape of what a party sends of the result."""
        return (2, *self.output) if self.copies else self.output


@dataclass(frozen=True)
class Reply:
    """What came of a question: the revealed numbers, and what they took at each party."""

    values: tuple[float, ...]
    rounds: int
    bytes_sent: tuple[int, ...]  # by member: the parties in their order, then the dealer


class Inquiry:
    """One question to all members."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._ready: set[int] = set()
        self._rooms: dict[int, np.ndarray] = {}
        self._outputs: dict[int, Output] = {}
        self._members = members(question.terms.protocol, question.terms.parties)
        self._rounds = dict.fromkeys(self._members, 0)

    @property
    def rounds(self) -> int:
        """How many rounds have begun at all parties."""
        return min(self._rounds.values())

    def has_answered(self, party: int) -> bool:
        """Whether the party's summand is there."""
        return party in self._outputs

    def open(self) -> bytes:
        """Return the first message, the same to each party."""
        asked = self._question
        return Open(tokens=asked.tokens, model_digest=asked.model_digest, terms=asked.terms).to_json()

    def agree(self, party: int, header: bytes) -> None:
        """Take a party's answer to it; raises FoedusError unless it means the same session."""
        message = self._parsed(party, header)
        if not isinstance(message, Ready):
            raise _wrong(party, "sent another message than its consent")
        if message.party != party:
            raise _wrong(party, f"says that it is {member_name(message.party)}")
        if message.terms_digest != self._question.terms.digest:
            raise Refused(
                "would compute under other terms",
                where=member_name(party),
                cure=SAME_FILES,
                code=ExitCode.INVALID_MODEL,
            )
        self._ready.add(party)

    def inputs(self, party: int) -> tuple[bytes, tuple[memoryview, ...]]:
        """Return header and payload of a party's shares, once all parties have consented."""
        if len(self._ready) < len(self._members):
            raise RuntimeError("shares are sent only when all mean the same session")
        shares = self._question.shares.get(party, {})
        tensors: tuple[NamedTensor, ...] = tuple(named_header(name, kind_of(each)) for name, each in shares.items())
        header = Input(session=self._question.terms.session, tensors=tensors).to_json()
        return header, tuple(bytes_of(each) for each in shares.values())

    def announce(self, party: int, header: bytes) -> tuple[memoryview, ...]:
        """Take a header; return what its payload fills. Raises FoedusError, a party's own words among them."""
        message = self._parsed(party, header)
        if isinstance(message, Ready) or self.has_answered(party):
            raise _wrong(party, "sent a message that nobody waits for")
        assert isinstance(message, Computing | Output)
        if message.session != self._question.terms.session:
            raise _wrong(party, "sent a message of another session")
        # Each report says more than the one before, and the program has an end: a party cannot keep a client for ever.
        if not self._rounds[party] - isinstance(message, Output) < message.rounds <= self._question.rounds:
            raise _wrong(party, f"says that {message.rounds} rounds of {self._question.rounds} have begun")
        self._rounds[party] = message.rounds
        if isinstance(message, Computing):
            return ()
        kind = Expected(torch.int64, (0,) if party == DEALER else self._question.sent)
        if message.tensor != tensor_header(kind):
            raise _wrong(party, "sent a result of another type or shape")
        self._rooms[party] = buffer(kind)
        self._outputs[party] = message
        return (bytes_in(self._rooms[party]),)

    def reply(self) -> Reply:
        """Return what the summands add up to, once all have answered and their payloads have come."""
        outputs = [self._outputs[party] for party in self._members]
        if len({each.rounds for each in outputs}) != 1:
            raise JobFailed("the parties counted different rounds", where="session", cure="start a new session")
        sent = [torch.from_numpy(self._rooms[party]) for party in self._members if party != DEALER]
        fraction = self._question.terms.fraction
        copies = [Shared(*each) for each in sent] if self._question.copies else []
        values = reveal(copies, fraction) if copies else revealed(sent, fraction)
        return Reply(tuple(values), outputs[0].rounds, tuple(each.bytes_sent for each in outputs))

    def _parsed(self, party: int, header: bytes) -> PartyMessage:
        try:
            message = parse_party_message(header)
        except InvalidInput as error:
            raise _wrong(party, f"sent something malformed ({error.what})") from None
        if isinstance(message, Failure):
            raise told(party, message)
        return message


class PartyFailed(JobFailed):
    """A session that one party has ended: `blames` is whom it takes for the cause."""

    def __init__(
        self, what: str, *, blames: int, where: str = "", cure: str = "", code: ExitCode | None = None
    ) -> None:
        super().__init__(what, where=where, cure=cure, code=code)
        self.blames = blames


def told(party: int, message: Failure) -> PartyFailed:
    """Return the error that a party tells of, in its own words where they name a party."""
    words = "".join(letter if letter.isprintable() else " " for letter in message.message)
    known = message.code in {int(code) for code in ExitCode}
    code = ExitCode(message.code) if known else ExitCode.INTERNAL
    words = words if words.startswith(("party ", f"{member_name(DEALER)}: ")) else f"{member_name(party)}: {words}"
    return PartyFailed(words, blames=message.blames, code=code)


def root_cause(errors: Mapping[int, FoedusError]) -> FoedusError:
    """Return the error nearest the cause: a party that ends takes the others' sessions along, one after the other.

    From the first error on, whoever is blamed is heard in its turn, until one blames itself or says nothing. Where two
    blame each other, one was late and then found the others gone.
    """
    party, heard = next(iter(errors)), list[FoedusError]()
    while True:
        error = errors[party]
        heard.append(error)
        party = error.blames if isinstance(error, PartyFailed) else party
        if party not in errors:
            return error
        if errors[party] in heard:
            circle = heard[heard.index(errors[party]) :]
            late = [each for each in circle if each.code is ExitCode.DEADLINE_EXCEEDED]
            return error if errors[party] is error or not late else late[0]


def _wrong(party: int, what: str) -> JobFailed:
    return JobFailed(what, where=member_name(party), cure="start a new session")

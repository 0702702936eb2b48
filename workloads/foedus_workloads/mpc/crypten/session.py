"""A party's and the dealer's side of a session, as state machines without effects.

Steps:
1. The dealer draws a key of 32 bytes for each party and sends it with a Hello. Each party sends all others a Hello. All
   carry the digest of the terms (session, protocol, model, program, fraction) and the process's incarnation.
2. All take each other's Hellos; other terms, another version or another member than the connection's end the session.
3. Each party's key becomes its stream's by HKDF-SHA256 over terms, party and all incarnations. Keys are drawn anew for
   each session, so a restarted dealer or party never meets a stream again.
4. The dealer sends the last party, stage by stage, the corrections that the plan says. It is sent nothing any more.
5. In each round a party sends every other party its shares of what is opened, in one message, and goes on when all of
   theirs are there; the last party waits for the next stage's corrections, too.

What comes is compared with the plan before its payload is read, as in `mpc/session.py`, whose rules hold here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce

import torch
from torch import Tensor

from foedus_contract.errors import JobFailed
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import DEALER, SessionTerms, members
from foedus_workloads.mpc.crypten.deals import CorrectedDeals, Dealer, DrawnDeals, Masks, Streams, pieces
from foedus_workloads.mpc.crypten.openings import WORD_BYTES, Opened, Opening, Operation
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.crypten.plan import Plan
from foedus_workloads.mpc.rounds import Expected
from foedus_workloads.mpc.session import Entropy, Inbox, MemberSession, Send, derive_stream_key
from foedus_workloads.mpc.streams import KEY_BYTES
from foedus_workloads.mpc.wire import bytes_of

_KEY = Expected(torch.int8, (KEY_BYTES,))


class _Member(MemberSession[Tensor]):
    """What a party's and the dealer's side have in common: who greets whom, and the streams' keys."""

    def __init__(self, member: int, terms: SessionTerms, *, incarnation: int) -> None:
        self._last = terms.parties - 1
        self._others = tuple(each for each in members(terms.protocol, terms.parties) if each != member)
        greetings = {each: (_KEY,) if each == DEALER else () for each in self._others}
        super().__init__(member, terms, greetings, incarnation=incarnation)

    def _stream(self, party: int, key: bytes) -> Streams:
        return Streams(derive_stream_key(key, self._terms, party, self._incarnations()))


class PartySession(_Member):
    """A session at one party; `begin` starts its program, whose `plan` the last party needs and no other."""

    def __init__(
        self,
        party: int,
        terms: SessionTerms,
        plan: Plan | None,
        begin: Callable[[Party], Operation[Tensor]],
        *,
        incarnation: int,
    ) -> None:
        super().__init__(party, terms, incarnation=incarnation)
        self._stages = plan.stages if plan is not None and party == self._last else ()
        self._begin = begin
        self._own = Opening()
        self._corrected: CorrectedDeals | None = None

    def start(self) -> tuple[Send, ...]:
        """Return the greetings."""
        return tuple(Send(each, self._hello()) for each in self._others)

    def _number(self, sender: int) -> int:
        return self.totals.rounds if sender == DEALER else self.totals.rounds - 1

    def _go_on(self) -> Iterable[Send]:
        if self._operation is None:
            self._operation = self._begin(self._party_of_session())
            self._await(0)
            return () if self._inboxes else self._advance_to(None)
        opened = self._opened() if self.totals.rounds else None
        return self._advance_to(opened)

    def _party_of_session(self) -> Party:
        streams = self._stream(self._index, self._inboxes[DEALER].buffers[0].tobytes())
        deals = self._corrected = CorrectedDeals(streams) if self._index == self._last else None
        return Party(self._index, self._terms.parties, deals or DrawnDeals(streams), self._terms.fraction)

    def _await(self, opened: int) -> None:
        """Wait for the others' shares of what is opened, and for the corrections of the stage that follows."""
        peers = {each: Inbox((Expected(torch.int64, (opened,)),)) for each in self._others if each != DEALER}
        self._inboxes = peers if opened else {}
        corrections = self._stages[self.totals.rounds].corrections if self._stages else 0
        if corrections:
            self._inboxes[DEALER] = Inbox((Expected(torch.int64, (corrections,)),))

    def _opened(self) -> Opened:
        """Return what all shares come to."""
        shares = [_parted(inbox, self._own) for each, inbox in self._inboxes.items() if each != DEALER]
        return Opened(
            tuple(reduce(torch.add, each) for each in zip(self._own.sums, *(s.sums for s in shares), strict=True)),
            tuple(
                reduce(torch.bitwise_xor, each)
                for each in zip(self._own.words, *(s.words for s in shares), strict=True)
            ),
        )

    def _advance_to(self, opened: Opened | None) -> Iterable[Send]:
        assert self._operation is not None
        if self._corrected is not None and DEALER in self._inboxes:
            self._corrected.feed(torch.from_numpy(self._inboxes[DEALER].buffers[0]))
        try:
            self._own = next(self._operation) if opened is None else self._operation.send(opened)
        except StopIteration as end:
            self._results, self._over, self._inboxes = [end.value], True, {}
            return ()
        number = self.totals.rounds
        self.totals.rounds += 1
        payload = torch.cat([each.reshape(-1).view(torch.int64) for each in (*self._own.sums, *self._own.words)])
        header, content = self._message(number, (payload,)), (bytes_of(payload),)
        sends = tuple(Send(each, header, content) for each in self._others if each != DEALER)
        self._count(sends)
        self._await(payload.numel())
        return sends


class DealerSession(_Member):
    """A session at the dealer: it greets, is greeted, and deals."""

    def __init__(self, terms: SessionTerms, plan: Plan, masks: Masks, *, incarnation: int, entropy: Entropy) -> None:
        super().__init__(DEALER, terms, incarnation=incarnation)
        self._plan = plan
        self._masks = masks
        self._keys = {party: entropy(KEY_BYTES) for party in range(terms.parties)}

    def start(self) -> tuple[Send, ...]:
        """Return the greetings, each with its party's key."""
        return tuple(Send(party, self._hello(), (memoryview(key),)) for party, key in self._keys.items())

    def time_out(self) -> JobFailed:
        """End the session because a party does not greet, or the last one does not take what it is dealt."""
        late = self._last if self.waiting_for is None else self.waiting_for
        return self._ended(late, "did not answer in time", code=ExitCode.DEADLINE_EXCEEDED)

    def _go_on(self) -> Iterator[Send]:
        """Deal, stage by stage: each is made when it is asked for, since all of them together are large."""
        self._inboxes = {}
        dealer = Dealer([self._stream(party, key) for party, key in self._keys.items()], self._masks)
        self._keys = {}
        for number, stage in enumerate(self._plan.stages):
            self.totals.rounds = min(number + 1, self._plan.rounds)
            parts = [part for deal in stage.deals for part in dealer.corrections(deal)]
            if parts:
                corrections = torch.cat(parts)
                send = Send(self._last, self._message(number, (corrections,)), (bytes_of(corrections),))
                self._count((send,))
                yield send
        self._results, self._over = [torch.empty(0, dtype=torch.int64)], True


def _parted(inbox: Inbox, like: Opening) -> Opening:
    """Return a party's message as shares of what was opened."""
    whole = torch.from_numpy(inbox.buffers[0])
    kinds = (*like.sums, *like.words)
    parts = pieces(whole, [each.numel() * each.element_size() // WORD_BYTES for each in kinds])
    shaped = [part.view(each.dtype).reshape(each.shape) for part, each in zip(parts, kinds, strict=True)]
    return Opening(tuple(shaped[: len(like.sums)]), tuple(shaped[len(like.sums) :]))

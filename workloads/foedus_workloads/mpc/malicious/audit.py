"""A session's audit: the operations for its layers, the agreement on inputs, and the check before anything leaves."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from foedus_workloads.mpc.arithmetic import reshare
from foedus_workloads.mpc.malicious import comparison, record, truncation
from foedus_workloads.mpc.malicious.claims import Claims, ProductClaim, counted
from foedus_workloads.mpc.malicious.coins import Coins, Entropy, toss
from foedus_workloads.mpc.malicious.matrices import check_matrices
from foedus_workloads.mpc.malicious.products import ANDS, PRODUCTS, SQUARES, Kind, check_products, make_products
from foedus_workloads.mpc.malicious.record import Pending, Record
from foedus_workloads.mpc.malicious.transcripts import Transcripts, compare
from foedus_workloads.mpc.party import Party, Shared, Summand
from foedus_workloads.mpc.primitives import Primitives
from foedus_workloads.mpc.rounds import Operation, together

# Words of claims of a kind from which on they are checked: two comparisons are enough then, and memory is bounded.
MOST_CLAIMED = 1 << 21


class Audit:
    """Everything that one party has to show in a session.

    `session` is the session's number, `entropy` the operating system's randomness. Claims that are not checked when the
    program ends are checked by `release`, without which no result leaves. `mark`, `traces` and `repeat` are a plan's, in
    which a step leaves the same traces in each layer (`record`).
    """

    def __init__(self, party: Party, session: bytes, entropy: Entropy) -> None:
        self._session, self._entropy = session, entropy
        self._record = Record(Transcripts(party), self._toss)
        self.mark, self.traces, self.repeat = self._record.mark, self._record.traces, self._record.repeat
        party.primitives = self._primitives()

    def agree(self, party: Party, shared: Iterable[Shared]) -> Operation[None]:
        """Compare with both neighbours what was dealt to this party (required check 2): 4 rounds."""
        for each in shared:
            self._record.transcripts.with_next(each.next, party.ring.bits)
            self._record.transcripts.with_previous(each.own, party.ring.bits)
        yield from self._compare(party)

    def settle_if_full(self, party: Party) -> Operation[None]:
        """Check the claims of each kind of which there are many."""
        if self._record.claims.most >= MOST_CLAIMED:
            yield from self.settle(party, MOST_CLAIMED)

    def settle(self, party: Party, least: int = 0) -> Operation[None]:
        """Check claims and compare all transcripts: 11 rounds; raises JobFailed where something is wrong.

        Claims of an element-wise kind of which there are fewer than `least` words are left for the next time.
        """
        yield from together(list(self._checks(party, self._record.claims.taken(least))))
        yield from self._compare(party)

    def release(self, party: Party, result: Shared) -> Operation[Shared]:
        """Return the result under fresh shares, when everything has been checked; nothing leaves without this.

        1. Share the result anew. 2. That the difference is zero goes into the transcripts. 3. Settle.
        """
        fresh = yield from reshare(party, Summand(result.own))
        difference = fresh - result
        self._record.transcripts.zero(difference.own, difference.next, party.ring.bits)
        yield from self.settle(party)
        return fresh

    def _checks(self, party: Party, claims: Claims) -> Iterable[Operation[None]]:
        if claims.carries:
            yield self._check_carries(party, claims.carries)
        for kind, group in ((PRODUCTS, claims.products), (SQUARES, claims.squares), (ANDS, claims.ands)):
            if group:
                yield self._check_products(party, kind, group)
        if claims.matrices:
            yield check_matrices(party, claims.matrices, lambda: self._toss(party), self._record.transcripts)

    def _check_products(self, party: Party, kind: Kind, claims: Sequence[ProductClaim]) -> Operation[None]:
        transcripts = self._record.transcripts
        random = yield from make_products(party, kind, counted(claims), self._toss(party), transcripts)
        yield from check_products(party, kind, claims, random, self._toss(party), transcripts)

    def _check_carries(self, party: Party, claims: Sequence[ProductClaim]) -> Operation[None]:
        """Check what dealers claim of masks, which no input decides: it could be checked ahead."""
        return self._check_products(party, ANDS, claims)

    def _toss(self, party: Party) -> Operation[Coins]:
        return toss(party, self._session, self._entropy)

    def _compare(self, party: Party) -> Operation[None]:
        transcripts, self._record.transcripts = self._record.transcripts, Transcripts(party)
        yield from compare(party, transcripts)

    def _primitives(self) -> Primitives:
        kept = self._record

        def bound(function: Callable[..., Any]) -> Callable[..., Any]:
            return functools.partial(function, kept)

        return Primitives(
            product=bound(record.product),
            square=bound(record.square),
            square_sum=bound(record.square_sum),
            prepare=record.prepare,
            matrix_product=bound(record.matrix_product),
            reshare=record.reshare,
            truncate=bound(_truncate),
            multiply=kept.multiply,
            carry_words=bound(comparison.carry_words),
            bit_to_arithmetic=kept.bit_to_arithmetic,
            inject=bound(record.inject),
            pause=self.settle_if_full,
        )


def _truncate(kept: Record, party: Party, x: Shared | Pending, count: int) -> Operation[Shared]:
    whole = (yield from record.reshare(party, x)) if isinstance(x, Pending) else x
    return (yield from truncation.truncate(party, kept, whole, count))

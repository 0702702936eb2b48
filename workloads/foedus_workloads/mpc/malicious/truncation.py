"""Division by 2^t with probabilistic rounding, where the dealer of the mask may deal another one, and anybody may lie.

Idea: as in `mpc.truncation`, two parties see the masked value c and the third knows the mask. What a lie could change
there is made of checked parts: the mask's carries are a claim about ANDs, what is opened has a second holder, and the
overflow is an AND and a conversion of bits.

Steps, for |x| < 2^(k-2) - 2^(t-1); first, second and dealer as in `party.Roles`, all values mod 2^k and unsigned,
h = k - t. Of these 1, 2 and 5 depend on no input and could be taken before one is known:
1. Dealer and first draw a, dealer and second draw b; r = a + b is the mask.
2. With a' = a >> t and b' = b >> t, the dealer computes the carries K of a' + b': K_i is the carry out of place i.
   Dealer and first draw K's first component, the dealer sends second the other; the third is 0. That the carries are
   right is h claims about ANDs, with the carries that come in, C = 2K:
       (a'_i XOR C_i) AND (b'_i XOR C_i) = K_i XOR C_i,
   whose Boolean sharings are local, for a' has the component of dealer and first alone, b' that of dealer and second.
3. first sends second x_first + a + 2^(k-2) + 2^(t-1), second sends first x_dealer + b. The dealer knows both messages:
   each receiver and the dealer note it in the transcript of their pair. With x_second first and second know c = x' + r,
   x' = x + 2^(k-2) + 2^(t-1) in [0, 2^(k-1)); the dealer does not.
4. u = K_(h-1) says that a' + b' wraps, v = a'_(h-1) XOR b'_(h-1) XOR K_(h-2) is the top bit of what is left. x' has a
   top bit of 0, so c overflowed once more exactly when q = v AND NOT (top bit of c): an AND, NOT (top bit of c) being a
   component that first and second hold, the two others 0.
5. u becomes a number mod 2^w, w >= t (`bits`).
6. q becomes one, too; w = u + q.
7. Components: (c >> t) + 2^(k-t) w_second - 2^(k-2-t) - 1 at first and second, -(a >> t) + 2^(k-t) w_first at dealer
   and first, -(b >> t) + 2^(k-t) w_dealer at dealer and second.

What first sees is uniform: second's message hides under b, of which it knows nothing; likewise second. The dealer sees
nothing but masked shares of q. A dealer that deals wrong carries makes a false claim, whatever x is; whether the
session ends says nothing of x.

Result: x / 2^t + e with |e| < 1.5 units, as in `mpc.truncation`. Cost: 3 rounds, from a product 1 more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foedus_workloads.mpc.cut import Cut
from foedus_workloads.mpc.malicious.claims import ProductClaim
from foedus_workloads.mpc.malicious.record import Record
from foedus_workloads.mpc.malicious.wire import pack_lanes, unpack_lanes
from foedus_workloads.mpc.party import Party, Roles, Shared, Step, expected, from_wire, to_wire
from foedus_workloads.mpc.ring import WORD_BITS, container, low_bits, shift_right, total
from foedus_workloads.mpc.rounds import Exchange, Expected, Operation, together

_FIRST_MASK, _SECOND_MASK, _CARRIES = range(3)  # slots


@dataclass(frozen=True)
class Task:
    """One rounding: its step, who does what, how much is cut, of how many elements."""

    step: Step
    roles: Roles
    cut: Cut
    count: int

    @property
    def high(self) -> int:
        """h, the bits that are left."""
        return self.cut.bits - self.cut.count

    @property
    def low(self) -> int:
        """The low h bits."""
        return (1 << self.high) - 1

    @property
    def number_bits(self) -> int:
        """w, those of the numbers that u and q become."""
        return 8 * container(self.cut.count).itemsize

    def draw(self, component: int, slot: int) -> Tensor:
        """Draw what both holders of the component have in common."""
        return self.step.draw(component, slot, (self.count,))


@dataclass(frozen=True)
class Masks:
    """The masks that go with this party's components (step 1): a with first's, b with dealer's, none with second's."""

    own: Tensor | None = field(repr=False)
    next: Tensor | None = field(repr=False)


@dataclass(frozen=True)
class Dealt:
    """Boolean sharings of u, the carry that comes out, and of v, the top bit of what is left (step 4), as int8."""

    wraps: Shared
    top: Shared


def truncate(party: Party, record: Record, x: Shared, count: int) -> Operation[Shared]:
    """Return a sharing of x / 2^count, rounded as the module says; `count` from 1 to k - 2."""
    task = begin(party, x, count)
    yield from record.supply(party, task.number_bits, 2 * task.count)
    masks = draw_masks(task)
    flat = x.map(lambda t: t.reshape(-1))
    pair: list[Operation[Any]] = [deal_carries(task, record, masks), open_masked(task, record, flat, masks)]
    dealt, c = yield from together(pair)
    pair = [convert_wraps(task, record, dealt), _convert_overflow(task, record, dealt, c)]
    wraps, overflow = yield from together(pair)

    def component(index: int, mask: Tensor | None, u: Tensor, q: Tensor) -> Tensor:
        if mask is not None:
            return task.cut.component(mask, -(u + q))
        assert c is not None, "who has no mask for a component is first or second"
        return task.cut.common(c, u, q)

    return Shared(
        component(party.index, masks.own, wraps.own, overflow.own).reshape(x.shape),
        component(party.following, masks.next, wraps.next, overflow.next).reshape(x.shape),
    )


def begin(party: Party, x: Shared, count: int) -> Task:
    """Return a rounding of x, about to begin."""
    step = party.begin()
    return Task(step, step.roles(), Cut(party.ring.bits, count), x.own.numel())


def draw_masks(task: Task) -> Masks:
    """Draw what this party knows of the mask (step 1)."""

    def drawn(component: int) -> Tensor | None:
        if component == task.roles.second:
            return None
        return task.draw(component, _FIRST_MASK if component == task.roles.first else _SECOND_MASK)

    party = task.step.party
    return Masks(drawn(party.index), drawn(party.following))


def deal_carries(task: Task, record: Record, masks: Masks) -> Operation[Dealt]:
    """Share the carries of a' + b', claim that they are right, and return what the overflow needs: 1 round (step 2)."""
    carries = yield from _share_carries(task, masks)
    party = task.step.party
    own = _parts(task, party.index, masks.own, carries[0])
    following = _parts(task, party.following, masks.next, carries[1])
    # Component second is zero, and no party holds that alone.
    own = own or tuple(map(torch.zeros_like, following))
    following = following or tuple(map(torch.zeros_like, own))
    x, y, z, wraps, top = (Shared(*each) for each in zip(own, following, strict=True))
    record.claims.carries.append(ProductClaim(x, y, z))
    return Dealt(wraps, top)


def _share_carries(task: Task, masks: Masks) -> Operation[tuple[Tensor | None, Tensor | None]]:
    """Return this party's two components of the carries, without that of second, which is zero."""
    roles, index = task.roles, task.step.party.index
    if index == roles.second:
        received = yield Exchange(from_next=(_narrow_kind(task),))
        return None, _wide(received.from_next[0], task)
    common = task.draw(roles.first, _CARRIES) & task.low
    if index == roles.first:
        yield Exchange()
        return common, None
    assert masks.own is not None, "the dealer knows b"
    assert masks.next is not None, "the dealer knows a"
    dealt = _carries(masks.next, masks.own, task) ^ common
    yield Exchange(to_previous=(_narrow(dealt, task),))
    return dealt, common


def _carries(a: Tensor, b: Tensor, task: Task) -> Tensor:
    """Return K: bit i says that a carry comes out of place i of a' + b'."""
    left, right = (shift_right(each, task.cut.count, task.cut.bits) for each in (a, b))
    return (((left + right) ^ left ^ right) >> 1) & task.low


def _parts(task: Task, component: int, mask: Tensor | None, carries: Tensor | None) -> tuple[Tensor, ...]:
    """Return a component of the claim's factors and result (step 2), packed, and of u and v (step 4)."""
    if mask is None or carries is None:
        return ()
    carried = (carries << 1) & task.low
    masked = shift_right(mask, task.cut.count, task.cut.bits) ^ carried
    factors = (masked, carried) if component == task.roles.first else (carried, masked)
    top = task.high - 1
    bits = (((each >> top) & 1).to(torch.int8) for each in (carries, masked))
    return (*(_packed(each, task) for each in (*factors, carries ^ carried)), *bits)


def open_masked(task: Task, record: Record, x: Shared, masks: Masks) -> Operation[Tensor | None]:
    """Return c at first and second, and note it where the dealer vouches for it: 1 round (step 3)."""
    cut, roles, index, transcripts = task.cut, task.roles, task.step.party.index, record.transcripts
    whole = expected((task.count,), cut.bits)
    if index == roles.dealer:
        yield Exchange()
        transcripts.with_next(_plus(x.own, masks.own), cut.bits)
        transcripts.with_previous(_plus(x.next, masks.next, cut.offset), cut.bits)
        return None
    if index == roles.first:
        sent, known = _plus(x.own, masks.own, cut.offset), x.next
        received = yield Exchange(to_next=(to_wire(sent, cut.bits),), from_next=(whole,))
        other = from_wire(received.from_next[0], cut.bits)
        transcripts.with_previous(other, cut.bits)
    else:
        sent, known = _plus(x.next, masks.next), x.own
        received = yield Exchange(to_previous=(to_wire(sent, cut.bits),), from_previous=(whole,))
        other = from_wire(received.from_previous[0], cut.bits)
        transcripts.with_next(other, cut.bits)
    return total((sent, other, known), bits=cut.bits)


def _plus(x: Tensor, mask: Tensor | None, constant: int = 0) -> Tensor:
    assert mask is not None, "what has no mask is not sent"
    return total((x, mask), constant)


def convert_wraps(task: Task, record: Record, dealt: Dealt) -> Operation[Shared]:
    """Return u as a number: 1 round (step 5)."""
    return record.convert(task.step.party, dealt.wraps, task.number_bits)


def _convert_overflow(task: Task, record: Record, dealt: Dealt, c: Tensor | None) -> Operation[Shared]:
    """Return q as a number: 2 rounds (steps 4 and 6)."""
    party, zero = task.step.party, torch.zeros_like(dealt.top.own)
    positive = zero if c is None else (low_bits(c, task.cut.bits) >= 0).to(torch.int8)
    first, second = party.index == task.roles.first, party.index == task.roles.second
    # The component that first and second have in common is first's second and second's first.
    clear = Shared(positive if second else zero, positive if first else zero)
    q = yield from record.bitwise_and(party, dealt.top, clear)
    return (yield from record.convert(party, q, task.number_bits))


def _packed(words: Tensor, task: Task) -> Tensor:
    """Return words of h bits in as few words as lanes allow; a test's small ring has one each."""
    return pack_lanes(words, task.high) if task.cut.bits == WORD_BITS else words


def _narrow(words: Tensor, task: Task) -> Tensor:
    """Return what travels of words of h bits."""
    return _packed(words, task) if task.cut.bits == WORD_BITS else to_wire(words, task.cut.bits)


def _narrow_kind(task: Task) -> Expected:
    if task.cut.bits != WORD_BITS:
        return expected((task.count,), task.cut.bits)
    lanes = -(-task.high // 16)
    return expected((task.count if lanes == 4 else -(-task.count * lanes // 4),), WORD_BITS)


def _wide(received: Tensor, task: Task) -> Tensor:
    if task.cut.bits != WORD_BITS:
        return from_wire(received, task.cut.bits) & task.low
    return unpack_lanes(received, task.high, task.count) & task.low

"""Division by 2^t with probabilistic rounding, where the dealer of the mask may deal another one, and anybody may lie.

Idea: as in `mpc.truncation`, two parties see the masked value c and the third knows the mask. What a lie could change
there is made of checked parts: the mask's carries are a claim about ANDs, what is opened has a second holder, and the
overflow is an AND and a conversion of bits.

Steps, for |x| < 2^(k-2) - 2^(t-1); first, second and dealer as in `party.Roles`, all values mod 2^k and unsigned,
h = k - t:
1. Dealer and first draw a, dealer and second draw b; r = a + b is the mask.
2. With a' = a >> t and b' = b >> t, the dealer computes the carries K of a' + b': K_i is the carry out of place i.
   Dealer
   and first draw K's first component, the dealer sends second the other; the third is 0. That the carries are right is
   h claims about ANDs, with the carries that come in, C = 2K:
       (a'_i XOR C_i) AND (b'_i XOR C_i) = K_i XOR C_i,
   whose Boolean sharings are local, for a' has the component of dealer and first alone, b' that of dealer and second.
3. first sends second x_first + a + 2^(k-2) + 2^(t-1), second sends first x_dealer + b. The dealer knows both messages:
   each receiver and the dealer note it in the transcript of their pair. With x_second first and second know c = x' + r,
   x' = x + 2^(k-2) + 2^(t-1) in [0, 2^(k-1)); the dealer does not.
4. u = K_(h-1) says that a' + b' wraps, v = a'_(h-1) XOR b'_(h-1) XOR K_(h-2) is the top bit of what is left. x' has a
   top bit of 0, so c overflowed once more exactly when q = v AND NOT (top bit of c): an AND, NOT (top bit of c) being a
   component that first and second hold, the two others 0.
5. u and q become numbers mod 2^w, w >= t, w = u + q: two conversions (`bits`).
6. Components: (c >> t) + 2^(k-t) w_second - 2^(k-2-t) - 1 at first and second, -(a >> t) + 2^(k-t) w_first at dealer
   and first, -(b >> t) + 2^(k-t) w_dealer at dealer and second.

What first sees is uniform: second's message hides under b, of which it knows nothing; likewise second. The dealer sees
nothing but masked shares of q. A dealer that deals wrong carries makes a false claim, whatever x is; whether the
session ends says nothing of x.

Result: x / 2^t + e with |e| < 1.5 units, as in `mpc.truncation`. Cost: 4 rounds, from a product 1 more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foedus_workloads.mpc.cut import Cut
from foedus_workloads.mpc.malicious.claims import ProductClaim
from foedus_workloads.mpc.malicious.record import Record
from foedus_workloads.mpc.malicious.wire import pack_lanes, unpack_lanes
from foedus_workloads.mpc.party import Party, Roles, Shared, Step, expected, from_wire, to_wire
from foedus_workloads.mpc.ring import WORD_BITS, container, low_bits, shift_right, top_bit
from foedus_workloads.mpc.rounds import Exchange, Expected, Operation

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

    def first_mask(self) -> Tensor:
        """Draw a: dealer and first."""
        return self.step.draw(self.roles.first, _FIRST_MASK, (self.count,))

    def second_mask(self) -> Tensor:
        """Draw b: dealer and second."""
        return self.step.draw(self.roles.dealer, _SECOND_MASK, (self.count,))

    def first_carries(self) -> Tensor:
        """Draw the component of the carries that dealer and first hold."""
        return self.step.draw(self.roles.first, _CARRIES, (self.count,)) & self.low

    @property
    def low(self) -> int:
        """The low h bits."""
        return (1 << self.high) - 1


@dataclass(frozen=True)
class Held:
    """What a party holds after steps 1 to 3: of a' and b' and of the carries its Boolean components; c, or nothing."""

    left: Shared
    right: Shared
    carries: Shared
    c: Tensor | None


def truncate(party: Party, record: Record, x: Shared, count: int) -> Operation[Shared]:
    """Return a sharing of x / 2^count, rounded as the module says; `count` from 1 to k - 2."""
    shape = x.shape
    task = begin(party, x, count)
    held = yield from mask(task, record, x)
    _claim_carries(record, task, held)
    overflow = yield from _overflow(party, record, task, held)
    return _components(task, held, overflow).map(lambda t: t.reshape(shape))


def begin(party: Party, x: Shared, count: int) -> Task:
    """Return a rounding of x, about to begin."""
    step = party.begin()
    return Task(step, step.roles(), Cut(party.ring.bits, count), x.own.numel())


def mask(task: Task, record: Record, x: Shared) -> Operation[Held]:
    """Do steps 1 to 3: 1 round."""
    steps = {task.roles.dealer: _dealer, task.roles.first: _first, task.roles.second: _second}
    return (yield from steps[task.step.party.index](task, record, x.map(lambda t: t.reshape(-1))))


def _dealer(task: Task, record: Record, x: Shared) -> Operation[Held]:
    cut = task.cut
    a, b, common = task.first_mask(), task.second_mask(), task.first_carries()
    high_a, high_b = (shift_right(each, cut.count, cut.bits) for each in (a, b))
    dealt = _carries(high_a, high_b, task) ^ common
    yield Exchange(to_previous=(_narrow(dealt, task),))
    of_first, of_second = low_bits(x.next + a + cut.offset, cut.bits), low_bits(x.own + b, cut.bits)
    record.transcripts.with_next(of_second, cut.bits)
    record.transcripts.with_previous(of_first, cut.bits)
    zero = torch.zeros_like(a)
    return Held(Shared(zero, high_a), Shared(high_b, zero), Shared(dealt, common), None)


def _carries(left: Tensor, right: Tensor, task: Task) -> Tensor:
    """Return K: bit i says that a carry comes out of place i of the sum (step 2)."""
    return (((left + right) ^ left ^ right) >> 1) & task.low


def _first(task: Task, record: Record, x: Shared) -> Operation[Held]:
    cut, a, carries = task.cut, task.first_mask(), task.first_carries()
    sent = x.own + a + cut.offset
    whole = expected((task.count,), cut.bits)
    received = yield Exchange(to_next=(to_wire(sent, cut.bits),), from_next=(whole,))
    other = from_wire(received.from_next[0], cut.bits)
    record.transcripts.with_previous(other, cut.bits)
    zero = torch.zeros_like(a)
    high = shift_right(a, cut.count, cut.bits)
    return Held(Shared(high, zero), Shared(zero, zero), Shared(carries, zero), sent + other + x.next)


def _second(task: Task, record: Record, x: Shared) -> Operation[Held]:
    cut, b = task.cut, task.second_mask()
    sent = x.next + b
    received = yield Exchange(
        to_previous=(to_wire(sent, cut.bits),),
        from_previous=(expected((task.count,), cut.bits),),
        from_next=(_narrow_kind(task),),
    )
    other = from_wire(received.from_previous[0], cut.bits)
    record.transcripts.with_next(other, cut.bits)
    carries = _wide(received.from_next[0], task)
    zero = torch.zeros_like(b)
    high = shift_right(b, cut.count, cut.bits)
    return Held(Shared(zero, zero), Shared(zero, high), Shared(zero, carries), sent + other + x.own)


def _claim_carries(record: Record, task: Task, held: Held) -> None:
    """Claim that the carries are right (step 2)."""
    carried = held.carries.map(lambda t: (t << 1) & task.low)
    parts = (held.left ^ carried, held.right ^ carried, held.carries ^ carried)
    x, y, z = (each.map(lambda t: _packed(t, task)) for each in parts)
    record.claims.ands.append(ProductClaim(x, y, z))


def _overflow(party: Party, record: Record, task: Task, held: Held) -> Operation[Shared]:
    """Return w mod 2^w (steps 4 and 5): 3 rounds."""
    top = task.high - 1
    wraps = held.carries.map(lambda t: (t >> top) & 1)
    carried = held.carries.map(lambda t: t << 1)
    v = (held.left ^ held.right ^ carried).map(lambda t: (t >> top) & 1)
    zero = torch.zeros_like(v.own)
    positive = zero if held.c is None else 1 - top_bit(held.c, task.cut.bits)
    first, second = party.index == task.roles.first, party.index == task.roles.second
    # The component that first and second have in common is first's second and second's first.
    clear = Shared(positive if second else zero, positive if first else zero)
    q = yield from record.bitwise_and(party, v, clear)
    both = Shared(
        *(torch.stack([u.to(torch.int8), w.to(torch.int8)]) for u, w in ((wraps.own, q.own), (wraps.next, q.next)))
    )
    numbers = yield from record.bit_to_arithmetic(party, both, bits=8 * container(task.cut.count).itemsize)
    return numbers.map(lambda t: t.sum(0))


def _components(task: Task, held: Held, overflow: Shared) -> Shared:
    """Return the components of the result (step 6)."""
    cut = task.cut
    wrapped = overflow.map(lambda t: t << (cut.bits - cut.count))
    if held.c is None:
        return Shared(wrapped.own - held.right.own, wrapped.next - held.left.next)
    common = shift_right(held.c, cut.count, cut.bits) - ((1 << (cut.bits - 2 - cut.count)) + 1)
    if task.step.party.index == task.roles.first:
        return Shared(wrapped.own - held.left.own, wrapped.next + common)
    return Shared(wrapped.own + common, wrapped.next - held.right.next)


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

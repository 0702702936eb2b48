"""Division by 2^t with probabilistic rounding, for a sharing or straight from a product's summands.

Idea: open the masked secret to two parties, while the third, who dealt the mask, sees nothing of it (after Escudero
et al., "Improved Primitives for MPC over Mixed Arithmetic-Binary Circuits", CRYPTO 2020, section 5, with the third
party of ABY3 as dealer). Unlike shifting shares locally it never errs by 2^(k-t).

Steps, for |x| < 2^(k-2) - 2^(t-1); first, second and dealer as in `party.Roles`, all values mod 2^k and unsigned:
1. Dealer and first draw a, dealer and second draw b; r = a + b is the mask. Neither first nor second knows r. For a
   product, where all three have a summand, both draw two numbers: a = a' + a" and b = b' + b".
2. From a sharing first has x_first + x_second and second has x_dealer; first sends its part + a to second, second sends
   its part + b to first. From a product first sends its summand + a" to second, second its summand + b" to first, and
   the dealer its summand + a' to second and + b' to first. First's part also carries 2^(k-2) + 2^(t-1). Each adds what
   it knows of a or b, so first and second have c = x' + r, where x' = x + 2^(k-2) + 2^(t-1) lies in [0, 2^(k-1));
   the dealer has not.
3. The dealer computes u = [a + b wraps at 2^k] and v = the top bit of r, and shares both mod 2^t between first (drawn
   with it) and second (sent in the same round).
4. x' = c - a - b + 2^k w with w = u + v (1 - top bit of c): x' has a top bit of 0, so c overflowed exactly when r has
   that bit and c has not. first and second compute their shares of w, mask them by s (drawn by dealer and first) and
   s' (by dealer and second), and exchange them; they add up to m = w + s + s' mod 2^t.
5. Components: (c >> t) + 2^(k-t) m - 2^(k-2-t) - 1 at first and second, -(a >> t) - 2^(k-t) s at dealer and first,
   -(b >> t) - 2^(k-t) s' at dealer and second.

What first sees is uniform whatever the summands are: second's hides under b", the dealer's under b', the share of w
under s'; likewise for second. The dealer receives nothing.

Adversary: one party that follows the protocol, no other. The dealer knows the mask, and anybody can shift a result by
multiples of 2^(k-t) unseen: nothing here is checked.

Result: x / 2^t + e with |e| < 1.5 in units of the last place: three floors, whose mean the 2^(t-1) and the -1 take out.
e has mean 0 (within 2^-t) and depends on low bits of c, a and b: this rounding is part of the functionality.

Cost: 2 rounds. With w(t) the bytes of the smallest integer type of t bits, first and second send 8 + w(t) each and the
dealer 2 w(t), from a product 16 more.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foedus_workloads.mpc.cut import Cut, Mask, Narrow
from foedus_workloads.mpc.party import Party, Roles, Shared, Step, Summand, expected, from_wire, to_wire
from foedus_workloads.mpc.rounds import Exchange, Operation

_FIRST_MASK, _SECOND_MASK, _WRAP, _TOP, _FIRST_PAD, _SECOND_PAD, _FIRST_OTHER, _SECOND_OTHER = range(8)


@dataclass(frozen=True)
class _Task:
    """One truncation: its step, who does what, how much is cut, and whether it is of a product's summands."""

    step: Step
    roles: Roles
    cut: Cut
    shape: tuple[int, ...]
    of_product: bool

    def first_mask(self) -> Mask:
        return self._mask(self.roles.first, _FIRST_MASK, _FIRST_OTHER)

    def second_mask(self) -> Mask:
        return self._mask(self.roles.dealer, _SECOND_MASK, _SECOND_OTHER)

    def _mask(self, component: int, part: int, rest: int) -> Mask:
        other = self.step.draw(component, rest, self.shape) if self.of_product else None
        return Mask(self.step.draw(component, part, self.shape), other)

    def narrow(self, slot: int) -> Tensor:
        """Draw mod 2^t what the dealer has in common with first, or, of second's pad, with second."""
        component = self.roles.dealer if slot == _SECOND_PAD else self.roles.first
        return self.step.draw_narrow(component, slot, self.shape, self.cut.count)


def truncate(party: Party, x: Shared | Summand, count: int) -> Operation[Shared]:
    """Return a sharing of x / 2^count, rounded as the module says; `count` from 1 to k - 2."""
    step = party.begin()
    task = _Task(step, step.roles(), Cut(party.ring.bits, count), x.shape, isinstance(x, Summand))
    if party.index == task.roles.dealer:
        return (yield from _dealer(task, x))
    if party.index == task.roles.first:
        return (yield from _first(task, x))
    return (yield from _second(task, x))


def _dealer(task: _Task, x: Shared | Summand) -> Operation[Shared]:
    cut, narrow = task.cut, Narrow(*map(task.narrow, (_WRAP, _TOP, _FIRST_PAD, _SECOND_PAD)))
    summand = x.value if isinstance(x, Summand) else None
    dealt = cut.deal(summand, task.first_mask(), task.second_mask(), narrow)
    to_first, to_second = (
        () if each is None else (to_wire(each, cut.bits),) for each in (dealt.to_first, dealt.to_second)
    )
    yield Exchange(to_next=to_first, to_previous=(*to_second, *dealt.hints))
    yield Exchange()
    return Shared(own=dealt.own, next=dealt.next)


def _first(task: _Task, x: Shared | Summand) -> Operation[Shared]:
    cut, a, pad = task.cut, task.first_mask(), task.narrow(_FIRST_PAD)
    whole, narrow = expected(task.shape, cut.bits), expected(task.shape, cut.count)
    parts = (x.value,) if isinstance(x, Summand) else (x.own, x.next)
    sent, component = cut.send(parts, a, pad, cut.offset)
    received = yield Exchange(
        to_next=(to_wire(sent, cut.bits),),
        from_next=(whole,),
        from_previous=(whole,) if task.of_product else (),
    )
    came = [from_wire(each, cut.bits) for each in received.from_next + received.from_previous]
    c, share = cut.open(sent, came, a.rest, (task.narrow(_WRAP), task.narrow(_TOP), pad))
    received = yield Exchange(to_next=(share,), from_next=(narrow,))
    return Shared(own=component, next=cut.common(c, share, received.from_next[0]))


def _second(task: _Task, x: Shared | Summand) -> Operation[Shared]:
    cut, b, pad = task.cut, task.second_mask(), task.narrow(_SECOND_PAD)
    whole, narrow = expected(task.shape, cut.bits), expected(task.shape, cut.count)
    sent, component = cut.send((x.value if isinstance(x, Summand) else x.next,), b, pad, 0)
    received = yield Exchange(
        to_previous=(to_wire(sent, cut.bits),),
        from_previous=(whole,),
        from_next=(*((whole,) if task.of_product else ()), narrow, narrow),
    )
    *summand, wrap, top = received.from_next
    came = [from_wire(each, cut.bits) for each in (*received.from_previous, *summand)]
    c, share = cut.open(sent, came, b.rest, (wrap, top, pad))
    received = yield Exchange(to_previous=(share,), from_previous=(narrow,))
    return Shared(own=cut.common(c, share, received.from_previous[0]), next=component)

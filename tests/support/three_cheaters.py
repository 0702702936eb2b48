"""Three parties of which one deviates: it sees the others' messages of a round first, and its own checks never fail.

An attack changes what the cheater sends (`Message`), or makes it of what it has just seen (`Rushed`), or changes what
it computes, so that its own shares and tags fit what it has sent (`Fault`): an error in a product that it shares, in a
converted bit, in the carries of a mask that it deals.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from foedus_contract.errors import JobFailed
from foedus_workloads.mpc import arithmetic, conversion
from foedus_workloads.mpc.activations import gelu
from foedus_workloads.mpc.arithmetic import ARITHMETIC, BOOLEAN, Domain
from foedus_workloads.mpc.layers import Linear, linear
from foedus_workloads.mpc.malicious import coins, transcripts, truncation
from foedus_workloads.mpc.malicious.audit import Audit
from foedus_workloads.mpc.malicious.record import prepare as prepare_checked
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.rounds import Exchange, Operation, Received

from .three_parties import encoded, parties, revealed, shared

TOP = -(2**63)
SESSION = b"s" * 16
FAULTS = ("share", "convert", "deal")


@dataclass(frozen=True)
class Message:
    """Changes a tensor of the message that the cheater sends in a round."""

    round: int
    to_next: bool
    tensor: int
    change: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rushed:
    """Makes a tensor of the cheater's message of its own and of what the others send it in the same round."""

    round: int
    to_next: bool
    tensor: int
    make: Callable[[Tensor, Received], Tensor]


@dataclass(frozen=True)
class Fault:
    """Adds an error to elements of what the cheater computes at the `nth` call of a step; its state fits."""

    step: str
    nth: int
    error: int = 1
    places: Sequence[int] = (0,)


@dataclass
class Played:
    """How a session ended: the error of a party that follows the protocol, or what the client would put together."""

    error: JobFailed | None = None
    values: Tensor | None = None
    sent: list[Exchange] = field(default_factory=list)  # the cheater's own, round by round
    calls: dict[str, list[int]] = field(default_factory=lambda: {step: [] for step in FAULTS})  # elements of each


class _Cheating:
    """Whose turn it is, and what the cheater's steps do when it is its own."""

    def __init__(self, cheater: int, faults: Sequence[Fault], played: Played) -> None:
        self.cheater, self.faults, self.played = cheater, faults, played
        self.turn: int | None = None

    def disturbed(self, step: str, made: Tensor, add: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if self.turn != self.cheater:
            return made
        number = len(self.played.calls[step])
        self.played.calls[step].append(made.numel())
        for fault in self.faults:
            if (fault.step, fault.nth) == (step, number):
                error = torch.zeros_like(made).reshape(-1)
                error[list(fault.places)] = torch.tensor(fault.error).to(made.dtype)
                made = add(made, error.reshape(made.shape))
        return made

    def same(self, left: bytes, right: bytes) -> bool:
        return self.turn == self.cheater or hmac.compare_digest(left, right)

    @contextmanager
    def patches(self) -> Iterator[None]:
        zero_mask, carries = arithmetic.zero_mask, truncation._carries

        def masked(step: Any, shape: Any, domain: Domain = ARITHMETIC, *, bits: int | None = None) -> Tensor:
            return self.disturbed("share", zero_mask(step, shape, domain, bits=bits), domain.add)

        def subtracted(left: Tensor, right: Tensor) -> Tensor:
            return self.disturbed("convert", left - right, torch.add)

        def dealt(*arguments: Any) -> Tensor:
            return self.disturbed("deal", carries(*arguments), BOOLEAN.add)

        checks = mock.Mock(compare_digest=self.same)
        with ExitStack() as stack:
            for target, name, value in (
                (arithmetic, "zero_mask", masked),
                (conversion, "ARITHMETIC", Domain(torch.add, subtracted, torch.mul)),
                (truncation, "_carries", dealt),
                (transcripts, "hmac", checks),
                (coins, "hmac", checks),
            ):
                stack.enter_context(mock.patch.object(target, name, value))
            yield


def play(
    operation: Callable[[Party], Operation[Shared]],
    cheater: int,
    attack: Sequence[Message | Rushed | Fault] = (),
    *,
    last: Callable[[list[Shared]], list[Shared]] = lambda shares: shares,
) -> Played:
    """Run a session; `last` changes what the parties send the client."""
    played = Played()
    cheating = _Cheating(cheater, [each for each in attack if isinstance(each, Fault)], played)
    messages = [each for each in attack if not isinstance(each, Fault)]
    running = [operation(party) for party in parties()]
    received: list[Received | None] = [None] * 3
    results: list[Any] = [None] * 3
    with cheating.patches():
        while True:
            exchanges = []
            for i, each in enumerate(running):
                cheating.turn = i
                came = received[i]
                try:
                    exchanges.append(next(each) if came is None else each.send(came))
                except StopIteration as end:
                    results[i] = end.value
                except JobFailed as error:
                    played.error = error
                    return played
            if not exchanges:
                break
            played.sent.append(exchanges[cheater])
            seen = _received(exchanges, cheater)
            exchanges[cheater] = _changed(exchanges[cheater], len(played.sent) - 1, messages, seen)
            received = [_received(exchanges, i) for i in range(3)]
    try:
        played.values = revealed(last(results))
    except AssertionError as error:
        played.error = JobFailed(str(error))
    return played


def _changed(exchange: Exchange, number: int, messages: Sequence[Message | Rushed], seen: Received) -> Exchange:
    to_previous, to_next = list(exchange.to_previous), list(exchange.to_next)
    for message in messages:
        if message.round == number:
            payload = to_next if message.to_next else to_previous
            own = payload[message.tensor].clone()
            payload[message.tensor] = message.make(own, seen) if isinstance(message, Rushed) else message.change(own)
    return Exchange(tuple(to_previous), tuple(to_next), exchange.from_previous, exchange.from_next)


def _received(exchanges: Sequence[Exchange], i: int) -> Received:
    return Received(_copied(exchanges[(i - 1) % 3].to_next), _copied(exchanges[(i + 1) % 3].to_previous))


def _copied(payload: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(each.clone() for each in payload)


def flipped(tensor: Tensor) -> Tensor:
    """Flip the top bit of the first element."""
    flat = tensor.reshape(-1)
    flat[0] ^= torch.iinfo(tensor.dtype).min
    return tensor


def echoed(own: Tensor, seen: Received) -> Tensor:
    """Return the first tensor like one's own that another party sends in this round; one's own where there is none."""
    came = (*seen.from_previous, *seen.from_next)
    return next((each for each in came if (each.dtype, each.shape) == (own.dtype, own.shape)), own)


def raised(tensor: Tensor) -> Tensor:
    """Add one to the first element."""
    tensor.reshape(-1)[0] += 1
    return tensor


X = torch.tensor([[0.5, -1.25, 2.0], [-3.0, 0.25, 1.0]], dtype=torch.float64)
W = torch.tensor([[0.5, -0.25], [1.0, 0.75], [-0.5, 1.5]], dtype=torch.float64)
B = torch.tensor([0.25, -0.5], dtype=torch.float64)
EXACT = torch.nn.functional.gelu(X @ W + B)
_SHARES = [shared(encoded(each), seed=7 + 2 * i) for i, each in enumerate((X, W, B))]


def small_program(party: Party) -> Operation[Shared]:
    """A linear map and GELU: matrices, products, squares, ANDs, conversions and roundings are all there."""
    audit = Audit(party, SESSION, os.urandom)
    x, w, b = (each[party.index] for each in _SHARES)
    yield from audit.agree(party, [x, w, b])
    y = yield from linear(party, x, Linear(prepare_checked(w), b * (1 << party.fraction)))
    y = yield from gelu(party, y)
    return (yield from audit.release(party, y))


def is_right(values: Tensor) -> bool:
    """Tell whether the values are the small program's."""
    return bool((values.double() / 2**16 - EXACT).abs().max() < 0.01)

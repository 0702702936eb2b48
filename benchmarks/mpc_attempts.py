"""Attempts to falsify an answer under `Replicated3PCMalicious`, and what each of its checks keeps from it.

The program is small (linear map and GELU), attempts are seeded. A cheater that sees the others' messages of a round
first and whose own checks never fail changes a message, or says what another has just said, or computes on with an
error and makes its shares and tags fit, or is wrong in a claim and in random products alike. An attempt ends the
session, or changes nothing (a top bit that is doubled, a zero that is sent anyway); one that yields another answer is a
failure. Then each check is switched off, and its own attack must get through.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from foedus_workloads.mpc.malicious import audit as audits
from foedus_workloads.mpc.malicious import bits, coins, products
from foedus_workloads.mpc.malicious.buckets import Buckets, fit
from foedus_workloads.mpc.party import PARTIES, Shared
from foedus_workloads.mpc.rounds import Operation

# Of a mask's carries two decide: with 16 of 64 bits cut, those out of places 46 and 47.
ERRORS = (1 << 13, 1 << 40, 1 << 46, 1 << 47, 1 << 62)  # one that rounding or doubling hides gets nothing through


def attempt(seed: int, honest: Sequence[Any], cheaters: Any) -> tuple[str, str]:
    """Return what was attempted, and whether the session ended, the answer stayed, or a false one came."""
    chosen = random.Random(seed)
    cheater = chosen.randrange(PARTIES)
    name, attack, last = _attack(chosen, honest[cheater], cheaters, cheater)
    played = cheaters.play(cheaters.small_program, cheater, attack, last=last)
    if played.values is None:
        return name, "ended"
    return name, "unchanged" if cheaters.is_right(played.values) else "false"


def _attack(chosen: random.Random, honest: Any, cheaters: Any, cheater: int) -> tuple[str, list[Any], Any]:
    kind = chosen.choice(("message", "message", "fault", "fault", "tuples", "coins", "last message"))
    if kind in ("message", "coins"):
        return kind, [_message(chosen, honest, cheaters, _of_coins if kind == "coins" else _anything)], _unchanged
    if kind == "last message":
        return kind, [], lambda shares: _false_copy(chosen, shares, cheater)
    if kind == "tuples":
        return kind, _claim_and_tuples(chosen, honest, cheaters), _unchanged
    step = chosen.choice([each for each in cheaters.FAULTS if honest.calls[each]])  # only dealers have carries
    number = chosen.randrange(len(honest.calls[step]))
    error = chosen.choice((1, -1, 1 << 13, cheaters.TOP if step == "share" else 1 << 14, chosen.getrandbits(62) | 1))
    return f"{kind}: {step}", [cheaters.Fault(step, number, error)], _unchanged


def _unchanged(shares: list[Shared]) -> list[Shared]:
    return shares


def _anything(_: Tensor) -> bool:
    return True


def _of_coins(sent: Tensor) -> bool:
    """Tell commitments and reveals by what they alone are: 32 or 64 single bytes."""
    return sent.dtype is torch.int8 and sent.numel() in (coins.NONCE_BYTES, 2 * coins.NONCE_BYTES)


def _message(chosen: random.Random, honest: Any, cheaters: Any, wanted: Callable[[Tensor], bool]) -> Any:
    """Return a changed tensor of those that are wanted, of a round that is drawn first."""
    places: dict[int, list[tuple[bool, int]]] = {}
    for number, each in enumerate(honest.sent):
        for to_next, payload in ((False, each.to_previous), (True, each.to_next)):
            found = [(to_next, tensor) for tensor, sent in enumerate(payload) if wanted(sent)]
            places[number] = places.get(number, []) + found
    number = chosen.choice([number for number, found in places.items() if found])
    to_next, tensor = chosen.choice(places[number])
    sent = (honest.sent[number].to_next if to_next else honest.sent[number].to_previous)[tensor]
    place, change = chosen.randrange(sent.numel()), chosen.choice(("top", "one", "any", "echo"))
    if change == "echo":
        return cheaters.Rushed(number, to_next, tensor, cheaters.echoed)

    def changed(values: Tensor) -> Tensor:
        flat = values.reshape(-1)
        low = torch.iinfo(values.dtype).min
        if change == "one":
            flat[place] += 1
        else:
            flat[place] ^= low if change == "top" else chosen.randrange(low, -low) or 1
        return values

    return cheaters.Message(number, to_next, tensor, changed)


def _claim_and_tuples(chosen: random.Random, honest: Any, cheaters: Any) -> list[Any]:
    """An error in an early product, and the same in a random one of each row, at guessed places."""
    early, late = _claims_and_random(honest)
    claim, (number, buckets) = chosen.choice(early), chosen.choice(late)
    error = chosen.choice((1, cheaters.TOP))
    places = [row * buckets.size + chosen.randrange(buckets.size) for row in range(buckets.depth)]
    return [cheaters.Fault("share", claim, error), cheaters.Fault("share", number, error, places)]


def _claims_and_random(honest: Any) -> tuple[range, list[tuple[int, Buckets]]]:
    """Return which sharings are of products that will be claimed, and which of random ones, with their rows."""
    shapes = {each.depth * each.size: each for each in map(fit, range(1, 200))}
    late = [(number, shapes[size]) for number, size in enumerate(honest.calls["share"]) if size in shapes]
    return range(late[0][0]), late


def _false_copy(chosen: random.Random, shares: list[Shared], cheater: int) -> list[Shared]:
    parts = [shares[cheater].own.clone(), shares[cheater].next.clone()]
    parts[chosen.randrange(2)].reshape(-1)[0] ^= chosen.choice((1, -(2**63)))
    return [Shared(*parts) if party == cheater else each for party, each in enumerate(shares)]


def _nothing(*_: Any) -> Operation[None]:
    yield from ()


def switched_off(honest: Sequence[Any], cheaters: Any) -> Mapping[str, bool]:
    """Return, by check, whether with that check off some fault of its own kind falsifies the answer."""
    real = products.check_products

    def only(kinds: Sequence[Any]) -> Callable[..., Operation[None]]:
        return lambda party, kind, *rest: real(party, kind, *rest) if kind in kinds else _nothing()

    fault = {step: range(len(honest[0].calls[step])) for step in cheaters.FAULTS}
    off = {
        "products and squares": ("check_products", only([products.ANDS]), "share"),
        "ANDs": ("check_products", only([products.PRODUCTS, products.SQUARES]), "deal"),
        "matrix products": ("check_matrices", _nothing, "share"),
        "bits": ("compare_rows", _nothing, "convert"),
    }
    found = {}
    for name, (check, replacement, step) in off.items():
        with mock.patch.object(bits if check == "compare_rows" else audits, check, replacement):
            played = (
                cheaters.play(cheaters.small_program, 0, [cheaters.Fault(step, number, error)])
                for number, error in itertools.product(fault[step], ERRORS)
            )
            found[name] = any(each.values is not None and not cheaters.is_right(each.values) for each in played)
    with mock.patch.object(coins.Coins, "turn", return_value=0):
        found["turned rows"] = _unturned_passes(honest, cheaters)
    return found


def _unturned_passes(honest: Sequence[Any], cheaters: Any) -> bool:
    """Tell whether a wrong product passes with random ones that are wrong where it meets them without a turn."""
    early, late = _claims_and_random(honest[0])
    for claim, (number, buckets), error in itertools.product(early, late, ERRORS):
        places = [row * buckets.size for row in range(buckets.depth)]
        faults = [cheaters.Fault("share", claim, error), cheaters.Fault("share", number, error, places)]
        played = cheaters.play(cheaters.small_program, 0, faults)
        if played.values is not None and not cheaters.is_right(played.values):
            return True
    return False


@dataclass
class Attempts:
    """How the attempts ended, by kind."""

    ends: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, kind: str, end: str) -> None:
        """Count one."""
        counts = self.ends.setdefault(kind, {"ended": 0, "unchanged": 0, "false": 0})
        counts[end] += 1

    @property
    def false(self) -> int:
        """Attempts that falsified the answer."""
        return sum(counts["false"] for counts in self.ends.values())

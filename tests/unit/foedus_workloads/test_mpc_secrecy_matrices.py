"""The check of a matrix product, mod 2 and of one entry: all randomness enumerated, outcome by outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foedus_workloads.mpc.malicious import matrices
from foedus_workloads.mpc.malicious.claims import MatrixClaim
from foedus_workloads.mpc.party import Party, Shared
from foedus_workloads.mpc.ring import Ring
from support.three_parties import run

Label = tuple[int, int, int]  # component, step, slot
RANDOM_BITS = 10  # of both entries two components each, three of the mask, three of a sharing of zero


class Unheard:
    """A transcript that nothing comes of: what parties tell each other of it are tags, under keys of their own."""

    def opened(self, missing, held, bits): ...
    def zero(self, own, following, bits): ...


class Ones:
    """Coins of which each is a one, however they are drawn."""

    def binary(self, number, shape):
        return torch.ones(shape, dtype=torch.int64)

    def draw(self, number, bits, shape):
        return -torch.ones(shape, dtype=torch.int64)


def tossed():
    return Ones()
    yield


class Outcome:
    """The streams of one outcome: what is drawn under a label is one bit of the outcome's number."""

    def __init__(self, number: int, places: dict[Label, int], left_out: Callable[[Label], bool]) -> None:
        self._number, self._places, self._left_out = number, places, left_out

    def bit(self, label: Label) -> int:
        place = self._places.setdefault(label, len(self._places))
        return 0 if self._left_out(label) else self._number >> place & 1

    def draw(self, component: int, step: int, slot: int, bits: int, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, self.bit((component, step, slot)), dtype=torch.int8)

    def components(self, number: int, secret: int) -> list[Tensor]:
        zero, one = (self.bit((-1 - component, number, 0)) for component in range(2))
        return [torch.tensor([[value]]) for value in (zero, one, secret - zero - one)]


def views(secrets: tuple[int, int], left_out: Callable[[Label], bool]) -> list[Counter]:
    """Return how often each party sees what: its shares, what it draws, and what it receives."""
    found, places = [Counter(), Counter(), Counter()], {}
    for number in range(1 << RANDOM_BITS):
        world = Outcome(number, places, left_out)
        parts = [world.components(*each) for each in enumerate(secrets)]
        held = [[Shared(each[i], each[(i + 1) % 3]) for each in parts] for i in range(3)]

        def check(party, held=held):
            x, y = held[party.index]
            return matrices.check_matrices(party, [MatrixClaim(x, y, x)], tossed, Unheard())

        seen = run([Party(i, world, Ring(1), 1) for i in range(3)], check).seen
        for i in range(3):
            own = [part for share in held[i] for part in (share.own, share.next)]
            drawn = [world.bit(label) for label in places if label[0] in {i, (i + 1) % 3}]
            found[i][tuple(int(each) & 1 for each in (*own, *seen[i], *drawn))] += 1
    assert len(places) == RANDOM_BITS
    return found


def nothing(_: Label) -> bool:
    return False


def the_mask(label: Label) -> bool:
    """What is drawn in the check's first step hides a projection."""
    return label[0] >= 0 and label[1] == 0


def test_the_check_shows_nothing_of_the_factors(monkeypatch):
    monkeypatch.setattr(matrices, "REPETITIONS", 1)
    assert views((0, 0), nothing) == views((1, 1), nothing)


@pytest.mark.nightly
def test_without_its_mask_the_check_shows_a_factor(monkeypatch):
    monkeypatch.setattr(matrices, "REPETITIONS", 1)
    assert views((0, 0), the_mask) != views((1, 1), the_mask)

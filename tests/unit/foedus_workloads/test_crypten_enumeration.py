"""All randomness of each of CrypTen's steps is enumerated at a small ring: both parties see the same for every secret.

CrypTen's shares have 64 bits. A ring of four bits lies in them as the numbers below 16, where only sums and products
matter, and as the multiples of 2^60 (in a window of eight bits, of 2^4), where the top bit is looked at. What a party
sees: its share of the input, what it is dealt, and what it receives. The outcomes are the elements of one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from foedus_workloads.mpc.comparison import Window, Words
from foedus_workloads.mpc.crypten.beaver import conjunction, matrix_product, multiply, square
from foedus_workloads.mpc.crypten.comparison import _signs, bits_to_numbers
from foedus_workloads.mpc.crypten.deals import Deal
from foedus_workloads.mpc.crypten.execute import Joined, linear
from foedus_workloads.mpc.crypten.party import Party
from foedus_workloads.mpc.crypten.truncation import truncate

LANES = Words(Window(0, 8), 64)
WORDS = Words(Window(0, 64), 64)
MASKS = {"layer": torch.tensor([[3]])}  # of a weight, the dealer's alone
LAYER = Joined("x", (1,), ("y",), "layer", torch.zeros(2, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))


@dataclass(frozen=True)
class Field:
    """Where a small number lies in a word: its bits, from which place on, in elements of which type."""

    bits: int
    shift: int = 0
    kind: torch.dtype = torch.int64

    def write(self, numbers: Tensor) -> Tensor:
        return ((numbers & (2**self.bits - 1)) << self.shift).to(self.kind).view(torch.int64)

    def read(self, words: Tensor, count: int) -> Tensor:
        """Return the first numbers: in elements behind them nothing is enumerated."""
        return (words.reshape(-1).view(self.kind)[:count].long() >> self.shift) & (2**self.bits - 1)


@dataclass(frozen=True)
class Step:
    """One opening: what is opened of which secrets, and where the numbers lie of what is shared, dealt and opened."""

    run: Callable
    inputs: Field
    dealt: tuple[Field, ...]
    opened: Field
    secrets: Sequence[tuple[int, ...]]
    uniform: int = 1  # of what is dealt; the rest follows from it
    words: bool = False


def every(count: int, values: Sequence[int]) -> list[tuple[int, ...]]:
    return [(x,) for x in values] if count == 1 else [(x, y) for x in values for y in values]


TWO, FOUR, HIGH, LANE = Field(2), Field(4), Field(4, 60), Field(4, 4, torch.int8)
STEPS = {
    "multiply": Step(multiply, TWO, (TWO,) * 3, TWO, every(2, range(4)), uniform=2),
    "square": Step(square, FOUR, (FOUR,) * 2, FOUR, every(1, range(16))),
    "matrix product": Step(
        lambda p, x, y: matrix_product(p, x.reshape(-1, 1, 1), y.reshape(-1, 1, 1)),
        TWO, (TWO,) * 3, TWO, every(2, range(4)), uniform=2,
    ),
    "conjunction": Step(conjunction, TWO, (TWO,) * 3, TWO, every(2, range(4)), uniform=2, words=True),
    "truncate": Step(
        lambda p, x: truncate(p, x, 1), HIGH, (HIGH, Field(5, 59), Field(1)), HIGH, every(1, range(-4, 4))
    ),
    "sign": Step(lambda p, x: _signs(p, x, LANES), LANE, (LANE, LANE, Field(1, 6, torch.int8)), LANE,
                 every(1, range(-8, 8))),
    "bits to numbers": Step(
        lambda p, x: bits_to_numbers(p, x, WORDS), Field(1, 1), (Field(1, 1), FOUR), Field(1, 1), every(1, range(2)),
        words=True,
    ),
    "linear": Step(lambda p, x: linear(p, x.reshape(-1, 1), LAYER), FOUR, (FOUR,) * 2, FOUR, every(1, range(16))),
}  # fmt: skip


@dataclass
class World:
    """Every combination of what two parties draw; party 0's draw number `left_out` of the dealt values is 0."""

    step: Step
    left_out: int | None = None
    widths: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number in range(len(self.step.secrets[0])):
            self.widths["input", 0, number] = self.step.inputs.bits
        for number, place in enumerate(self.step.dealt):
            for party in range(2 if number < self.step.uniform else 1):
                if (party, number) != (0, self.left_out):
                    self.widths["dealt", party, number] = place.bits

    @property
    def outcomes(self) -> int:
        return 1 << sum(self.widths.values())

    def draw(self, kind: str, party: int, number: int) -> Tensor:
        below = 0
        for label, width in self.widths.items():
            if label == (kind, party, number):
                return (torch.arange(self.outcomes) >> below) & (2**width - 1)
            below += width
        raise LookupError((kind, party, number))

    def dealt(self, party: int, deal: Deal) -> tuple[Tensor, ...]:
        """Return a party's shares: what follows is the second party's to be corrected, mod the small ring."""
        own = [self._filled(part.shape, number, party) for number, part in enumerate(deal.uniform)]
        first = [self._filled(part.shape, number, 0) for number, part in enumerate(deal.parts)]
        if party == 0:
            return tuple(first)
        count = len(deal.uniform)
        both = [part.together([first[number], own[number]]) for number, part in enumerate(deal.uniform)]
        follow = zip(deal.following, deal.follow(both, MASKS), first[count:], self.step.dealt[count:], strict=True)
        missing = (self._reduced(part.missing(value, [share]), place) for part, value, share, place in follow)
        return (*own, *missing)

    def _filled(self, shape: tuple[int, ...], number: int, party: int) -> Tensor:
        """Return enumerated numbers as the first elements, zeros behind them."""
        place = self.step.dealt[number]
        left_out = party == 0 and number == self.left_out
        numbers = torch.zeros(self.outcomes, dtype=torch.int64) if left_out else self.draw("dealt", party, number)
        drawn, whole = place.write(numbers), torch.zeros(shape, dtype=torch.int64)
        whole.view(-1)[: drawn.numel()] = drawn
        return whole

    @staticmethod
    def _reduced(share: Tensor, place: Field) -> Tensor:
        elements = share.reshape(-1).view(place.kind)
        kept = ((elements.long() >> place.shift) & (2**place.bits - 1)) << place.shift
        return kept.to(place.kind).view(torch.int64).reshape(share.shape)


@dataclass
class Deals:
    """One party's only deal; `seen` is what it was."""

    world: World
    party: int
    seen: tuple[Tensor, ...] = ()

    def take(self, deal: Deal) -> tuple[Tensor, ...]:
        self.seen = self.world.dealt(self.party, deal)
        return self.seen


def views(step: Step, secrets: tuple[int, ...], left_out: int | None = None) -> list[Tensor]:
    """Return, for each party, the sorted codes of what it sees in every outcome."""
    world = World(step, left_out)
    inputs, deals, openings = _first_openings(world, secrets)
    codes = []
    for party in range(2):
        seen = [(step.inputs, each) for each in inputs[party]]
        seen += list(zip(step.dealt, deals[party].seen, strict=True))
        received = openings[1 - party]
        seen += [(step.opened, each.reshape(-1).view(torch.int64)) for each in (*received.sums, *received.words)]
        code = torch.zeros(world.outcomes, dtype=torch.int64)
        for place, words in seen:
            code = (code << place.bits) | place.read(words, world.outcomes)
        codes.append(code.sort().values)
    return codes


def _first_openings(world: World, secrets: tuple[int, ...]):
    step = world.step
    inputs: list[list[Tensor]] = [[], []]
    for number, secret in enumerate(secrets):
        first = world.draw("input", 0, number)
        second = secret ^ first if step.words else secret - first
        for party, share in enumerate((first, second)):
            inputs[party].append(step.inputs.write(share))
    deals = [Deals(world, party) for party in range(2)]
    running = [step.run(Party(party, 2, deals[party], 4), *inputs[party]) for party in range(2)]
    return inputs, deals, [next(each) for each in running]


@pytest.mark.parametrize("name", STEPS)
def test_every_secret_looks_alike_to_both_parties(name: str) -> None:
    step = STEPS[name]
    first = views(step, step.secrets[0])
    for secrets in step.secrets[1:]:
        for party, (one, other) in enumerate(zip(first, views(step, secrets), strict=True)):
            assert torch.equal(one, other), f"party {party} tells {secrets} from {step.secrets[0]}"


# Each draw of party 0's is needed: without it the other one sees something of the secret.
DRAWS = [(name, number) for name, step in STEPS.items() for number in range(len(step.dealt))]


@pytest.mark.parametrize(("name", "number"), DRAWS)
def test_a_draw_left_out_is_seen_by_the_other_party(name: str, number: int) -> None:
    step = STEPS[name]
    first = views(step, step.secrets[0], number)[1]
    assert any(not torch.equal(first, views(step, secrets, number)[1]) for secrets in step.secrets[1:])

"""All randomness of a step is enumerated at a small ring: each party sees the same distribution for every secret.

What a party sees: its own shares, what it draws from its two keys, and what it receives. The outcomes lie beside each
other as the elements of one tensor, so one run of the protocol is one run for each of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from foedus_workloads.mpc.arithmetic import ARITHMETIC, BOOLEAN, multiply, open_to_all, reshare
from foedus_workloads.mpc.comparison import Window, Words, sign
from foedus_workloads.mpc.conversion import Pair, bit_to_arithmetic, inject
from foedus_workloads.mpc.known_factor import share_and_multiply
from foedus_workloads.mpc.malicious import truncation
from foedus_workloads.mpc.malicious.comparison import carry_words
from foedus_workloads.mpc.malicious.opening import open_to_all as open_checked
from foedus_workloads.mpc.malicious.products import SQUARES
from foedus_workloads.mpc.malicious.record import Record
from foedus_workloads.mpc.party import Party, Shared, Summand
from foedus_workloads.mpc.ring import Ring, container, low_bits
from foedus_workloads.mpc.rounds import together
from foedus_workloads.mpc.truncation import truncate
from support.three_parties import run

Label = tuple[int, int, int]  # component, step, slot


@dataclass
class Enumeration:
    """Every combination of the values that were asked for; `fixed` labels are always 0: a mask left out."""

    fixed: Callable[[Label], bool] = lambda label: False
    bits: dict[Label, int] = field(default_factory=dict)
    closed: bool = False

    @property
    def outcomes(self) -> int:
        return 1 << sum(self.bits.values()) if self.closed else 1

    def draw(self, component: int, step: int, slot: int, bits: int, shape: tuple[int, ...]) -> Tensor:
        label = (component, step, slot)
        if self.fixed(label):
            return torch.zeros(self.outcomes, dtype=container(bits))
        assert self.closed or self.bits.setdefault(label, bits) == bits, "one label for two draws"
        if not self.closed:
            return torch.zeros(1, dtype=container(bits))
        below = sum(list(self.bits.values())[: list(self.bits).index(label)])
        return low_bits(torch.arange(self.outcomes) >> below, bits).to(container(bits))


Inputs = Callable[[Enumeration, Sequence[int]], list]
SHARE_STEP = 1000  # labels of the inputs' own randomness


def additive(bits: int) -> Inputs:
    def inputs(world: Enumeration, secrets: Sequence[int]) -> list:
        per_secret = []
        for number, secret in enumerate(secrets):
            zero, one = (world.draw(-1 - c, SHARE_STEP + number, 0, bits, ()).long() for c in (0, 1))
            parts = [zero, one, low_bits(secret - zero - one, bits)]
            per_secret.append([Shared(parts[i], parts[(i + 1) % 3]) for i in range(3)])
        return [[one[i] for one in per_secret] for i in range(3)]

    return inputs


def boolean(width: int) -> Inputs:
    def inputs(world: Enumeration, secrets: Sequence[int]) -> list:
        per_secret = []
        for number, secret in enumerate(secrets):
            zero, one = (world.draw(-1 - c, SHARE_STEP + number, 0, width, ()).long() & (2**width - 1) for c in (0, 1))
            parts = [zero, one, secret ^ zero ^ one]
            per_secret.append([Shared(parts[i], parts[(i + 1) % 3]) for i in range(3)])
        return [[one[i] for one in per_secret] for i in range(3)]

    return inputs


def given(*by_party: Callable[..., object]) -> Inputs:
    """Give each party what it makes of the secrets; nothing else is random."""

    def inputs(world: Enumeration, secrets: Sequence[int]) -> list:
        return [[make(*(torch.full((world.outcomes,), secret) for secret in secrets))] for make in by_party]

    return inputs


def views(bits: int, inputs: Inputs, operation: Callable, secrets: Sequence[int], fixed=lambda label: False) -> list:
    """Return, for each party, the sorted codes of what it sees in every outcome."""
    world = Enumeration(fixed)
    for _ in range(2):  # the first run learns what is drawn
        held = inputs(world, secrets)
        outcome = run(
            [Party(i, world, Ring(bits), 1) for i in range(3)], lambda p, held=held: operation(p, *held[p.index])
        )
        world.closed = True
    held = inputs(world, secrets)
    return [_codes(world, i, held[i], outcome.seen[i], bits) for i in range(3)]


def _codes(world: Enumeration, i: int, held: list, received: list[Tensor], bits: int) -> Tensor:
    seen = [t for share in held for t in _tensors(share)] + received
    seen += [world.draw(*label, width, ()) for label, width in world.bits.items() if label[0] in {i, (i + 1) % 3}]
    code = torch.zeros(world.outcomes, dtype=torch.int64)
    assert len(seen) * bits < 63
    for values in seen:
        code = (code << bits) | (values.reshape(-1).long() & (2**bits - 1))
    return code.sort().values


def _tensors(share: Shared | Summand | Pair | Tensor) -> list[Tensor]:
    if isinstance(share, Pair):
        return _tensors(share.bit) + _tensors(share.x)
    if isinstance(share, Shared):
        return [share.own, share.next]
    return [share.value] if isinstance(share, Summand) else [share]


class Unheard:
    """A transcript that nothing comes of: what parties tell each other of it are tags, under keys of their own."""

    def with_next(self, values, bits): ...
    def with_previous(self, values, bits): ...
    def opened(self, missing, held, bits): ...


def untossed(party):
    """Coins that no step here asks for."""
    raise AssertionError


def masked_and_dealt(party, x):
    """The one round of a checked truncation in which anything but products and conversions travels."""
    record, task = Record(Unheard(), untossed), truncation.begin(party, x, 1)
    masks = truncation.draw_masks(task)
    return together([truncation.deal_carries(task, record, masks), truncation.open_masked(task, record, x, masks)])


def two_numbers(party, x):
    """The words from which a checked sign is read."""
    return carry_words(Record(Unheard(), untossed), party, x, Words(Window(0, party.ring.bits), party.ring.bits))


def compared_with_a_random_one(party, x):
    """What a check opens of a factor."""
    (a,) = SQUARES.random(party, x.shape)
    return open_checked(party, [x - a], ARITHMETIC, Unheard(), bits=party.ring.bits)


def converted_by_a_random_one(party, bit):
    """What a conversion opens of a bit; the parties' numbers are not looked at."""
    step = party.begin()
    random = Shared(*(step.draw_narrow(component, 0, bit.shape, 1) & 1 for component in (party.index, party.following)))
    return open_checked(party, [bit ^ random], BOOLEAN, Unheard(), bits=1)


SOME = [(x,) for x in (-8, -5, -1, 2, 7)]  # a million outcomes each; the nightly test takes all sixteen
# Ring width, how the secrets come in, the step, and the secrets that must look alike.
STEPS = {
    "multiply, all factors": (2, additive(2), multiply, [(x, y) for x in range(-2, 2) for y in range(-2, 2)]),
    "multiply, squares": (4, additive(4), lambda p, x: multiply(p, x, x), SOME),
    "multiply, Boolean": (
        2, boolean(2), lambda p, x, y: multiply(p, x, y, BOOLEAN), [(x, y) for x in range(4) for y in range(4)]
    ),
    "multiply, Boolean squares": (4, boolean(4), lambda p, x: multiply(p, x, x, BOOLEAN), SOME),
    "truncate": (4, additive(4), lambda p, x: truncate(p, x, 1), SOME),
    "sign": (2, additive(2), sign, [(x,) for x in range(-2, 2)]),
    "sign of a window": (3, additive(3), lambda p, x: sign(p, x, Window(1, 2)), [(x,) for x in (-4, -1, 0, 3)]),
    "bit to arithmetic": (4, boolean(1), bit_to_arithmetic, [(0,), (1,)]),
    "checked truncation, masked and dealt": (3, additive(3), masked_and_dealt, [(x,) for x in range(-4, 4)]),
    "checked sign, two numbers": (2, additive(2), two_numbers, [(x,) for x in range(-2, 2)]),
    "checked product, a factor opened": (3, additive(3), compared_with_a_random_one, [(x,) for x in range(-4, 4)]),
    "checked conversion, a bit opened": (4, boolean(1), converted_by_a_random_one, [(0,), (1,)]),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_every_secret_looks_alike_to_each_party(name):
    bits, inputs, operation, secrets = STEPS[name]
    check_alike(bits, inputs, operation, secrets)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step[3] is SOME])
def test_all_sixteen_secrets_look_alike(name):
    check_alike(*STEPS[name][:3], [(x,) for x in range(-8, 8)])


def check_alike(bits, inputs, operation, secrets):
    first = views(bits, inputs, operation, secrets[0])
    for secret in secrets[1:]:
        for party, (one, other) in enumerate(zip(first, views(bits, inputs, operation, secret), strict=True)):
            assert torch.equal(one, other), f"party {party} tells {secret} from {secrets[0]}"


def pair(own, following, b_own, b_following):
    return Pair(Shared(b_own, b_following), Shared(own, following))


# Ring width, the step, what each party makes of the secrets, and of each secret the values to be told apart. What comes
# in is not random here: a party sees nothing beside what it was given, whatever the others were. Step 0's dealer is
# party 0, so party 1 is first and knows e, and the two others know n.
E_AND_N = (lambda e, n: n, lambda e, n: e, lambda e, n: n)
OWN_SUMMANDS = tuple(lambda *z, i=i: Summand(z[i]) for i in range(3))
FEW = (-8, -3, 0, 5)
GIVEN = {
    "product with a known factor": (
        4, lambda p, value: share_and_multiply(p, p.begin(), value, ARITHMETIC), E_AND_N, [FEW, FEW]
    ),
    "Boolean product with a known factor": (
        4, lambda p, value: share_and_multiply(p, p.begin(), value, BOOLEAN), E_AND_N, [FEW, FEW]
    ),
    "reshare summands": (4, reshare, OWN_SUMMANDS, [FEW] * 3),
    "truncate summands": (4, lambda p, z: truncate(p, z, 1), OWN_SUMMANDS, [(-8, 5)] * 3),
    "inject": (
        4,
        lambda p, one: inject(p, [one]),
        (
            lambda x0, x1, x2, b0, b1, b2: pair(x0, x1, b0, b1),
            lambda x0, x1, x2, b0, b1, b2: pair(x1, x2, b1, b2),
            lambda x0, x1, x2, b0, b1, b2: pair(x2, x0, b2, b0),
        ),
        [(-8, 5), (-3, 0), (7,), (0, 1), (0, 1), (0, 1)],
    ),
    "inject two pairs": (
        2,
        lambda p, one: inject(p, [one, one]),
        (
            lambda x0, x1, x2, b0, b1, b2: pair(x0, x1, b0, b1),
            lambda x0, x1, x2, b0, b1, b2: pair(x1, x2, b1, b2),
            lambda x0, x1, x2, b0, b1, b2: pair(x2, x0, b2, b0),
        ),
        [(-2, 1), (-1, 0), (0, 1), (0, 1), (0, 1), (0, 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
def test_a_step_shows_each_party_what_it_was_given_and_no_more(name):
    assert not told(*GIVEN[name])


def told(bits, operation, makers, values, fixed=lambda label: False):
    """Return the parties that tell secrets apart which differ in nothing that they were given."""
    found = set()
    first: list[dict] = [{}, {}, {}]
    for secrets in itertools.product(*values):
        codes = views(bits, given(*makers), operation, secrets, fixed)
        for party in range(3):
            own = tuple(int(t[0]) for t in _tensors(makers[party](*(torch.tensor([v]) for v in secrets))))
            if not torch.equal(first[party].setdefault(own, codes[party]), codes[party]):
                found.add(party)
    return found


def test_an_opening_shows_the_secret_and_no_more():
    # A party's shares and the secret determine what it receives: one value for each pair of shares.
    for codes in views(4, additive(4), open_to_all, (5,)):
        assert codes.unique().numel() == 256


# Each mask is needed: with the draws of one slot left out somebody sees something of the secret.
LEFT_OUT = [
    ("checked truncation, masked and dealt", 0, slot) for slot in range(3)
] + [("checked product, a factor opened", 0, 0), ("checked sign, two numbers", 0, 0), ("multiply, squares", 0, 0)
] + [("truncate", 0, slot) for slot in range(6)] + [("bit to arithmetic", 0, slot) for slot in range(3)]  # fmt: skip


@pytest.mark.parametrize(("name", "step", "slot"), LEFT_OUT)
def test_a_mask_left_out_is_seen(name, step, slot):
    bits, inputs, operation, secrets = STEPS[name]

    def fixed(label: Label) -> bool:
        return label[0] >= 0 and label[1:] == (step, slot)

    first = views(bits, inputs, operation, secrets[0], fixed)
    assert any(
        not torch.equal(one, other)
        for secret in secrets[1:]
        for one, other in zip(first, views(bits, inputs, operation, secret, fixed), strict=True)
    )


# Who sees what when one slot's draws are left out: the parties that their values were hidden from.
SEEN = [
    ("reshare summands", 0, {0, 1, 2}),
    *(("truncate summands", slot, {seer}) for slot, seer in ((0, 2), (1, 1), (4, 2), (5, 1), (6, 2), (7, 1))),
    *(("inject", slot, {seer}) for slot, seer in ((0, 2), (1, 0), (2, 2), (3, 2))),
]


@pytest.mark.parametrize(("name", "slot", "parties"), SEEN)
def test_a_mask_left_out_shows_what_another_was_given(name, slot, parties):
    bits, operation, makers, values = GIVEN[name]
    assert told(bits, operation, makers, values, lambda label: label[2] == slot) == parties

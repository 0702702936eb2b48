"""From numbers to shares: what an owner sends each party, and what a party makes of it.

A tensor x is x0 + x1 + x2 mod 2^64. x0 and x1 are expanded from fresh seeds of 32 bytes, x2 is what is missing. Party i
is sent the components i and i + 1: "NAME.0" and "NAME.1" as seeds, four words each, "NAME.2" in full. Each two of the
three are uniform, so what a single party is sent says nothing of x.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ldexp

import torch
from torch import Tensor

from foedus_contract.errors import InvalidInput, JobFailed
from foedus_contract.exit_codes import ExitCode
from foedus_workloads.mpc.arithmetic import deal
from foedus_workloads.mpc.model.checkpoint import PlainModel
from foedus_workloads.mpc.model.program import Linear, Program, Secret
from foedus_workloads.mpc.model.text import EmbeddedText
from foedus_workloads.mpc.party import PARTIES, Shared
from foedus_workloads.mpc.ring import Ring
from foedus_workloads.mpc.rounds import Expected
from foedus_workloads.mpc.session import Entropy
from foedus_workloads.mpc.streams import KEY_BYTES, expand

Shares = tuple[dict[str, Tensor], ...]  # of each party
_REST = PARTIES - 1  # the component that is sent in full
_RING = Ring()
SEED_SHAPE = (KEY_BYTES // torch.int64.itemsize,)
# Products of fixed-point numbers must stay below 2^62; a weight or an activation of 2^20 would be a defect elsewhere.
_MOST = 2.0**20


def share_weights(model: PlainModel, program: Program, entropy: Entropy) -> Shares:
    """Return what each party is sent of the model's weights; good for programs of every length at this fraction.

    Raises InvalidInput naming a tensor that fixed point cannot hold.
    """
    return _share(scaled_weights(model, program), entropy)


def scaled_weights(model: PlainModel, program: Program) -> Iterator[tuple[Secret, Tensor]]:
    """Yield the program's weights as numbers, each as the program takes it."""
    scales = {
        f"{each.module}.{part}": each.scale
        for step in program.steps
        if isinstance(step, Linear)
        for each in step.maps
        for part in ("weight", "bias")
    }
    for secret in program.weights:
        yield secret, model.tensors[secret.name].double().t() * scales.get(secret.name, 1.0)


def share_input(embedded: EmbeddedText, program: Program, entropy: Entropy) -> Shares:
    """Return what each party is sent of a text that was embedded for the program's length."""
    return _share(zip(program.inputs, (embedded.values, embedded.mask), strict=True), entropy)


def shipped(secrets: Sequence[Secret], party: int) -> dict[str, Expected]:
    """Return names, types and shapes of what a party is sent of `secrets`."""
    return {
        f"{secret.name}.{component}": Expected(torch.int64, secret.shape if component == _REST else SEED_SHAPE)
        for secret in secrets
        for component in _components(party)
    }


def held(party: int, secret: Secret, tensors: Mapping[str, Tensor]) -> Shared:
    """Return a party's sharing of `secret` from what it was sent; raises InvalidInput when that does not fit."""
    parts = []
    for name, kind in shipped([secret], party).items():
        tensor = tensors.get(name)
        if tensor is None or Expected(tensor.dtype, tuple(tensor.shape)) != kind:
            raise InvalidInput(
                f"the share {name} is missing or of another type or shape",
                where=f"party {party}",
                cure="share for the same model and program",
                code=ExitCode.INVALID_MODEL,
            )
        parts.append(tensor if name.endswith(f".{_REST}") else expanded(tensor, secret.shape))
    return Shared(*parts)


def reveal(parts: Sequence[Shared], fraction: int) -> list[float]:
    """Return the numbers that all three parties' shares stand for; raises JobFailed when their copies differ."""
    for party in range(PARTIES):
        if not torch.equal(parts[party].next, parts[(party + 1) % PARTIES].own):
            raise JobFailed("the parties hold different shares", where=f"party {party}", cure="start a new session")
    return revealed([part.own for part in parts], fraction)


def revealed(summands: Sequence[Tensor], fraction: int) -> list[float]:
    """Return the numbers that the parties' summands add up to."""
    total = torch.stack(tuple(summands)).sum(0)  # wraps mod 2^64, as it must
    return [ldexp(value, -fraction) for value in total.reshape(-1).tolist()]


def _share(secrets: Iterable[tuple[Secret, Tensor]], entropy: Entropy) -> Shares:
    shares: Shares = tuple({} for _ in range(PARTIES))
    for secret, values in secrets:
        for party, name, part in _dealt(secret, values, entropy):
            shares[party][name] = part
    return shares


def encoded(secret: Secret, values: Tensor) -> Tensor:
    """Return the fixed-point integers of a secret's values; raises InvalidInput when they do not fit."""
    if tuple(values.shape) != secret.shape:
        raise InvalidInput(f"{secret.name} has another shape than the program's", where="shares")
    # NaN is in no range.
    if not bool((values.abs() < _MOST).all()):
        what = f"{secret.name} holds a number that fixed point cannot, {_MOST:g} or more"
        raise InvalidInput(what, where="shares", cure="check the model", code=ExitCode.INVALID_MODEL)
    return (values * 2.0**secret.bits).round().to(torch.int64).contiguous()


def _dealt(secret: Secret, values: Tensor, entropy: Entropy) -> Iterator[tuple[int, str, Tensor]]:
    fixed = encoded(secret, values)
    seeds = (entropy(KEY_BYTES), entropy(KEY_BYTES))
    parts = [*map(seed_tensor, seeds), deal(fixed, seeds, _RING).rest]
    for party in range(PARTIES):
        for component in _components(party):
            yield party, f"{secret.name}.{component}", parts[component]


def _components(party: int) -> tuple[int, int]:
    return party, (party + 1) % PARTIES


def seed_tensor(seed: bytes) -> Tensor:
    """Return a seed as it is sent."""
    return torch.frombuffer(bytearray(seed), dtype=torch.int64)


def expanded(seed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the values that a sent seed stands for."""
    return expand(seed.contiguous().numpy().tobytes(), 0, 0, _RING.bits, shape)

"""From numbers to shares: what a model's owner and a client send each party, and the owner the dealer.

A linear map's weight W is not shared: the owner draws a mask B, sends all parties W - B in full and the dealer B as a
seed of 32 bytes. So W - B is opened once for all sessions, where CrypTen opens it in every one. The parties hold shares
of B besides, "NAME.mask". Whoever has W - B alone or B alone has uniform numbers; a party with the dealer has W, as any
party with the dealer has everything.

Everything else is shared: x = x_0 + ... + x_{n-1}, of which all but the last are expanded from fresh seeds of 32 bytes
("NAME.share.seed" in place of "NAME.share").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import DEALER, member_name
from foedus_workloads.mpc.model.checkpoint import PlainModel
from foedus_workloads.mpc.model.program import Linear, Program, Secret
from foedus_workloads.mpc.model.sharing import SEED_SHAPE, encoded, expanded, scaled_weights, seed_tensor
from foedus_workloads.mpc.model.text import EmbeddedText
from foedus_workloads.mpc.rounds import Expected
from foedus_workloads.mpc.session import Entropy
from foedus_workloads.mpc.streams import KEY_BYTES

Shares = Mapping[int, Mapping[str, Tensor]]  # by member
OPEN, MASK, SHARE, SEED = "open", "mask", "share", "seed"


def share_weights(model: PlainModel, program: Program, parties: int, entropy: Entropy) -> Shares:
    """Return what each party and the dealer are sent of the model's weights, good for programs of every length.

    Raises InvalidInput naming a tensor that fixed point cannot hold.
    """
    masked = masked_weights(program)
    shares: dict[int, dict[str, Tensor]] = {member: {} for member in (*range(parties), DEALER)}
    for secret, values in scaled_weights(model, program):
        fixed = encoded(secret, values)
        if secret.name not in masked:
            _spread(shares, f"{secret.name}.{SHARE}", fixed, parties, entropy)
            continue
        seed = seed_tensor(entropy(KEY_BYTES))
        mask = expanded(seed, secret.shape)
        opened = fixed - mask
        for party in range(parties):
            shares[party][f"{secret.name}.{OPEN}"] = opened
        shares[DEALER][f"{secret.name}.{MASK}.{SEED}"] = seed
        _spread(shares, f"{secret.name}.{MASK}", mask, parties, entropy)
    return shares


def share_input(embedded: EmbeddedText, program: Program, parties: int, entropy: Entropy) -> Shares:
    """Return what each party is sent of a text that was embedded for the program's length."""
    shares: dict[int, dict[str, Tensor]] = {party: {} for party in range(parties)}
    for secret, values in zip(program.inputs, (embedded.values, embedded.mask), strict=True):
        _spread(shares, f"{secret.name}.{SHARE}", encoded(secret, values), parties, entropy)
    return shares


def _spread(shares: dict[int, dict[str, Tensor]], name: str, values: Tensor, parties: int, entropy: Entropy) -> None:
    rest = values
    for party in range(parties - 1):
        seed = shares[party][f"{name}.{SEED}"] = seed_tensor(entropy(KEY_BYTES))
        rest = rest - expanded(seed, tuple(values.shape))
    shares[parties - 1][name] = rest


def masked_weights(program: Program) -> frozenset[str]:
    """Return the names of the weights of which the parties see the masked value."""
    return frozenset(
        f"{each.module}.weight" for step in program.steps if isinstance(step, Linear) for each in step.maps
    )


def shipped(secrets: Sequence[Secret], party: int, parties: int) -> dict[str, Expected]:
    """Return names, types and shapes of what a party is sent of shared secrets."""
    return dict(_kind(f"{secret.name}.{SHARE}", secret.shape, full=party == parties - 1) for secret in secrets)


def weights_shipped(program: Program, member: int, parties: int) -> Iterator[tuple[str, Expected]]:
    """Yield names, types and shapes of what a party, or the dealer, is sent of the weights."""
    masked = masked_weights(program)
    for secret in program.weights:
        last = member == parties - 1
        if secret.name in masked:
            yield _kind(f"{secret.name}.{MASK}", secret.shape, full=last)
            if member != DEALER:
                yield _kind(f"{secret.name}.{OPEN}", secret.shape, full=True)
        elif member != DEALER:
            yield _kind(f"{secret.name}.{SHARE}", secret.shape, full=last)


def check(wanted: Mapping[str, Expected], tensors: Mapping[str, Tensor], member: int) -> None:
    """Raise InvalidInput naming the first share that is missing or of another type or shape."""
    for name, kind in wanted.items():
        tensor = tensors.get(name)
        if tensor is None or Expected(tensor.dtype, tuple(tensor.shape)) != kind:
            raise InvalidInput(
                f"the share {name} is missing or of another type or shape",
                where=member_name(member),
                cure="share for the same model and program",
                code=ExitCode.INVALID_MODEL,
            )


def held(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a checked share in full."""
    return tensors[name] if name in tensors else expanded(tensors[f"{name}.{SEED}"], shape)


def _kind(name: str, shape: tuple[int, ...], *, full: bool) -> tuple[str, Expected]:
    """Return how a share is sent: its name says whether as a seed, which a small share could be taken for."""
    return (name, Expected(torch.int64, shape)) if full else (f"{name}.{SEED}", Expected(torch.int64, SEED_SHAPE))

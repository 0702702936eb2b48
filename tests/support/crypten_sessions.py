"""Sessions of CrypTen's parties and dealer in one process, on a small program."""

from __future__ import annotations

import functools
import os

import torch

from foedus_contract.mpc_wire import DEALER, SessionTerms
from foedus_workloads.mpc.crypten.execute import execute, prepare_masks, prepare_weights
from foedus_workloads.mpc.crypten.plan import plan
from foedus_workloads.mpc.crypten.session import DealerSession, PartySession
from foedus_workloads.mpc.crypten.sharing import share_input, share_weights
from foedus_workloads.mpc.model import Architecture, EmbeddedText, PlainModel, compile_program
from foedus_workloads.mpc.model.checkpoint import wanted_tensors

DIGEST = "sha256:" + "0" * 64
SIZES = Architecture(
    kind="bert",
    layers=1,
    heads=2,
    hidden=8,
    intermediate=16,
    vocabulary=2,
    token_types=2,
    positions=16,
    padding=0,
    epsilon=1e-12,
    labels=("one", "two", "three"),
)
PROGRAM = compile_program(SIZES, 4)
PLAN = functools.lru_cache(lambda parties: plan(PROGRAM, parties))


def model(seed: int = 5) -> PlainModel:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: 0.3 * torch.randn(shape, generator=generator) + (1.0 if name.endswith("LayerNorm.weight") else 0.0)
        for name, shape in wanted_tensors(SIZES)
    }
    return PlainModel(SIZES, DIGEST, tensors, None)


def text(seed: int = 6) -> EmbeddedText:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([0.0, 0.0, 0.0, -(2.0**14)], dtype=torch.float64)
    return EmbeddedText(torch.randn(4, 8, generator=generator, dtype=torch.float64), mask)


def terms(parties: int, **changes: object) -> SessionTerms:
    values = {"session": bytes(16), "protocol": "CrypTen", "parties": parties, "fraction": 16, **changes}
    return SessionTerms(**{"model_digest": DIGEST, "program_digest": PROGRAM.digest, **values})


@functools.lru_cache
def weights(parties: int) -> dict:
    return share_weights(model(), PROGRAM, parties, os.urandom)


def dealer_session(parties: int, **changes: object) -> DealerSession:
    masks = prepare_masks(PROGRAM, parties, weights(parties)[DEALER])
    return DealerSession(terms(parties, **changes), PLAN(parties), masks, incarnation=9, entropy=os.urandom)


def party_session(party: int, parties: int, inputs: dict, **changes: object) -> PartySession:
    prepared = prepare_weights(PROGRAM, party, parties, weights(parties)[party])
    begin = lambda at: execute(at, PROGRAM, prepared, inputs[party])
    return PartySession(party, terms(parties, **changes), PLAN(parties), begin, incarnation=party + 1)


def sessions(parties: int, **changes: object) -> dict:
    inputs = share_input(text(), PROGRAM, parties, os.urandom)
    made = {party: party_session(party, parties, inputs, **changes) for party in range(parties)}
    return {**made, DEALER: dealer_session(parties, **changes)}

"""A model as its owner, a client and a party of an inference need it: the compiler's parts put together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import PARTIES, SESSION_BYTES, MpcProtocol, SessionTerms
from foedus_workloads.inference.inquiry import Question
from foedus_workloads.inference.shares import SHARING_BYTES, ShareLabel
from foedus_workloads.inference.task import Task, Tasks
from foedus_workloads.mpc.malicious.record import prepare as prepare_checked
from foedus_workloads.mpc.model import (
    Architecture,
    EmbeddedText,
    PlainModel,
    Program,
    compile_program,
    dealt,
    execute,
    plan,
    prepare_weights,
    read_model,
    share_input,
    share_weights,
    shipped,
)
from foedus_workloads.mpc.model.program import MIN_TOKENS
from foedus_workloads.mpc.semi_honest import SEMI_HONEST

FRACTION = 16  # bits after the point; labels of MiniLM come out as in floating point, and sums have room
LENGTHS = 8  # programs that a party keeps: as many as there are padded lengths up to 2,048 tokens
Entropy = Callable[[int], bytes]
_PREPARE = {"Replicated3PC": SEMI_HONEST.prepare, "Replicated3PCMalicious": prepare_checked}


def make_tasks(label: ShareLabel, shares: Mapping[str, Tensor], protocol: MpcProtocol = "Replicated3PC") -> Tasks:
    """Return what a party computes with its shares, by the number of tokens; raises InvalidInput where they misfit."""
    try:
        architecture = Architecture.from_json(label.architecture)
    except InvalidInput as error:
        what = f"its shares are of an architecture that this version does not know ({error.what})"
        raise InvalidInput(what, where="shares", cure="share the model again", code=ExitCode.INVALID_MODEL) from None
    # Weights are the same for every length.
    smallest = compile_program(architecture, MIN_TOKENS, label.fraction)
    weights = prepare_weights(label.party, smallest, shares, prepare=_PREPARE[protocol])

    def make(tokens: int) -> Task:
        program = compile_program(architecture, tokens, label.fraction)
        return Task(
            digest=program.digest,
            inputs=shipped(program.inputs, label.party),
            run=lambda party, inputs: execute(party, program, weights, inputs),
            protocol=protocol,
            dealt=lambda party, inputs: dealt(party.index, program, weights, inputs),
        )

    return functools.lru_cache(LENGTHS)(make)


@dataclass(frozen=True)
class Sharing:
    """One sharing of a model: what its three files have in common, and each party's shares."""

    labels: tuple[ShareLabel, ...]
    shares: tuple[Mapping[str, Tensor], ...] = field(repr=False)

    @property
    def digest(self) -> str:
        """What the parties of a session must have in common."""
        return self.labels[0].digest


class Owner:
    """Whoever holds the model in the clear: shares it, and asks about texts."""

    def __init__(self, base: Path, adapter: Path | None) -> None:
        """Read the model; raises InvalidInput naming what of it is not supported or does not fit."""
        self._model: PlainModel = read_model(base, adapter)
        self._programs: dict[tuple[int, MpcProtocol], tuple[Program, int]] = {}

    @property
    def digest(self) -> str:
        """The model's digest."""
        return self._model.digest

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its outputs."""
        return self._model.architecture.labels

    def embed(self, text: str) -> EmbeddedText:
        """Return the text as it is shared; raises InvalidInput, which does not cite it, when it is too long."""
        return self._model.encode_text(text)

    def share(self, entropy: Entropy) -> Sharing:
        """Share the weights among three parties."""
        architecture = self._model.architecture
        sharing = entropy(SHARING_BYTES)
        labels = tuple(
            ShareLabel(
                party=party,
                model_digest=self.digest,
                sharing=sharing,
                fraction=FRACTION,
                architecture=architecture.to_json().decode("utf-8"),
            )
            for party in range(PARTIES)
        )
        shares = share_weights(self._model, compile_program(architecture, MIN_TOKENS, FRACTION), entropy)
        return Sharing(labels, shares)

    def ask(
        self,
        embedded: EmbeddedText,
        sharing_digest: str,
        entropy: Entropy,
        protocol: MpcProtocol = "Replicated3PC",
    ) -> Question:
        """Return the question about a text to the parties that hold a sharing."""
        program, rounds = self._program(embedded.tokens, protocol)
        terms = SessionTerms(
            session=entropy(SESSION_BYTES),
            protocol=protocol,
            model_digest=sharing_digest,
            program_digest=program.digest,
            fraction=FRACTION,
        )
        return Question(
            tokens=embedded.tokens,
            model_digest=self.digest,
            terms=terms,
            shares=share_input(embedded, program, entropy),
            output=program.output,
            rounds=rounds,
        )

    def _program(self, tokens: int, protocol: MpcProtocol) -> tuple[Program, int]:
        if (tokens, protocol) not in self._programs:
            program = compile_program(self._model.architecture, tokens, FRACTION)
            self._programs[tokens, protocol] = program, plan(program, protocol).total.rounds
        return self._programs[tokens, protocol]

"""A model as its owner, a client and a party of an inference need it: the compiler's parts put together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from foedus_contract.errors import InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_contract.mpc_wire import SESSION_BYTES, SessionTerms
from foedus_workloads.inference.inquiry import Question
from foedus_workloads.inference.schemes import Replicated, Scheme, Shares, find_scheme
from foedus_workloads.inference.shares import SHARING_BYTES, ShareLabel
from foedus_workloads.inference.task import Tasks
from foedus_workloads.mpc.model import Architecture, EmbeddedText, PlainModel, Program, compile_program, read_model
from foedus_workloads.mpc.model.program import MIN_TOKENS

FRACTION = 16  # bits after the point; labels of MiniLM come out as in floating point, and sums have room
LENGTHS = 8  # programs that a party keeps: as many as there are padded lengths up to 2,048 tokens
Entropy = Callable[[int], bytes]


def make_tasks(label: ShareLabel, shares: Mapping[str, Tensor]) -> Tasks:
    """Return what a party computes with its shares, by the number of tokens; raises InvalidInput where they misfit."""
    try:
        architecture = Architecture.from_json(label.architecture)
    except InvalidInput as error:
        what = f"its shares are of an architecture that this version does not know ({error.what})"
        raise InvalidInput(what, where="shares", cure="share the model again", code=ExitCode.INVALID_MODEL) from None
    # Weights are the same for every length.
    shortest = compile_program(architecture, MIN_TOKENS, label.fraction)
    task = find_scheme(label.protocol, label.parties).tasks(label.party, shortest, shares)
    return functools.lru_cache(LENGTHS)(lambda tokens: task(compile_program(architecture, tokens, label.fraction)))


@dataclass(frozen=True)
class Sharing:
    """One sharing of a model: each member's label, and its shares."""

    labels: Mapping[int, ShareLabel]
    shares: Shares = field(repr=False)

    @property
    def digest(self) -> str:
        """What the members of a session must have in common."""
        return self.labels[0].digest


class Owner:
    """Whoever holds the model in the clear: shares it, and asks about texts."""

    def __init__(self, base: Path, adapter: Path | None, scheme: Scheme | None = None) -> None:
        """Read the model; raises InvalidInput naming what of it is not supported or does not fit."""
        self.scheme = scheme or Replicated()
        self._model: PlainModel = read_model(base, adapter)
        self._programs: dict[int, tuple[Program, int]] = {}

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

    def prepare(self, texts: Iterable[str]) -> None:
        """Make programs and plans for the texts' lengths: seconds of work that the first answer would wait for."""
        for text in texts:
            self._program(self.embed(text).tokens)

    def share(self, entropy: Entropy) -> Sharing:
        """Share the weights among all members."""
        architecture = self._model.architecture
        sharing = entropy(SHARING_BYTES)
        shares = self.scheme.share_weights(self._model, compile_program(architecture, MIN_TOKENS, FRACTION), entropy)
        labels = {
            member: ShareLabel(
                protocol=self.scheme.protocol,
                parties=self.scheme.parties,
                party=member,
                model_digest=self.digest,
                sharing=sharing,
                fraction=FRACTION,
                architecture=architecture.to_json().decode("utf-8"),
            )
            for member in shares
        }
        return Sharing(labels, shares)

    def ask(self, embedded: EmbeddedText, sharing_digest: str, entropy: Entropy) -> Question:
        """Return the question about a text to the parties that hold a sharing."""
        program, rounds = self._program(embedded.tokens)
        terms = SessionTerms(
            session=entropy(SESSION_BYTES),
            protocol=self.scheme.protocol,
            parties=self.scheme.parties,
            model_digest=sharing_digest,
            program_digest=program.digest,
            fraction=FRACTION,
        )
        return Question(
            tokens=embedded.tokens,
            model_digest=self.digest,
            terms=terms,
            shares=self.scheme.share_input(embedded, program, entropy),
            output=program.output,
            rounds=rounds,
        )

    def _program(self, tokens: int) -> tuple[Program, int]:
        if tokens not in self._programs:
            program = compile_program(self._model.architecture, tokens, FRACTION)
            self._programs[tokens] = program, self.scheme.rounds(program)
        return self._programs[tokens]

"""What a private inference answers, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

PROTOCOLS = ("Replicated3PC", "Replicated3PCMalicious", "CrypTen")
PARTIES = {"Replicated3PC": 3, "Replicated3PCMalicious": 3, "CrypTen": 2}  # where nobody says how many
KNOWN = (
    "to the parties: the architecture, the labels' names, a digest of the model, each text's length up to the next "
    "power of two, and when it was asked"
)
ISOLATION = "processes of one user on one machine, not isolated from each other: this user can read text and weights"


@dataclass(frozen=True)
class Answer:
    """One text's answer: its label, each label's score (they add up to 1), and the model's own outputs."""

    label: str
    scores: Mapping[str, float]
    logits: tuple[float, ...]
    tokens: int
    seconds: float
    rounds: int
    bytes_sent: tuple[int, ...]  # by member: the parties, then the dealer if there is one


@dataclass(frozen=True)
class Inference:
    """All answers of one call in the order of its texts, and where its time went, by phase in seconds."""

    answers: tuple[Answer, ...]
    seconds: Mapping[str, float]
    protocol: str
    parties: int
    model_digest: str
    assumption: str

    @property
    def bytes_sent(self) -> int:
        """What the member that sent most has sent, without greetings."""
        return max((sum(each) for each in zip(*(answer.bytes_sent for answer in self.answers), strict=True)), default=0)

    @property
    def rounds(self) -> int:
        """Rounds of all answers."""
        return sum(answer.rounds for answer in self.answers)


def scores(labels: Sequence[str], logits: Sequence[float]) -> dict[str, float]:
    """Return each label's share by softmax, computed by the client in the clear."""
    top = max(logits)
    weights = [exp(value - top) for value in logits]
    return {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}

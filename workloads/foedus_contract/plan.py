"""The plan of one training job: public numbers that engine, coordinator and every silo agree on by digest."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from foedus_contract import limits, scale
from foedus_contract.canonical import digest
from foedus_contract.models import ContractModel, Digest, SiloName

Noise = Literal["Distributed", "Local"]


def threshold_for(silos: int) -> int:
    """Return t = ⌊2n/3⌋ + 1: more than two thirds must survive, so two disjoint survivor views cannot exist."""
    return 2 * silos // 3 + 1


def min_honest_for(noise: Noise, threshold: int, colluders: int) -> int:
    """Return n_min: how many shares of noise ε rests on. Local: a silo's own, whatever becomes of the others'."""
    return 1 if noise == "Local" else threshold - colluders


class LoraPlan(ContractModel):
    """Which factors are trained: rank, scaling numerator, module names, how many of the last layers."""

    rank: Annotated[int, Field(ge=1, le=256)]
    alpha: Annotated[float, Field(gt=0, le=1024)]
    target_modules: tuple[str, ...]
    last_layers: Annotated[int, Field(ge=1, le=128)]


class ModelPlan(ContractModel):
    """Base model by digest, labels in the order of the logits, fixed token length, adapter (None: head alone).

    `query_damping` is the share by which the last layer's query is lower at the first token.
    """

    digest: Digest
    labels: tuple[str, ...]
    max_tokens: Annotated[int, Field(ge=8, le=512)]
    lora: LoraPlan | None
    query_damping: Annotated[float, Field(ge=0, le=1)] = 0.0


class OptimizerPlan(ContractModel):
    """Server-side momentum on the noisy mean: post-processing, so its settings cost no privacy.

    Both rates fall linearly over the rounds, to `end_factor` times their start in the last one.
    """

    learning_rate: Annotated[float, Field(gt=0, le=1000)]
    head_learning_rate: Annotated[float, Field(gt=0, le=1000)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    end_factor: Annotated[float, Field(gt=0, le=1)] = 1.0


class PrivacyPlan(ContractModel):
    """What is promised and how: (ε, δ), clip C, noise multiplier σ, the ring's grid, t, c and n_min.

    `noise` says who draws how much of it: with Distributed the shares of n_min = t − c silos add up to σ, with Local
    each silo's own share is the whole of it, so n_min is 1 and ε rests on nobody else's noise and on no mask.
    `noise_multiplier` is the standard deviation of the noise that n_min shares add up to, in units of the sum's
    sensitivity Δ. `grid_per_clip` is the number of grid units in one clip norm. `epsilon_pld` and `epsilon_rdp`
    are the whole plan's ε (all attempts, the discretisation gap included).
    """

    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    clip: Annotated[float, Field(gt=0)]
    noise_multiplier: Annotated[float, Field(gt=0)]
    grid_per_clip: Annotated[int, Field(ge=1, lt=2**31)]
    threshold: Annotated[int, Field(ge=1)]
    colluders: Annotated[int, Field(ge=0)]
    min_honest: Annotated[int, Field(ge=1)]
    epsilon_pld: Annotated[float, Field(gt=0)]
    epsilon_rdp: Annotated[float, Field(gt=0)]
    noise: Noise = "Distributed"

    @property
    def adversary(self) -> str:
        """Return in words against whom ε holds."""
        if self.noise == "Local":
            return "the coordinator and all other silos together, whatever they do"
        others = "no silo" if self.colluders == 0 else "1 silo" if self.colluders == 1 else f"{self.colluders} silos"
        return f"coordinator assumed honest but curious, plus {others} telling it everything"


class Deadlines(ContractModel):
    """Seconds each side waits: for silos to join, for one protocol stage, for the silos' gradients."""

    join_seconds: Annotated[int, Field(ge=1, le=86_400)]
    stage_seconds: Annotated[int, Field(ge=1, le=86_400)]
    compute_seconds: Annotated[int, Field(ge=1, le=86_400)]


class SiloSize(ContractModel):
    """One silo: its name, and how many records it holds (sizes are public)."""

    name: SiloName
    records: Annotated[int, Field(ge=1, le=limits.MAX_RECORDS)]


class SiloPlan(SiloSize):
    """The same with the digest of its data, which only who takes part in the job is told."""

    data_digest: Digest


class PublicPlan(ContractModel):
    """What may be told of a job to everybody: its plan without the digests of the silos' data."""

    version: Literal["v1"] = "v1"
    namespace: SiloName
    job: SiloName
    uid: str
    rounds: Annotated[int, Field(ge=1, le=limits.MAX_ATTEMPTS)]
    spare_attempts: Annotated[int, Field(ge=0, le=limits.MAX_ATTEMPTS)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    micro_batch: Annotated[int, Field(ge=1, le=1024)]
    model: ModelPlan
    optimizer: OptimizerPlan
    privacy: PrivacyPlan
    deadlines: Deadlines
    silos: Annotated[tuple[SiloSize, ...], Field(min_length=limits.MIN_SILOS, max_length=limits.MAX_SILOS)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [silo.name for silo in self.silos]
        if names != sorted(set(names)):
            raise ValueError("silos must be in name order and unique")
        if not threshold_for(len(names)) <= self.privacy.threshold <= len(names):
            raise ValueError("threshold must be at least ⌊2n/3⌋+1 and at most the number of silos")
        privacy = self.privacy
        if privacy.min_honest != min_honest_for(privacy.noise, privacy.threshold, privacy.colluders):
            raise ValueError("minHonest must be threshold − colluders, and 1 where noise is Local")
        # Else two survivor sets could both be signed t times: c colluders sign each, honest silos one of them.
        if 2 * self.privacy.threshold <= len(names) + self.privacy.colluders:
            raise ValueError("twice the threshold must exceed silos + colluders")
        return self

    @property
    def attempts(self) -> int:
        """Attempts reserved in every silo's ledger: rounds and spares."""
        return self.rounds + self.spare_attempts

    @property
    def total_records(self) -> int:
        """The public constant that the sum is divided by."""
        return sum(silo.records for silo in self.silos)

    def sensitivity(self, coordinates: int) -> int:
        """Return Δ in grid units for a release of so many coordinates."""
        return scale.sensitivity(self.privacy.grid_per_clip, coordinates)

    def share_scale(self, coordinates: int) -> float:
        """Return the discrete Gaussian scale of one silo's noise share: σ·Δ/√n_min, in grid units."""
        privacy = self.privacy
        return privacy.noise_multiplier * self.sensitivity(coordinates) / math.sqrt(privacy.min_honest)

    def kappa(self, coordinates: int) -> float:
        """Return κ: the norm of all silos' noise in the mean gradient, over the clip norm."""
        privacy, silos = self.privacy, len(self.silos)
        return scale.kappa(
            privacy.noise_multiplier, silos, privacy.min_honest, coordinates, self.total_records, privacy.grid_per_clip
        )


class TrainingPlan(PublicPlan):
    """The whole plan of a job, as its parties hold it; its digest is bound into every signature of the protocol."""

    silos: Annotated[tuple[SiloPlan, ...], Field(min_length=limits.MIN_SILOS, max_length=limits.MAX_SILOS)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({silo.data_digest for silo in self.silos}) < len(self.silos):
            raise ValueError("two silos hold the same data: its records would count twice")
        return self

    def digest(self) -> str:
        """Return the digest that every signature of the protocol names."""
        return digest("foedus/plan", self.model_dump(mode="json", by_alias=True))

    def public(self) -> PublicPlan:
        """Return what may be told to everybody."""
        return PublicPlan.model_validate(self.model_dump(exclude={"silos": {"__all__": {"data_digest"}}}))

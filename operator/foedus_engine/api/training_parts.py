"""The parts of a training job's spec that say what is trained, and how."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from foedus_contract import limits
from foedus_contract.models import Label
from foedus_contract.plan import Noise
from foedus_engine.api.common import ATOMIC, Delta, Epsilon
from foedus_engine.api.meta import (
    INT32,
    USER_CLAIM,
    ApiModel,
    Duration,
    RelativePath,
    Rule,
    SubdomainName,
    exact_seconds,
    unique,
)

MAX_TIMEOUT_SECONDS = 86_400  # a stage that takes a day is stuck
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", min_length=1, max_length=64)]
PackageName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", min_length=1, max_length=128)
]


class PackageSource(ApiModel):
    """A base model that an installed Python package carries."""

    name: PackageName
    """Name of the distribution."""
    path: RelativePath | None = None
    """Folder of the model inside the distribution; its root when not given."""


class ClaimSource(ApiModel):
    """A base model on a volume."""

    claim_name: SubdomainName
    """Name of the PersistentVolumeClaim."""
    path: RelativePath | None = None
    """Folder of the model, relative to the volume's root; the root itself when not given."""

    RULES: ClassVar[tuple[Rule, ...]] = (USER_CLAIM,)


class ModelSource(ApiModel):
    """Where the base model lies: exactly one of the fields is set."""

    package: PackageSource | None = None
    """An installed Python package."""
    persistent_volume_claim: ClaimSource | None = None
    """A folder on a volume."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.package) != has(self.persistentVolumeClaim)",
            "exactly one of package and persistentVolumeClaim must be set",
            lambda self: (self.package is None) != (self.persistent_volume_claim is None),
        ),
    )


class ModelSpec(ApiModel):
    """The base model and what it is to learn."""

    source: ModelSource
    """Where the base model lies."""
    task: Literal["SequenceClassification"] = "SequenceClassification"
    """What the head does."""
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=limits.MAX_LABELS, json_schema_extra=ATOMIC)]
    """The labels, in the order of the model's outputs."""
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 64
    """Every text is cut or padded to this many tokens."""
    query_damping: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share by which the last layer's query is lower at the first token, which the classifier reads: at 1 it
    attends to all tokens alike. A fixed part of the adapter, made from the base model alone, so it costs no privacy;
    about half helps on long texts."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.labels.all(a, self.labels.exists_one(b, a == b))",
            "labels must differ from each other",
            lambda self: unique(self.labels),
            "labels",
        ),
    )


class LoraSpec(ApiModel):
    """Low-rank adaptation of the last layers."""

    rank: Annotated[int, Field(ge=1, le=256)]
    """Rank of the update; noise grows with its size, so small ranks often win under privacy."""
    alpha: Annotated[float, Field(gt=0, le=1024)]
    """The update is scaled by alpha / rank. Gradients of B are scaled with it: below the rank, it leaves more of the
    common clip to the head."""
    target_modules: Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=16, json_schema_extra=ATOMIC)]
    """Names of the linear modules to adapt, as the model calls them."""
    last_layers: Annotated[int, Field(ge=1, le=128)] = 1
    """How many of the last layers are adapted; layers below are computed once and cached."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.targetModules.all(a, self.targetModules.exists_one(b, a == b))",
            "targetModules must differ from each other",
            lambda self: unique(self.target_modules),
            "targetModules",
        ),
    )


class OptimizerSpec(ApiModel):
    """The coordinator's optimiser; it sees noised sums only, so its settings cost no privacy."""

    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 0.5
    """Step size for the LoRA factors."""
    head_learning_rate: Annotated[float, Field(gt=0, le=1000)] = 0.5
    """Step size for the classification head."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum, per factor."""
    end_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Both step sizes fall linearly over the rounds, to this fraction in the last one; 1 keeps them."""


class TrainingSpec(ApiModel):
    """How long and how fast."""

    rounds: Annotated[int, Field(ge=1, le=limits.MAX_ATTEMPTS)]
    """Rounds of training; each uses every record once."""
    spare_attempts: Annotated[int, Field(ge=0, le=limits.MAX_ATTEMPTS)] = 1
    """Attempts beyond the rounds, for rounds that lost their quorum; they are reserved and calibrated to."""
    seed: Annotated[int, Field(ge=0, le=INT32)] = 1
    """Seed of the adapter's first values; privacy noise never comes from a seed."""
    micro_batch_size: Annotated[int, Field(ge=1, le=1024)] = 32
    """Records that a silo processes at a time; it changes speed and memory, not the result."""
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec)
    """The coordinator's optimiser."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.rounds + self.spareAttempts <= {limits.MAX_ATTEMPTS}",
            f"rounds + spareAttempts must be at most {limits.MAX_ATTEMPTS}",
            lambda self: self.rounds + self.spare_attempts <= limits.MAX_ATTEMPTS,
        ),
    )


class PrivacySpec(ApiModel):
    """What is promised to each record's owner."""

    epsilon: Epsilon = 1.0
    """The job's ε, for all attempts together."""
    delta: Delta = 1e-5
    """The job's δ; it must be below 1 / the number of records."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Each record's gradient is clipped to this norm."""
    min_noise_multiplier: Annotated[float, Field(gt=0, le=1000)] = 1.1
    """Least noise multiplier, whatever ε would allow."""
    noise: Noise = "Distributed"
    """Who adds noise, inside secure aggregation.

    Distributed: each silo a share, and ε holds against the coordinator and `aggregation.colluders` silos. Local: each
    silo all of it, and ε holds against the coordinator and all other silos together; with n silos the sum bears n
    times the variance.
    """


def _timeout_rule(field: str) -> Rule:
    attribute = field.replace("Timeout", "_timeout")
    return Rule(
        f"duration(self.{field}) >= duration('1s') && duration(self.{field}) <= duration('24h')",
        "must be between 1s and 24h",
        lambda self: 1 <= exact_seconds(getattr(self, attribute)) <= MAX_TIMEOUT_SECONDS,
        field,
    )


class AggregationSpec(ApiModel):
    """Secure aggregation: how many silos must stay, how many may collude, how long to wait."""

    threshold: Annotated[int, Field(ge=3, le=limits.MAX_SILOS)] | None = None
    """Silos that must survive a round; ⌊2n/3⌋+1 when not given, and never less."""
    colluders: Annotated[int, Field(ge=0, le=limits.MAX_SILOS)] = 1
    """Silos that may collude with the coordinator; ε is stated against them, with `noise: Local` against all."""
    join_timeout: Duration = "5m"
    """How long the coordinator waits for silos to join, and a silo for a coordinator that is out of reach.

    It begins when a quorum of silos has a process: time in which pods wait for a node or an image does not count.
    """
    stage_timeout: Duration = "1m"
    """How long to wait for an answer in one stage of the protocol."""
    compute_timeout: Duration = "10m"
    """How long to wait for the silos' gradients."""

    RULES: ClassVar[tuple[Rule, ...]] = tuple(map(_timeout_rule, ("joinTimeout", "stageTimeout", "computeTimeout")))

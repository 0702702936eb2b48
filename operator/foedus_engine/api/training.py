"""FederatedTrainingJob: what a user may write about one training job."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints
from pydantic.alias_generators import to_snake

from foedus_contract import limits
from foedus_contract.plan import threshold_for
from foedus_engine.api.common import AGE, ATOMIC, BY_NAME, READY, Column, Kind
from foedus_engine.api.meta import (
    INT32,
    LABEL_KEY,
    ApiModel,
    LocalReference,
    Name,
    PersistentVolumeClaimPath,
    Quantity,
    Rule,
    SubdomainName,
    Transition,
    unique,
)
from foedus_engine.api.training_parts import AggregationSpec, LoraSpec, ModelSpec, PrivacySpec, TrainingSpec
from foedus_engine.api.training_status import FederatedTrainingJobStatus

MIN_HONEST = 2  # with 1, the sum that colluders are left with after subtracting their own is one silo's
RESERVED_SILO_NAMES = ("ca", "coordinator", "inspector", "policy")  # the job's own children bear these suffixes
# The coordinator's Service is `<job>-coordinator`, and a Service's name is a DNS label of at most 63 characters.
MAX_JOB_NAME = 63 - len("-coordinator")


class DataSource(ApiModel):
    """Records as JSON lines, each with `text` and `label`."""

    persistent_volume_claim: PersistentVolumeClaimPath
    """A file on a volume."""


class ClientSpec(ApiModel):
    """One silo: its data, its privacy budget, its region."""

    name: Name
    """Name of the silo, unique in the job."""
    budget_ref: LocalReference
    """The silo's PrivacyBudget, made by its holder."""
    region_ref: LocalReference | None = None
    """The ComplianceRegion that the silo is in; nothing looks at it yet."""
    data: DataSource
    """The silo's records; they stay where they are."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!(self.name in {list(RESERVED_SILO_NAMES)})",
            "a silo cannot be called ca, coordinator, inspector or policy",
            lambda self: self.name not in RESERVED_SILO_NAMES,
            "name",
        ),
    )


class EvaluationSpec(ApiModel):
    """Public held-out records on which accuracy is measured."""

    data: DataSource
    """The records; they must be public."""


def _resource_rule(field: str) -> Rule:
    return Rule(
        f"!has(self.{field}) || self.{field}.all(k, k.matches('^[a-z0-9][-a-z0-9./]*$') && size(k) <= 253)",
        "must map resource names such as cpu and memory to quantities",
        lambda self: all(_is_resource(name) for name in getattr(self, field)),
        field,
    )


def _is_resource(name: str) -> bool:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-./")
    return 0 < len(name) <= 253 and set(name) <= allowed and name[0].isalnum()


class ResourceRequirements(ApiModel):
    """Resources of one container, as a pod states them."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(default_factory=dict)
    """What is set aside for the container."""
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(default_factory=dict)
    """What the container may not exceed."""

    RULES: ClassVar[tuple[Rule, ...]] = (_resource_rule("requests"), _resource_rule("limits"))


class ResourcesSpec(ApiModel):
    """Resources of the job's containers."""

    coordinator: ResourceRequirements | None = None
    """The coordinator's container."""
    client: ResourceRequirements | None = None
    """Each silo's container."""


class Toleration(ApiModel):
    """A taint that a pod puts up with, as a pod states it."""

    key: Annotated[str, StringConstraints(pattern=LABEL_KEY, max_length=317)] | None = None
    """Key of the taint; every taint when not given."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How the taint's value is compared."""
    value: Annotated[str, StringConstraints(min_length=1, max_length=63)] | None = None
    """Value of the taint, for Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; every effect when not given."""
    toleration_seconds: Annotated[int, Field(ge=0, le=INT32)] | None = None
    """For NoExecute: how long the pod stays."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.operator == 'Exists' ? !has(self.value) : has(self.key)",
            "Exists takes no value, and Equal needs a key",
            lambda self: self.value is None if self.operator == "Exists" else self.key is not None,
            "operator",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "goes with the effect NoExecute alone",
            lambda self: self.toleration_seconds is None or self.effect == "NoExecute",
            "tolerationSeconds",
        ),
    )


class PodScheduling(ApiModel):
    """Where a pod may run, as a pod states it."""

    node_selector: Annotated[dict[str, Annotated[str, StringConstraints(max_length=63)]], Field(max_length=16)] = Field(
        default_factory=dict
    )
    """Labels that the node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16, json_schema_extra=ATOMIC)] = ()
    """Taints that the pod puts up with."""
    runtime_class_name: SubdomainName | None = None
    """The RuntimeClass, such as one for GPUs or for a sandbox."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.nodeSelector) || self.nodeSelector.all(k, k.matches('{LABEL_KEY}') && size(k) <= 317)",
            "must map label names such as topology.kubernetes.io/region to values",
            lambda self: all(re.fullmatch(LABEL_KEY, key) and len(key) <= 317 for key in self.node_selector),
            "nodeSelector",
        ),
    )


class SchedulingSpec(ApiModel):
    """Where the job's pods may run."""

    coordinator: PodScheduling | None = None
    """The coordinator's pod, and the one that looks at the base model."""
    client: PodScheduling | None = None
    """Each silo's pod."""


def _threshold(spec: FederatedTrainingJobSpec) -> int:
    given = spec.aggregation.threshold
    return threshold_for(len(spec.clients)) if given is None else given


def _differ(part: str) -> str:
    """Return CEL for: `part` of each client c is another one's.

    Reading a field costs the API server far more than comparing two texts, and it checks every rule at each change of
    a job's status: so each field is read once. A list of one list gives that list a name.
    """
    return f"[self.clients.map(c, {part})].all(parts, parts.all(a, parts.exists_one(b, a == b)))"


def _unchanged(field: str) -> Transition:
    attribute = to_snake(field)
    same = f"self.{field} == oldSelf.{field}"
    optional = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})"
    return Transition(
        same if field in _ALWAYS_THERE else optional,
        "cannot change: the plan is fixed when the job is created; create a new job instead",
        lambda old, new: _by_name(getattr(old, attribute)) == _by_name(getattr(new, attribute)),
        field,
    )


def _silo_claims(self: FederatedTrainingJobSpec) -> set[str]:
    return {client.data.persistent_volume_claim.claim_name for client in self.clients}


def _evaluation_claims(self: FederatedTrainingJobSpec) -> set[str]:
    return set() if self.evaluation is None else {self.evaluation.data.persistent_volume_claim.claim_name}


def _model_claims(self: FederatedTrainingJobSpec) -> set[str]:
    claim = self.model.source.persistent_volume_claim
    return set() if claim is None else {claim.claim_name}


def _by_name(value: object) -> object:
    """Return `clients` by name: their order means nothing, and the API server compares them without it."""
    if isinstance(value, tuple) and value and isinstance(value[0], ClientSpec):
        return {item.name: item for item in value}
    return value


_FIXED = (
    "model",
    "lora",
    "training",
    "privacy",
    "aggregation",
    "clients",
    "evaluation",
    "resources",
    "scheduling",
    "managedBy",
)
_ALWAYS_THERE = frozenset({"model", "training", "privacy", "aggregation", "clients"})  # required, or with a default
_SILO_CLAIM = "c.data.persistentVolumeClaim.claimName"
_EVALUATION_CLAIM = "self.evaluation.data.persistentVolumeClaim.claimName"
_MODEL_CLAIM = "self.model.source.persistentVolumeClaim.claimName"
_T = "(has(self.aggregation.threshold) ? self.aggregation.threshold : size(self.clients) * 2 / 3 + 1)"


class FederatedTrainingJobSpec(ApiModel):
    """What is trained, on whose data, under which promise. Only the last four fields can change later."""

    model: ModelSpec
    """The base model and its labels."""
    lora: LoraSpec | None = None
    """The adapter; without it the classification head alone is trained."""
    training: TrainingSpec
    """Rounds and optimiser."""
    privacy: PrivacySpec = Field(default_factory=PrivacySpec)
    """What is promised to each record's owner."""
    aggregation: AggregationSpec = Field(default_factory=AggregationSpec)
    """Secure aggregation."""
    clients: Annotated[
        tuple[ClientSpec, ...],
        Field(min_length=limits.MIN_SILOS, max_length=limits.MAX_SILOS, json_schema_extra=BY_NAME),
    ]
    """The silos."""
    evaluation: EvaluationSpec | None = None
    """Public records to measure accuracy on."""
    resources: ResourcesSpec | None = None
    """CPU, memory and devices such as `nvidia.com/gpu` of coordinator and clients."""
    scheduling: SchedulingSpec | None = None
    """Nodes, taints and runtime class of coordinator and clients."""
    managed_by: Annotated[str, StringConstraints(pattern=LABEL_KEY, max_length=317)] | None = None
    """Who runs the job; Foedus' operator when not given, or when it is `foedus.dev/operator`."""
    suspend: bool = False
    """True stops the job's processes until it is set back to false."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=INT32)] | None = None
    """The job's children but its output are deleted this long after it finished; never when not given."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=INT32)] | None = None
    """The job fails this long after its processes were first started, or were started again after a suspension.

    It is wall-clock time, as in batch/v1: time in which a crash kept everything down counts too.
    """
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """How often a failed process is started again."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            _differ("c.name"),
            "client names must differ from each other",
            lambda self: unique(tuple(client.name for client in self.clients)),
            "clients",
        ),
        Rule(
            _differ("c.budgetRef.name"),
            "two clients cannot share a budget: each silo charges its own",
            lambda self: unique(tuple(client.budget_ref.name for client in self.clients)),
            "clients",
        ),
        Rule(
            _differ(f"{_SILO_CLAIM} + '/' + c.data.persistentVolumeClaim.path"),
            "two clients cannot have the same data: its records would count twice",
            lambda self: unique(tuple(client.data for client in self.clients)),
            "clients",
        ),
        Rule(
            "!has(self.aggregation.threshold) || (self.aggregation.threshold >= size(self.clients) * 2 / 3 + 1"
            " && self.aggregation.threshold <= size(self.clients))",
            "must be at least ⌊2n/3⌋+1 and at most n for n clients; leave it out for ⌊2n/3⌋+1",
            lambda self: threshold_for(len(self.clients)) <= _threshold(self) <= len(self.clients),
            "aggregation.threshold",
        ),
        Rule(
            f"{_T} - self.aggregation.colluders >= {MIN_HONEST}",
            f"threshold - colluders must be at least {MIN_HONEST}: colluders subtract their own part,"
            " and what is left must not be one silo's; lower colluders or add clients",
            lambda self: _threshold(self) - self.aggregation.colluders >= MIN_HONEST,
            "aggregation.colluders",
        ),
        Rule(
            f"2 * {_T} > size(self.clients) + self.aggregation.colluders",
            "twice the threshold must exceed clients + colluders: else a coordinator and the colluders can show two"
            " groups of silos different survivors; lower colluders or raise threshold",
            lambda self: 2 * _threshold(self) > len(self.clients) + self.aggregation.colluders,
            "aggregation.colluders",
        ),
        Rule(
            "self.model.queryDamping == 0.0 || !has(self.lora)"
            " || self.lora.targetModules.exists(m, m.endsWith('query'))",
            "queryDamping needs query among lora's targetModules",
            lambda self: (
                self.model.query_damping == 0
                or self.lora is None
                or any(name.endswith("query") for name in self.lora.target_modules)
            ),
            "model.queryDamping",
        ),
        # The coordinator mounts what evaluation names and publishes its accuracy; every pod mounts what model names.
        Rule(
            f"!has(self.evaluation) || self.clients.all(c, {_SILO_CLAIM} != {_EVALUATION_CLAIM})",
            "evaluation cannot be on a silo's PersistentVolumeClaim: its records are public, a silo's are not;"
            " use a claim of its own",
            lambda self: not _evaluation_claims(self) & _silo_claims(self),
            "evaluation.data.persistentVolumeClaim.claimName",
        ),
        Rule(
            f"!has(self.model.source.persistentVolumeClaim) || (self.clients.all(c, {_SILO_CLAIM} != {_MODEL_CLAIM})"
            f" && (!has(self.evaluation) || {_EVALUATION_CLAIM} != {_MODEL_CLAIM}))",
            "the model cannot be on a PersistentVolumeClaim that holds records: every process of the job reads the"
            " model's; use a claim of its own",
            lambda self: not _model_claims(self) & (_silo_claims(self) | _evaluation_claims(self)),
            "model.source.persistentVolumeClaim.claimName",
        ),
    )
    TRANSITIONS: ClassVar[tuple[Transition, ...]] = tuple(map(_unchanged, _FIXED))


class FederatedTrainingJob(Kind):
    """Trains one adapter across silos under differential privacy; no record leaves its silo."""

    PLURAL: ClassVar[str] = "federatedtrainingjobs"
    SHORT_NAME: ClassVar[str] = "ftj"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column("Phase", ".status.phase", "string", "Where the job is"),
        Column("Round", ".status.round", "integer", "Rounds finished"),
        Column("Clients", ".status.clients", "string", "Silos in the last round, of all"),
        Column("ε-Spent", ".status.epsilonSpent", "number", "ε of the attempts so far"),
        Column("ε-Limit", ".status.epsilonLimit", "number", "ε that the job may spend"),
        READY,
        AGE,
    )

    api_version: Literal["foedus.dev/v1alpha1"] = "foedus.dev/v1alpha1"
    """Group and version."""
    kind: Literal["FederatedTrainingJob"] = "FederatedTrainingJob"
    """The kind."""
    spec: FederatedTrainingJobSpec
    """What the user wants."""
    status: FederatedTrainingJobStatus | None = None
    """What Foedus has seen."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"size(self.metadata.name) <= {MAX_JOB_NAME} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            f"must be at most {MAX_JOB_NAME} lower-case letters, digits and `-`, and start with a letter",
            lambda self: (
                len(self.metadata.name) <= MAX_JOB_NAME
                and "." not in self.metadata.name
                and not self.metadata.name[0].isdigit()
            ),
            "metadata.name",
        ),
        Rule(
            "self.spec.clients.all(c, size(self.metadata.name) + size(c.name) <= 62)",
            "the job's name and a client's name together must be at most 62 characters",
            lambda self: all(len(self.metadata.name) + len(client.name) <= 62 for client in self.spec.clients),
            "metadata.name",
        ),
    )

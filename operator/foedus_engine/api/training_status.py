"""FederatedTrainingJob's status: what Foedus writes and users read."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from foedus_contract import limits
from foedus_contract.inspection import MAX_MODULES, MAX_SIZE
from foedus_engine.api.common import BY_NAME, BY_TYPE, Count, Message, Spent, Timestamp
from foedus_engine.api.meta import ApiModel, Condition, Sha256

Phase = Literal["Pending", "Preparing", "Training", "Suspended", "Complete", "Failed"]


class TrainingConditionType(StrEnum):
    """The conditions of a training job."""

    ACCEPTED = "Accepted"
    BUDGET_AVAILABLE = "BudgetAvailable"
    QUORUM_REACHED = "QuorumReached"
    READY = "Ready"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class TrainingReason(StrEnum):
    """The closed list of reasons of a training job's conditions."""

    PENDING = "Pending"  # not looked at yet
    # Accepted
    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    INSPECTING = "Inspecting"  # a pod looks at the base model
    INVALID_MODEL = "InvalidModel"
    INVALID_DATA = "InvalidData"
    DELTA_TOO_LARGE = "DeltaTooLarge"  # δ ≥ 1 / the number of records
    UNPLANNABLE = "Unplannable"  # no noise multiplier meets the promise
    # BudgetAvailable
    RESERVED = "Reserved"
    RELEASED = "Released"  # the job is over and has given back what it did not use
    BUDGET_NOT_FOUND = "BudgetNotFound"
    BUDGET_INSUFFICIENT = "BudgetInsufficient"
    BUDGET_REFUSED = "BudgetRefused"  # also: a ledger that cannot be trusted
    LEDGER_BEHIND = "LedgerBehind"  # a ledger is an old copy: it lacks charges that its silo has made
    LEDGER_UNAVAILABLE = "LedgerUnavailable"  # a ledger does not answer; it is asked again
    # QuorumReached, Ready
    WAITING_FOR_SILOS = "WaitingForSilos"
    SILOS_JOINED = "SilosJoined"
    QUEUED = "Queued"  # a queue has not admitted a pod yet
    UNSCHEDULABLE = "Unschedulable"  # no node takes a pod, for want of a GPU, of memory or of a matching label
    IMAGE_PULL_FAILED = "ImagePullFailed"
    VOLUME_MISSING = "VolumeMissing"
    CERTIFICATE_INVALID = "CertificateInvalid"  # a certificate of the job is gone or was changed
    QUOTA_EXCEEDED = "QuotaExceeded"
    CANNOT_START = "CannotStart"  # a node took the pod and cannot start its container
    FORBIDDEN = "Forbidden"  # the operator may not make what the job needs
    NAME_TAKEN = "NameTaken"  # an object of somebody else bears the name of one that the job needs
    PREPARING = "Preparing"
    TRAINING = "Training"
    FINISHED = "Finished"
    # Complete, Failed
    ALL_ROUNDS = "AllRounds"
    ENDED_EARLY = "EndedEarly"  # attempts ran out; the adapter is that of the last finished round
    QUORUM_LOST = "QuorumLost"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    COORDINATOR_FAILED = "CoordinatorFailed"
    IDENTITY_REFUSED = "IdentityRefused"
    # Suspended
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    NOT_SUSPENDED = "NotSuspended"


class TrainingCondition(Condition):
    """One condition of a training job."""

    type: TrainingConditionType
    """What the condition is about."""
    reason: TrainingReason
    """Why, in one word."""


class ModuleStatus(ApiModel):
    """One linear map of a layer, which LoRA may adapt."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """Its path inside the layer."""
    inputs: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    """Size of what it takes."""
    outputs: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    """Size of what it gives."""


class ModelStatus(ApiModel):
    """The base model as it was found when the job was planned."""

    digest: Sha256
    """Digest of its files; every process checks it."""
    hidden_size: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    """Size of a token's state."""
    layers: Annotated[int, Field(ge=1, le=10_000)]
    """Its layers."""
    positions: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    """Longest text that it takes, in tokens."""
    modules: Annotated[tuple[ModuleStatus, ...], Field(min_length=1, max_length=MAX_MODULES, json_schema_extra=BY_NAME)]
    """The linear maps of one layer."""


class PlanStatus(ApiModel):
    """The plan that the job runs under."""

    digest: Sha256
    """Digest that every signature of the protocol names."""
    noise_multiplier: Annotated[float, Field(ge=0, le=1_000_000)]
    """σ: standard deviation of the summed noise, in units of the sum's sensitivity."""
    threshold: Annotated[int, Field(ge=1, le=limits.MAX_SILOS)]
    """Silos that must survive a round."""
    min_honest: Annotated[int, Field(ge=1, le=limits.MAX_SILOS)]
    """Honest silos whose noise is counted on: threshold - colluders, or 1 with `noise: Local`."""
    adversary: Annotated[str, StringConstraints(max_length=256)] = ""
    """Against whom ε holds."""
    epsilon_pld: Spent
    """ε of the whole plan by privacy loss distributions."""
    epsilon_rdp: Spent
    """ε of the whole plan by Rényi accounting."""
    total_records: Count
    """Records of all silos together."""
    attempts: Annotated[int, Field(ge=1, le=limits.MAX_ATTEMPTS)]
    """Attempts reserved in every budget."""


class ResultStatus(ApiModel):
    """How the job ended."""

    outcome: Literal["Complete", "EndedEarly", "Failed"]
    """How it ended."""
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Accuracy on the public evaluation records."""
    adapter_digest: Annotated[str, StringConstraints(max_length=71)] = ""
    """Digest of the adapter's folder: of names, sizes and digests of its files."""
    rounds: Annotated[int, Field(ge=0, le=limits.MAX_ATTEMPTS)] = 0
    """Rounds whose sums were used."""
    attempts: Annotated[int, Field(ge=0, le=limits.MAX_ATTEMPTS)] = 0
    """Attempts made."""
    message: Annotated[str, StringConstraints(max_length=1024)] = ""
    """Why, in a sentence."""


class FederatedTrainingJobStatus(ApiModel):
    """What Foedus has seen of the job."""

    observed_generation: Count | None = None
    """The metadata.generation that this status describes."""
    phase: Phase | None = None
    """Where the job is; conditions say why."""
    conditions: Annotated[tuple[TrainingCondition, ...], Field(max_length=16, json_schema_extra=BY_TYPE)] = ()
    """What holds and what does not."""
    start_time: Timestamp | None = None
    """When the job's processes were first started."""
    join_start_time: Timestamp | None = None
    """Since when a quorum of silos has had a process; joinTimeout counts from here."""
    completion_time: Timestamp | None = None
    """When the job ended."""
    settled_time: Timestamp | None = None
    """When nothing of the ended job was left to do: no account is open, no process runs. From then on it rests."""
    round: Annotated[int, Field(ge=0, le=limits.MAX_ATTEMPTS)] | None = None
    """Rounds finished."""
    rounds: Annotated[int, Field(ge=0, le=limits.MAX_ATTEMPTS)] | None = None
    """Rounds planned."""
    clients: Annotated[str, StringConstraints(max_length=16)] | None = None
    """Silos in the last round, of all: `9/10`."""
    epsilon_spent: Spent | None = None
    """ε of the attempts so far."""
    epsilon_limit: Spent | None = None
    """ε that the job may spend."""
    model: ModelStatus | None = None
    """The base model, once it was looked at."""
    plan: PlanStatus | None = None
    """The plan, once it is made."""
    code_digest: Sha256 | None = None
    """Digest of Foedus' own code in the job's processes, which is that of the installed wheel; all run the same."""
    result: ResultStatus | None = None
    """How the job ended."""
    message: Message | None = None
    """What the job is doing or why it stopped, in a sentence."""

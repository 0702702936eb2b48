"""PrivacyBudget: how much privacy loss a data holder allows for one dataset, and who has used it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from foedus_contract import limits
from foedus_contract.models import Label
from foedus_engine.api.common import ATOMIC, BY_TYPE, READY, Column, Count, Delta, Epsilon, Kind, Spent
from foedus_engine.api.meta import ApiModel, Condition, Rule, Sha256, Transition, unique

MAX_BUDGET_NAME = 63 - len("-ledger")  # the ledger's volume claim is `<budget>-ledger`


class DatasetSpec(ApiModel):
    """The dataset that the budget covers."""

    digest: Sha256
    """Digest of the canonical records; a client hashes its data again and stops when it differs."""
    records: Annotated[int, Field(ge=1, le=limits.MAX_RECORDS)]
    """How many records the dataset has; sizes are public."""


class PrivacyBudgetSpec(ApiModel):
    """The holder's decision; it never changes. A new decision is a new budget."""

    dataset: DatasetSpec
    """The dataset that the budget covers."""
    epsilon: Epsilon
    """ε that all jobs on this dataset may spend together."""
    delta: Delta
    """δ that goes with it."""
    owner: Annotated[str, StringConstraints(max_length=256)] = ""
    """Who decides about the dataset."""
    labels: Annotated[tuple[Label, ...], Field(max_length=limits.MAX_LABELS, json_schema_extra=ATOMIC)] = ()
    """All labels that records may bear; public. A job must know them all, and without them no job may use the data."""
    least_colluders: Annotated[int, Field(ge=0, le=limits.MAX_SILOS)] = 1
    """How many silos a job must assume, at least, to tell the coordinator all they know; not asked with local noise."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.delta * double(self.dataset.records) < 1.0",
            "must be below 1 / dataset.records, else one record may be published outright",
            lambda self: self.delta * self.dataset.records < 1,
            "delta",
        ),
        Rule(
            "!has(self.labels) || self.labels.all(a, self.labels.exists_one(b, a == b))",
            "labels must differ from each other",
            lambda self: unique(self.labels),
            "labels",
        ),
    )
    TRANSITIONS: ClassVar[tuple[Transition, ...]] = (
        Transition(
            "self == oldSelf",
            "cannot change: a new decision of the data's holder is a new budget",
            lambda old, new: old == new,
        ),
    )


class MechanismStatus(ApiModel):
    """What one release of a job is, in the terms that accountants compose."""

    kind: Literal["DistributedDiscreteGaussian"]
    """The mechanism."""
    noise_multiplier: Annotated[float, Field(gt=0, le=1_000_000)]
    """σ: standard deviation of the summed noise, in units of the sum's sensitivity."""
    sampling_rate: Annotated[float, Field(ge=1, le=1)] = 1
    """Share of the records that take part in a round; only all of them so far."""
    gap_epsilon: Annotated[float, Field(ge=0, lt=1)] = 0
    """ε that discretisation adds to one release."""
    gap_delta: Annotated[float, Field(ge=0, lt=1)] = 0
    """δ that discretisation adds to one release."""


class AccountStatus(ApiModel):
    """What one job has set aside and used."""

    mechanism: MechanismStatus
    """What one release of the job is."""
    reserved: Annotated[int, Field(ge=1, le=limits.MAX_ATTEMPTS)]
    """Releases set aside."""
    charged: Annotated[int, Field(ge=0, le=limits.MAX_ATTEMPTS)]
    """Releases that may have happened; each is charged before it is made."""
    last_attempt: Annotated[int, Field(ge=-1, lt=limits.MAX_ATTEMPTS)] = -1
    """Highest attempt number charged; -1 when there is none."""
    claimant: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """Who holds the account."""
    state: Literal["Open", "Closed"]
    """An open account counts with what it reserved, a closed one with what it charged."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.charged <= self.reserved",
            "charged must be at most reserved",
            lambda self: self.charged <= self.reserved,
            "charged",
        ),
    )
    TRANSITIONS: ClassVar[tuple[Transition, ...]] = (
        Transition(
            "self.charged >= oldSelf.charged",
            "cannot fall: what was spent stays spent",
            lambda old, new: new.charged >= old.charged,
            "charged",
        ),
        Transition(
            "self.lastAttempt >= oldSelf.lastAttempt",
            "cannot fall: an attempt is charged once",
            lambda old, new: new.last_attempt >= old.last_attempt,
            "lastAttempt",
        ),
        Transition(
            "self.claimant == oldSelf.claimant",
            "cannot change: an account of a job that is not there is closed",
            lambda old, new: new.claimant == old.claimant,
            "claimant",
        ),
        Transition(
            "self.mechanism == oldSelf.mechanism && self.reserved == oldSelf.reserved",
            "mechanism and reserved cannot change: what was granted is what is charged",
            lambda old, new: (new.mechanism, new.reserved) == (old.mechanism, old.reserved),
        ),
        Transition(
            # Its charges may rise: a ledger that was restored takes over what the silo's own log has.
            "oldSelf.state != 'Closed' || self.state == 'Closed'",
            "a closed account is not opened again",
            lambda old, new: old.state != "Closed" or new.state == "Closed",
        ),
    )


class BudgetConditionType(StrEnum):
    """The conditions of a budget."""

    READY = "Ready"


class BudgetReason(StrEnum):
    """The closed list of reasons of a budget's conditions."""

    PENDING = "Pending"
    AVAILABLE = "Available"
    EXHAUSTED = "Exhausted"
    LEDGER_BEHIND = "LedgerBehind"
    LEDGER_DAMAGED = "LedgerDamaged"


class BudgetCondition(Condition):
    """One condition of a budget."""

    type: BudgetConditionType
    """What the condition is about."""
    reason: BudgetReason
    """Why, in one word."""


class HeadStatus(ApiModel):
    """Where the silo's own charge log ended when it was last shown: a ledger that holds less is an old copy."""

    count: Annotated[int, Field(ge=0, le=limits.MAX_CHARGES)]
    """Releases that the log holds."""
    hash: Sha256
    """Hash of its last line."""
    signature: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """The silo's signature of the two and of the data's digest, in base64."""


class PrivacyBudgetStatus(ApiModel):
    """The ledger: who has set aside and used how much. Only Foedus' ledger identity writes it."""

    observed_generation: Count | None = None
    """The metadata.generation that this status describes."""
    accounts: Annotated[dict[str, AccountStatus], Field(max_length=limits.MAX_ACCOUNTS)] = Field(default_factory=dict)
    """Accounts by the UID of the job."""
    epsilon_spent: Spent | None = None
    """ε of everything charged."""
    epsilon_reserved: Spent | None = None
    """ε of everything charged and set aside."""
    head: HeadStatus | None = None
    """End of the silo's own charge log, where it went beyond this ledger."""
    conditions: Annotated[tuple[BudgetCondition, ...], Field(max_length=16, json_schema_extra=BY_TYPE)] = ()
    """What holds and what does not."""

    TRANSITIONS: ClassVar[tuple[Transition, ...]] = (
        Transition(
            "!has(oldSelf.accounts) || (has(self.accounts) && oldSelf.accounts.all(k, k in self.accounts))",
            "accounts cannot be removed",
            lambda old, new: set(old.accounts) <= set(new.accounts),
            "accounts",
        ),
        Transition(
            "!has(oldSelf.head) || (has(self.head) && self.head.count >= oldSelf.head.count)",
            "what was seen of the silo's log is not forgotten",
            lambda old, new: old.head is None or (new.head is not None and new.head.count >= old.head.count),
            "head",
        ),
    )


class PrivacyBudget(Kind):
    """How much privacy loss the holder of one dataset allows; it outlives the jobs that spend it."""

    PLURAL: ClassVar[str] = "privacybudgets"
    SHORT_NAME: ClassVar[str] = "pb"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column("Dataset", ".spec.dataset.digest", "string", "Digest of the dataset"),
        Column("ε-Spent", ".status.epsilonSpent", "number", "ε of everything charged"),
        Column("ε-Reserved", ".status.epsilonReserved", "number", "ε of everything charged and set aside"),
        Column("ε-Limit", ".spec.epsilon", "number", "ε that all jobs may spend together"),
        READY,
    )

    api_version: Literal["foedus.dev/v1alpha1"] = "foedus.dev/v1alpha1"
    """Group and version."""
    kind: Literal["PrivacyBudget"] = "PrivacyBudget"
    """The kind."""
    spec: PrivacyBudgetSpec
    """The holder's decision."""
    status: PrivacyBudgetStatus | None = None
    """The ledger."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"size(self.metadata.name) <= {MAX_BUDGET_NAME}",
            f"must be at most {MAX_BUDGET_NAME} characters",
            lambda self: len(self.metadata.name) <= MAX_BUDGET_NAME,
            "metadata.name",
        ),
    )
    TRANSITIONS: ClassVar[tuple[Transition, ...]] = (
        Transition(
            "!has(oldSelf.status) || !has(oldSelf.status.accounts) || (has(self.status) && has(self.status.accounts))",
            "the ledger cannot be removed",
            lambda old, new: old.status is None or not old.status.accounts or new.status is not None,
            "status",
        ),
    )

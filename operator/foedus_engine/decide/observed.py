"""What `gather` has read about one training job, as plain data: all that `decide` may know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from foedus_contract.inspection import InspectedModel
from foedus_contract.progress import (
    IdentityReady,
    Preparing,
    ProcessFailed,
    RoundFinished,
    TrainingResult,
    TrainingStarted,
)
from foedus_engine.decide.plan import BudgetKey, KeepHead, ObjectKey

Progress = IdentityReady | Preparing | TrainingStarted | RoundFinished | ProcessFailed


@dataclass(frozen=True)
class ObjectMeta:
    """The server's side of the job object: who it is, which version of the spec, what was last reported."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: datetime
    status: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> ObjectMeta:
        """Return the server's side of an object as the API gives it; an object not yet stored counts as new."""
        meta = document["metadata"]
        created = meta.get("creationTimestamp")
        return ObjectMeta(
            namespace=meta.get("namespace", "default"),
            name=meta["name"],
            uid=meta.get("uid", ""),
            generation=int(meta.get("generation", 0)),
            created=datetime.fromisoformat(created) if created else datetime.fromtimestamp(0, UTC),
            status=document.get("status") or {},
        )


@dataclass(frozen=True)
class AccountView:
    """This job's account in one budget."""

    noise_multiplier: float
    gap_epsilon: float
    gap_delta: float
    reserved: int
    charged: int
    state: Literal["Open", "Closed"]


@dataclass(frozen=True)
class BudgetView:
    """One silo's budget: the holder's limit, the dataset it covers, and this job's account in it."""

    key: BudgetKey
    digest: str
    records: int
    epsilon: float
    delta: float
    account: AccountView | None = None
    holders: tuple[str, ...] = ()  # the claimants of other jobs' open accounts
    labels: tuple[str, ...] = ()  # all that records may bear, as their holder declared
    least_colluders: int = 1  # that the holder wants assumed
    accounts: int = 0  # of all jobs that have ever reserved


@dataclass(frozen=True)
class LedgerFault:
    """Why a silo's ledger cannot be used: it does not answer, cannot be trusted, or is an old copy.

    Only one that does not answer may be usable later without its holder's doing. `keep` is what has just shown an old
    copy, and is to be remembered.
    """

    message: str
    reason: Literal["Unavailable", "Damaged", "Behind"]
    keep: KeepHead | None = None


@dataclass(frozen=True)
class Calibrated:
    """A noise multiplier under which the whole plan, all attempts and the discretisation gap, keeps its promise.

    `fresh_noise_multiplier` is what the same plan would need if every budget were unused; `tightest` names the budget
    with the least left.
    """

    noise_multiplier: float
    fresh_noise_multiplier: float
    epsilon_pld: float
    epsilon_rdp: float
    gap_epsilon: float
    gap_delta: float
    tightest: str = ""


@dataclass(frozen=True)
class Unplannable:
    """No noise multiplier keeps the promise, and whether the job's own limit or what is left of a budget is short."""

    reason: Literal["BudgetInsufficient", "Unplannable"]
    message: str


@dataclass(frozen=True)
class ModelView:
    """The base model as far as planning needs it; `problem` says in one line why it cannot be used.

    `positions` is the longest text in tokens. `modules` names every linear map of one layer by its path inside the
    layer, with its (inputs, outputs).
    """

    digest: str = ""
    hidden_size: int = 0
    layers: int = 0
    positions: int = 0
    modules: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""

    @staticmethod
    def of(model: InspectedModel) -> ModelView:
        """Return what an inspection found."""
        return ModelView(model.digest, model.hidden_size, model.layers, model.positions, dict(model.modules))


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod from being started, and that somebody may have to do something about it."""

    reason: Literal["Queued", "Unschedulable", "ImagePullFailed", "VolumeMissing", "QuotaExceeded", "CannotStart"]
    message: str


@dataclass(frozen=True)
class PodsView:
    """What the pods of one Job have reported so far, oldest first, and what the latest of them left behind.

    `started` says that at least one process was started; `result` is what a termination log holds, not yet checked.
    `live` is the latest pod, where pods are objects and it is not over.
    """

    progress: tuple[Progress, ...] = ()
    result: bytes = b""
    started: bool = False
    trouble: Trouble | None = None
    live: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ChildView:
    """One child: whether it is there, for a Job how its pods do, for a certificate until when it is valid.

    `version` is the object's as it was read: a change that was decided on it is none of a later one.
    `problem` is what makes a certificate useless, as the rest of a sentence about its Secret.
    `content` is the object as it was read where its fields are compared with what they should be; `ended` is when a Job
    was over.
    """

    uid: str
    version: str = field(default="", compare=False)
    content: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    finished: Literal["", "Complete", "Failed"] = ""
    message: str = ""
    ended: datetime | None = None
    valid_until: datetime | None = None
    problem: str = ""


@dataclass(frozen=True)
class Observed:
    """The world around one training job at one moment.

    `children` are the objects that this job owns, by (kind, name). `foreign` are objects under the names of our
    children that bear our label and belong to an earlier job of this name, which is still being deleted. What bears
    such a name without the label is found when the child is to be made.
    A budget in `ledger_faults`, by silo, cannot be used and is None in `budgets`.
    `model` is None while nobody has looked at the base model. `progress` is the coordinator's; `identities` and
    `failures` are what the silos' processes reported, by silo. `started` are the Jobs with a process so far; `troubles`
    says, by Job, what keeps a pod from being started. `silo_pods` are the silos' pods that are not over, where pods are
    objects.
    """

    meta: ObjectMeta
    budgets: Mapping[str, BudgetView | None] = field(default_factory=dict)
    ledger_faults: Mapping[str, LedgerFault] = field(default_factory=dict)
    model: ModelView | None = None
    calibration: Calibrated | Unplannable | None = None
    children: Mapping[tuple[str, str], ChildView] = field(default_factory=dict)
    foreign: tuple[ObjectKey, ...] = ()
    identities: Mapping[str, bytes] = field(default_factory=dict)
    progress: tuple[Progress, ...] = ()
    failures: Mapping[str, ProcessFailed] = field(default_factory=dict)
    started: frozenset[str] = frozenset()
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    silo_pods: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    result: TrainingResult | None = None

"""What is to be done about one object, as plain data: `decide` returns it, `execute` carries it out.

`execute` works in this order: ledger, ensure, apply, update, delete, status, events. The order makes a crash between
two steps harmless: a reservation without children is found again, children without a reservation cannot exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from foedus_contract.wire import LedgerHead
from foedus_ledger.mechanisms import Mechanism

Manifest = Mapping[str, Any]

# Reasons of the events that the loop itself tells; the others are the kinds' own.
RECONCILE_FAILED = "ReconcileFailed"  # a pass ended in an error; its message is the event's
LEDGER_UNAVAILABLE = "LedgerUnavailable"
BUDGET_REFUSED = "BudgetRefused"


@dataclass(frozen=True, order=True)
class ObjectKey:
    """Names one object. `uid`, when known, is the precondition of a deletion and no part of the name."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def key_of(manifest: Manifest) -> ObjectKey:
    """Return the key of the object that `manifest` describes."""
    meta = manifest["metadata"]
    return ObjectKey(manifest["apiVersion"], manifest["kind"], meta.get("namespace", ""), meta["name"])


@dataclass(frozen=True, order=True)
class BudgetKey:
    """Names one PrivacyBudget."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Reserve:
    """Set aside `count` releases of `mechanism` for a job in one budget.

    A job reserves in all its budgets or in none: when one Reserve of a plan is refused, `execute` closes the
    accounts that the same plan has just opened (nothing is charged on them) and the next decision sees the rest.
    """

    budget: BudgetKey
    job_uid: str
    mechanism: Mechanism
    count: int
    claimant: str


@dataclass(frozen=True)
class Close:
    """Give back what the job reserved and did not charge; final. A closed or absent account is left as it is."""

    budget: BudgetKey
    job_uid: str


@dataclass(frozen=True)
class KeepHead:
    """Remember where a silo's own charge log ends: a ledger that does not reach it is an old copy."""

    budget: BudgetKey
    head: LedgerHead


@dataclass(frozen=True)
class ContentRequest:
    """What a factory is to make: a certificate authority, or a leaf certificate and its key.

    `issuer` names the Secret of the authority; `execute` reads it and hands its data to the factory. An authority that
    names itself there keeps its key and gets a new certificate: what it signed before stays signed.
    """

    kind: Literal["Authority", "ServerLeaf", "ClientLeaf", "PeerLeaf"]
    common_name: str
    dns_names: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    issuer: ObjectKey | None = None
    valid_seconds: int = 0


class ContentFactory(Protocol):
    """Makes secret content; called only when the object that holds it does not exist, or is to be renewed.

    Returns the object's `data`, not yet base64-encoded. `issuer` is the decoded data of the request's issuer.
    """

    def __call__(self, request: ContentRequest, issuer: Mapping[str, bytes] | None) -> Mapping[str, bytes]:
        """Return what goes into the object's `data`."""
        ...


@dataclass(frozen=True)
class Ensure:
    """An object to create when it is absent and to leave alone when it is there, unless its content is to be new.

    `content` fills `data` from a factory at creation; None creates the manifest as it stands. One to be renewed bears
    the uid and version that were seen. `anybodys`: one that somebody else has made is as good.
    """

    manifest: Manifest
    content: ContentRequest | None = None
    renew: bool = False
    anybodys: bool = False


@dataclass(frozen=True)
class Event:
    """One Kubernetes event about the object."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """Everything one reconcile is to do. `status` None leaves the status as it is.

    `apply` makes what was not there, and changes what was: such a manifest bears the uid and version that were seen.
    `update` replaces objects of others, each in the very version that was decided on; so does `hasten`, which only lets
    happen soon what else happens later: what the cluster says to it is no news.
    """

    ledger: tuple[Reserve | Close | KeepHead, ...] = ()
    apply: tuple[Manifest, ...] = ()
    ensure: tuple[Ensure, ...] = ()
    update: tuple[Manifest, ...] = ()
    hasten: tuple[Manifest, ...] = ()
    delete: tuple[ObjectKey, ...] = ()
    status: Mapping[str, Any] | None = None
    events: tuple[Event, ...] = ()
    requeue_seconds: float | None = None

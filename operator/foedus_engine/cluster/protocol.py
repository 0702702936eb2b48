"""What the brain needs of a cluster, and nothing else: the embedded engine and a real API server both offer it.

Objects are plain mappings in the shape of the Kubernetes API, always with apiVersion and kind. Faults are typed; the
class is the rule for trying again:

ClusterFault
├── NotFound        the object is not there
├── AlreadyExists   create found the name taken
├── Conflict        a stale resourceVersion, another uid, or a field of another manager; read again and decide again
├── Forbidden       rights, a quota or a namespace that is ending say no; a person must act, then it works
│   ├── Unauthenticated    the credentials are missing, wrong or have expired
│   └── NameTaken          another object bears the name of what is to be made
└── Busy            the cluster cannot answer now; an answer that was lost may still have taken effect

A manifest that the cluster refuses for what it says is InvalidInput and never tried again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from foedus_contract.errors import FoedusError
from foedus_contract.exit_codes import ExitCode
from foedus_contract.wire import LedgerHead
from foedus_engine.decide.observed import PodsView
from foedus_engine.decide.plan import BudgetKey, Event, Manifest, ObjectKey
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import BudgetRecord

FIELD_MANAGER = "foedus"  # the one owner of every field that the engine applies

Object = Mapping[str, Any]


class ClusterFault(FoedusError):
    """The cluster did not do what was asked."""

    default_code = ExitCode.UNAVAILABLE


class NotFound(ClusterFault):
    """The object is not there."""


class AlreadyExists(ClusterFault):
    """An object of that name is there already."""


class Conflict(ClusterFault):
    """Somebody else changed or owns it; read again and decide again."""


class Forbidden(ClusterFault):
    """Rights, a quota or a namespace that is ending say no: it is tried again slowly, until a person has acted."""


class Unauthenticated(Forbidden):
    """The cluster does not know who asks: credentials are missing, wrong or have expired."""


class NameTaken(Forbidden):
    """An object that is not ours bears the name of one that is to be made; it is never taken over."""


class Busy(ClusterFault):
    """No answer now; what was asked may or may not have happened."""


class Cluster(Protocol):
    """The objects of one cluster, and what its pods report."""

    async def get(self, key: ObjectKey) -> Object:
        """Return the object; raises NotFound."""
        ...

    async def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> tuple[Object, ...]:
        """Return the objects of a kind in name order: of one namespace or of all, bearing all of `labels`."""
        ...

    def scan(self, api_version: str, kind: str, labels: Mapping[str, str] | None = None) -> AsyncIterator[Object]:
        """Yield the objects of a kind of all namespaces, bearing all of `labels`: never more than a page in memory."""
        ...

    async def create(self, manifest: Manifest) -> Object:
        """Create the object; raises AlreadyExists. A `status` in the manifest is ignored."""
        ...

    async def apply(self, manifest: Manifest, *, field_manager: str = FIELD_MANAGER, force: bool = True) -> Object:
        """Make the fields of `manifest` so, and drop those that this manager applied before and left out now.

        A field that another manager owns and that would change raises Conflict unless `force` takes it over. With a
        `metadata.uid` it raises Conflict unless the object is there and bears it, with a `metadata.resourceVersion`
        unless that is the current one. What this manager has created and then applies so counts as applied before.
        """
        ...

    async def update(self, obj: Object, *, field_manager: str = FIELD_MANAGER) -> Object:
        """Replace all but the status; raises Conflict unless `metadata.resourceVersion` is the current one."""
        ...

    async def update_status(self, obj: Object) -> Object:
        """Replace the status and nothing else; raises Conflict unless `metadata.resourceVersion` is current."""
        ...

    async def delete(self, key: ObjectKey, *, cascade: bool = True) -> None:
        """Delete the object and, with `cascade`, in the end what it owns.

        Raises NotFound, or Conflict when `key.uid` differs.
        """
        ...

    def watch(self) -> AsyncIterator[ObjectKey]:
        """Yield the key of every object that is there, then of each that changes, each followed by its controller's.

        News of a Job's pods counts as a change of the Job or of what owns it. Changes may be merged, none is lost.
        """
        ...

    async def publish(self, key: ObjectKey, event: Event) -> None:
        """Record an event about the object; a repeated one may be merged."""
        ...

    async def pods(self, jobs: Sequence[Object]) -> Mapping[str, PodsView]:
        """Return what the pods of these Jobs of one namespace have reported, by the Job's name.

        A report that is no event is left out; a Job without pods may be.
        """
        ...


class Ledgers(Protocol):
    """Every silo's ledger, as far as the engine may use it: it reads, reserves and closes; only silos charge."""

    async def read(self, budget: BudgetKey) -> BudgetRecord | None:
        """Return the budget with all its accounts; None when its holder has not created it.

        Raises Refused for a ledger that cannot be trusted, LedgerBehind for one that lacks what its silo has charged,
        Unavailable for one that does not answer.
        """
        ...

    async def reserve(
        self, budget: BudgetKey, *, job_uid: str, mechanism: Mechanism, count: int, claimant: str
    ) -> None:
        """Set aside `count` releases; raises Refused when they do not fit, Unavailable when the answer is unknown."""
        ...

    async def keep_head(self, budget: BudgetKey, head: LedgerHead) -> None:
        """Keep the end of the silo's log unless a later one is kept; from then on an older ledger is behind."""
        ...

    async def close(self, budget: BudgetKey, *, job_uid: str) -> None:
        """Give back what was reserved and not charged; an absent or closed account is left as it is."""
        ...


async def find(cluster: Cluster, key: ObjectKey) -> Object | None:
    """Return the object, or None when it is not there."""
    try:
        return await cluster.get(key)
    except NotFound:
        return None

"""kopf watches, and puts the keys of what changed into the feed: nothing else of kopf is used.

`on.event` keeps no state in the objects: no finalizer, no annotation, no patch. What is to be done is decided by the
loop from what it reads, so an event that comes twice, late or never costs nothing but time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kopf

from foedus_engine import names
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.ending import is_at_rest, is_idle_object
from foedus_engine.decide.plan import ObjectKey
from foedus_operator.census import Census
from foedus_operator.listed import Listed


@dataclass(frozen=True)
class Watched:
    """One kind whose changes are news: those of its objects that bear `label`, or the one of the name `only`."""

    group: str
    version: str
    plural: str
    label: str = ""
    only: str = ""

    @property
    def path(self) -> str:
        """Where the kind's objects of all namespaces are listed and watched."""
        root = f"/apis/{self.group}" if self.group else "/api"
        return f"{root}/{self.version}/{self.plural}"


GROUP, _, VERSION = names.API_VERSION.partition("/")
JOBS = Watched(GROUP, VERSION, "federatedtrainingjobs")
# Children are watched by their label, so that the cluster's other pods and Secrets are never read.
WATCHED: Sequence[Watched] = (
    JOBS,
    Watched("batch", "v1", "jobs", names.JOB_LABEL),
    Watched("", "v1", "pods", names.JOB_LABEL),
    Watched("", "v1", "configmaps", names.JOB_LABEL),
    Watched("", "v1", "services", names.JOB_LABEL),
    Watched("", "v1", "persistentvolumeclaims", names.JOB_LABEL),
    Watched("", "v1", "serviceaccounts", names.JOB_LABEL),
    Watched("networking.k8s.io", "v1", "networkpolicies", names.JOB_LABEL),
    Watched("policy", "v1", "poddisruptionbudgets", names.JOB_LABEL),
    Watched(GROUP, VERSION, "privacybudgets"),
)


def build_registry(
    feed: KeyFeed,
    watched: Sequence[Watched],
    log_in: Callable[..., Awaitable[kopf.AiohttpSession]],
    pulse: Callable[[], None],
    listed: Listed,
    census: Census,
) -> kopf.OperatorRegistry:
    """Return one handler a kind, and the login."""
    registry = kopf.OperatorRegistry()

    async def notice(event: Mapping[str, Any], type: str | None, **_: Any) -> None:  # noqa: A002 - kopf names it so
        pulse()
        body = event["object"]  # not kopf's view of it, which takes a walk for each look
        census.note(body, gone=type == "DELETED")
        if type != "DELETED" and is_at_rest(body):
            return  # ten thousand suspended jobs would be read at each start, and once more after each status
        if type is None and is_idle_object(body):
            listed.put(body)
        feed.notice(body)
        for key in (*keys_of_job(body), *(keys_of_budgets(body) if type == "DELETED" else ())):
            feed.add(key)

    for kind in watched:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(notice)
    kopf.on.login(registry=registry)(log_in)
    return registry


def keys_of_job(body: Object) -> Sequence[ObjectKey]:
    """Return the training job that an object's label names; a pod's owner is a Job, so the label is what leads on."""
    meta = body["metadata"]
    job = meta.get("labels", {}).get(names.JOB_LABEL)
    return [ObjectKey(names.API_VERSION, names.TRAINING_KIND, meta["namespace"], job)] if job else []


def keys_of_budgets(body: Object) -> Sequence[ObjectKey]:
    """Return the budgets of a training job: when it is gone, what it had reserved is given back."""
    clients = body.get("spec", {}).get("clients", ())
    budgets = {client.get("budgetRef", {}).get("name", "") for client in clients} - {""}
    place = body["metadata"]["namespace"]
    return [ObjectKey(names.API_VERSION, names.BUDGET_KIND, place, budget) for budget in sorted(budgets)]

"""The cluster protocol over a real API server.

Reads are quorum reads (no resourceVersion is asked for). Every write has a deadline; create, update and delete carry
their precondition in the request, so that a late one changes nothing that it was not decided on.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from foedus_contract import limits
from foedus_contract.progress import TrainingResult
from foedus_engine import names
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import (
    FIELD_MANAGER,
    AlreadyExists,
    Object,
    Progress,
    find,
)
from foedus_engine.decide.plan import Event, Manifest, ObjectKey, key_of
from foedus_operator.api_server import SERVER_SIDE_APPLY, ApiServer
from foedus_operator.pod_logs import PodLogs

PAGE = 500  # objects of a list in one answer: at 2 KiB each a megabyte
MAX_EVENT_MESSAGE = 1024  # the API server's own limit
STRICT = {"fieldValidation": "Strict"}  # an unknown field of ours is a defect, not something to drop in silence


@dataclass(frozen=True)
class Resource:
    """How a kind is spelled in a path."""

    plural: str
    namespaced: bool = True


RESOURCES: Mapping[tuple[str, str], Resource] = {
    ("v1", "ConfigMap"): Resource("configmaps"),
    ("v1", "Event"): Resource("events"),
    ("v1", "Node"): Resource("nodes", namespaced=False),
    ("v1", "PersistentVolumeClaim"): Resource("persistentvolumeclaims"),
    ("v1", "Pod"): Resource("pods"),
    ("v1", "Secret"): Resource("secrets"),
    ("v1", "Service"): Resource("services"),
    ("batch/v1", "Job"): Resource("jobs"),
    ("coordination.k8s.io/v1", "Lease"): Resource("leases"),
    (names.API_VERSION, names.TRAINING_KIND): Resource("federatedtrainingjobs"),
    (names.API_VERSION, names.BUDGET_KIND): Resource("privacybudgets"),
}


def path_of(key: ObjectKey) -> str:
    """Return the path of one object."""
    return f"{collection(key.api_version, key.kind, key.namespace)}/{key.name}"


def collection(api_version: str, kind: str, namespace: str | None) -> str:
    """Return the path of a kind's objects: of one namespace, or of all when it is None."""
    resource = RESOURCES[api_version, kind]
    root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
    place = f"/namespaces/{namespace}" if resource.namespaced and namespace is not None else ""
    return f"{root}{place}/{resource.plural}"


class KubeCluster:
    """One Kubernetes cluster. What changes in it is told by whoever fills `feed`."""

    def __init__(self, server: ApiServer, feed: KeyFeed) -> None:
        self._server = server
        self._feed = feed
        self._logs = PodLogs(server)

    async def get(self, key: ObjectKey) -> Object:
        """Return the object; raises NotFound."""
        return await self._server.request("GET", path_of(key))

    async def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> tuple[Object, ...]:
        """Return the objects of a kind in name order: of one namespace or of all, bearing all of `labels`."""
        query = {"limit": str(PAGE)}
        if labels:
            query["labelSelector"] = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        found: list[Object] = []
        while True:
            page = await self._server.request("GET", collection(api_version, kind, namespace), query=query)
            # Items of a list lack what they have in common.
            found += [{"apiVersion": api_version, "kind": kind, **item} for item in page["items"]]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return tuple(
                    sorted(found, key=lambda obj: (obj["metadata"].get("namespace", ""), obj["metadata"]["name"]))
                )

    async def create(self, manifest: Manifest) -> Object:
        """Create the object; raises AlreadyExists."""
        key = key_of(manifest)
        place = collection(key.api_version, key.kind, key.namespace)
        return await self._server.request("POST", place, query={"fieldManager": FIELD_MANAGER, **STRICT}, body=manifest)

    async def apply(self, manifest: Manifest, *, field_manager: str = FIELD_MANAGER, force: bool = True) -> Object:
        """Apply server-side as `field_manager`; raises Conflict on another manager's fields unless `force`."""
        return await self._server.request(
            "PATCH",
            path_of(key_of(manifest)),
            query={"fieldManager": field_manager, "force": str(force).lower(), **STRICT},
            body=manifest,
            content_type=SERVER_SIDE_APPLY,
        )

    async def update(self, obj: Object, *, field_manager: str = FIELD_MANAGER) -> Object:
        """Replace all but the status; raises Conflict unless resourceVersion is current."""
        query = {"fieldManager": field_manager, **STRICT}
        return await self._server.request("PUT", path_of(key_of(obj)), query=query, body=obj)

    async def update_status(self, obj: Object) -> Object:
        """Replace the status alone; raises Conflict unless resourceVersion is current.

        Fields of the status that the installed CRD does not know are dropped: after a rollback it may be older than we.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Ignore"}
        return await self._server.request("PUT", f"{path_of(key_of(obj))}/status", query=query, body=obj)

    async def delete(self, key: ObjectKey, *, cascade: bool = True) -> None:
        """Delete the object; what it owns is collected later, or without `cascade` set free."""
        options: dict[str, Any] = {"propagationPolicy": "Background" if cascade else "Orphan"}
        if key.uid:
            options["preconditions"] = {"uid": key.uid}
        await self._server.request("DELETE", path_of(key), body=options)

    async def watch(self) -> AsyncIterator[ObjectKey]:
        """Yield the keys that `feed` is told of."""
        while True:
            yield await self._feed.next()

    async def publish(self, key: ObjectKey, event: Event) -> None:
        """Record an event about the object: one object a reason and message, which counts how often it was said."""
        name = _event_name(key, event)
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        place = ObjectKey("v1", "Event", key.namespace, name)
        old = await find(self, place)
        if old is not None:
            await self.update({**old, "count": int(old.get("count", 1)) + 1, "lastTimestamp": stamp})
            return
        with suppress(AlreadyExists):
            await self.create(_event(place, key, await self._uid(key), event, stamp))

    async def pod_progress(self, namespace: str, job: str) -> tuple[Progress, ...]:
        """Return what all pods of the Job have reported in their logs, oldest first; bad lines are skipped."""
        return tuple([event for pod in await self._pods(namespace, job) for event in await self._logs.read(pod)])

    async def pod_result(self, namespace: str, job: str) -> TrainingResult | None:
        """Return the result in the termination message of the Job's latest pod, if it left one."""
        pods = await self._pods(namespace, job)
        return _result(pods[-1]) if pods else None

    async def _pods(self, namespace: str, job: str) -> tuple[Object, ...]:
        """Return the pods of the Job that bears the name now, oldest first."""
        found = await find(self, ObjectKey("batch/v1", "Job", namespace, job))
        if found is None:
            return ()
        labels = {"batch.kubernetes.io/controller-uid": found["metadata"]["uid"]}
        pods = await self.list("v1", "Pod", namespace, labels)
        return tuple(sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"])))

    async def _uid(self, key: ObjectKey) -> str:
        found = await find(self, key)
        return key.uid if found is None else str(found["metadata"]["uid"])


def _event_name(key: ObjectKey, event: Event) -> str:
    text = "\0".join((key.kind, key.name, event.kind, event.reason, event.message))
    return f"{key.name[:200]}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _event(place: ObjectKey, about: ObjectKey, uid: str, event: Event, stamp: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": place.name, "namespace": place.namespace},
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": uid,
        },
        "type": event.kind,
        "reason": event.reason,
        "message": event.message[:MAX_EVENT_MESSAGE],
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": names.API_GROUP,
        "reportingInstance": FIELD_MANAGER,
    }


def _result(pod: Object) -> TrainingResult | None:
    for status in pod.get("status", {}).get("containerStatuses", ()):
        text = str(status.get("state", {}).get("terminated", {}).get("message", ""))
        if 0 < len(text.encode()) <= limits.MAX_RESULT_BYTES:
            with suppress(ValidationError):
                return TrainingResult.model_validate_json(text)
    return None

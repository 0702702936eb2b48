"""The cluster protocol over a real API server.

Reads are quorum reads (no resourceVersion is asked for). Every write has a deadline; create, update and delete carry
their precondition in the request, so that a late one changes nothing that it was not decided on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from foedus_engine import names
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.protocol import (
    FIELD_MANAGER,
    AlreadyExists,
    Conflict,
    Object,
    find,
)
from foedus_engine.decide.observed import PodsView, Progress
from foedus_engine.decide.plan import Event, Manifest, ObjectKey, key_of
from foedus_engine.decide.pod_state import has_started, is_live, result_of, trouble_of
from foedus_operator.api_server import JSON_PATCH, SERVER_SIDE_APPLY, ApiServer
from foedus_operator.pod_logs import PodLogs

PAGE = 500  # objects of a list in one answer: at 2 KiB each a megabyte
SCAN_PAGE = 100  # of a look at all objects, of which no more is kept than what is to be done
MAX_EVENT_MESSAGE = 1024  # the API server's own limit
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
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
    ("v1", "ServiceAccount"): Resource("serviceaccounts"),
    ("batch/v1", "Job"): Resource("jobs"),
    ("coordination.k8s.io/v1", "Lease"): Resource("leases"),
    ("networking.k8s.io/v1", "NetworkPolicy"): Resource("networkpolicies"),
    ("policy/v1", "PodDisruptionBudget"): Resource("poddisruptionbudgets"),
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


async def snapshot(
    server: ApiServer, api_version: str, kind: str, namespace: str | None, selectors: Mapping[str, str]
) -> tuple[str, tuple[Object, ...]]:
    """Return all objects that are selected, and the version from which a watch goes on."""
    answers = [page async for page in pages(server, api_version, kind, namespace, selectors, PAGE)]
    return answers[-1][0], tuple(obj for _, page in answers for obj in page)


async def pages(
    server: ApiServer, api_version: str, kind: str, namespace: str | None, selectors: Mapping[str, str], size: int
) -> AsyncIterator[tuple[str, list[Object]]]:
    """Yield the objects that are selected, `size` at a time, each time with the version that they all are of."""
    query = {"limit": str(size), **selectors}
    while True:
        page = await server.request("GET", collection(api_version, kind, namespace), query=query)
        # Items of a list lack what they have in common.
        found: list[Object] = [{"apiVersion": api_version, "kind": kind, **item} for item in page["items"]]
        yield str(page["metadata"]["resourceVersion"]), found
        query["continue"] = page["metadata"].get("continue", "")
        if not query["continue"]:
            return


class Reports(Protocol):
    """How pods are heard."""

    async def read(self, pod: Object) -> tuple[Progress, ...]:
        """Return what the pod has reported so far, oldest first, as far as it is still of use."""
        ...


class KubeCluster:
    """One Kubernetes cluster. What changes in it is told by whoever fills `feed`, what pods say by `reports`."""

    def __init__(self, server: ApiServer, feed: KeyFeed, reports: Reports | None = None) -> None:
        self._server = server
        self._feed = feed
        self._reports = reports or PodLogs(server)

    async def get(self, key: ObjectKey) -> Object:
        """Return the object; raises NotFound."""
        return await self._server.request("GET", path_of(key))

    async def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> tuple[Object, ...]:
        """Return the objects of a kind in name order: of one namespace or of all, bearing all of `labels`."""
        found = await self._select(api_version, kind, namespace, _selector(labels))
        return tuple(sorted(found, key=lambda obj: (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])))

    async def _select(
        self, api_version: str, kind: str, namespace: str | None, selectors: Mapping[str, str]
    ) -> tuple[Object, ...]:
        return (await snapshot(self._server, api_version, kind, namespace, selectors))[1]

    async def scan(self, api_version: str, kind: str, labels: Mapping[str, str] | None = None) -> AsyncIterator[Object]:
        """Yield the objects of a kind of all namespaces, bearing all of `labels`, a page at a time.

        Raises Busy in the middle when it takes so long that the API server has forgotten the version of the first page.
        """
        async for _, page in pages(self._server, api_version, kind, None, _selector(labels), SCAN_PAGE):
            for obj in page:
                yield obj

    async def create(self, manifest: Manifest) -> Object:
        """Create the object; raises AlreadyExists."""
        key = key_of(manifest)
        place = collection(key.api_version, key.kind, key.namespace)
        return await self._server.request("POST", place, query={"fieldManager": FIELD_MANAGER, **STRICT}, body=manifest)

    async def apply(self, manifest: Manifest, *, field_manager: str = FIELD_MANAGER, force: bool = True) -> Object:
        """Apply server-side as `field_manager`; raises Conflict on another manager's fields unless `force`."""
        if manifest["metadata"].get("resourceVersion"):
            manifest = await self._hand_over(manifest, field_manager)
        return await self._server.request(
            "PATCH",
            path_of(key_of(manifest)),
            query={"fieldManager": field_manager, "force": str(force).lower(), **STRICT},
            body=manifest,
            content_type=SERVER_SIDE_APPLY,
        )

    async def _hand_over(self, manifest: Manifest, manager: str) -> Manifest:
        """Let `manager` own what it has created as if it had applied it; return the manifest for what is there then.

        Else a field that is left out would stay for ever: its creator would still own it. Raises Conflict unless uid
        and resourceVersion are the current ones.
        """
        key = key_of(manifest)
        live = await find(self, key)
        now, asked = {} if live is None else live["metadata"], manifest["metadata"]
        if any(now.get(field) != asked.get(field, now.get(field)) for field in ("uid", "resourceVersion")):
            raise Conflict("the object has changed since it was read", where=str(key), cure="read it again")
        entries: list[dict[str, Any]] = now.get("managedFields", [])
        mine = {each["operation"] for each in entries if each["manager"] == manager and not each.get("subresource")}
        if mine != {"Update"}:
            return manifest
        changed = [
            {**each, "operation": "Apply"} if each["manager"] == manager and not each.get("subresource") else each
            for each in entries
        ]
        patch = [
            {"op": "replace", "path": "/metadata/managedFields", "value": changed},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": now["resourceVersion"]},
        ]
        after = await self._server.request("PATCH", path_of(key), body=patch, content_type=JSON_PATCH)
        return {**manifest, "metadata": {**asked, "resourceVersion": after["metadata"]["resourceVersion"]}}

    async def update(self, obj: Object, *, field_manager: str = FIELD_MANAGER) -> Object:
        """Replace all but the status; raises Conflict unless resourceVersion is current."""
        query = {"fieldManager": field_manager, **STRICT}
        return await self._server.request("PUT", path_of(key_of(obj)), query=query, body=without_owners(obj))

    async def update_status(self, obj: Object) -> Object:
        """Replace the status alone; raises Conflict unless resourceVersion is current.

        Fields of the status that the installed CRD does not know are dropped: after a rollback it may be older than we.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Ignore"}
        path = f"{path_of(key_of(obj))}/status"
        return await self._server.request("PUT", path, query=query, body=without_owners(obj))

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

    async def pods(self, jobs: Sequence[Object]) -> Mapping[str, PodsView]:
        """Return what the pods of these Jobs have reported, by the Job's name."""
        if not jobs:
            return {}
        namespace = jobs[0]["metadata"]["namespace"]
        uids = ",".join(job["metadata"]["uid"] for job in jobs)
        selected = await self._select("v1", "Pod", namespace, {"labelSelector": f"{JOB_UID_LABEL} in ({uids})"})
        # Whoever may make a pod may give it any label; what it reports would be taken for a role's.
        owned = [pod for pod in selected if _owner(pod) == pod["metadata"]["labels"][JOB_UID_LABEL]]
        found = sorted(owned, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
        # All at once: a node that is lost keeps what its pods say to itself, for as long as a request may take.
        told = dict(zip(map(_uid, found), await asyncio.gather(*map(self._reports.read, found)), strict=True))
        views = {}
        for job in jobs:
            uid = job["metadata"]["uid"]
            pods = [pod for pod in found if _owner(pod) == uid]
            views[job["metadata"]["name"]] = PodsView(
                progress=tuple(event for pod in pods for event in told[_uid(pod)]),
                result=result_of(pods[-1]) if pods else b"",
                started=any(map(has_started, pods)),
                trouble=trouble_of(job, pods, await self._refusal(job) if not pods else ""),
                live=pods[-1] if pods and is_live(pods[-1]) else None,
            )
        return views

    async def _refusal(self, job: Object) -> str:
        """Return why the Job's controller last could not make a pod; it says so nowhere but in an event."""
        if job["spec"].get("suspend", False):
            return ""
        about = f"involvedObject.uid={job['metadata']['uid']},reason=FailedCreate"
        selected = await self._select("v1", "Event", job["metadata"]["namespace"], {"fieldSelector": about})
        events = sorted(selected, key=lambda event: str(event.get("lastTimestamp") or ""))
        return str(events[-1].get("message", "")) if events else ""

    async def _uid(self, key: ObjectKey) -> str:
        found = await find(self, key)
        return key.uid if found is None else str(found["metadata"]["uid"])


def without_owners(obj: Object) -> Object:
    """Return the object without who owns its fields: the API server knows, and half of its text is that."""
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key != "managedFields"}}


def _selector(labels: Mapping[str, str] | None) -> Mapping[str, str]:
    selector = ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))
    return {"labelSelector": selector} if selector else {}


def _uid(obj: Object) -> str:
    return str(obj["metadata"]["uid"])


def _owner(pod: Object) -> str:
    """Return the UID of the Job that made the pod; empty when none did."""
    for reference in pod["metadata"].get("ownerReferences", ()):
        if reference.get("controller", False) and reference["kind"] == "Job" and reference["apiVersion"] == "batch/v1":
            return str(reference["uid"])
    return ""


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

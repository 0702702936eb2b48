"""One job from its creation to the removal of its children, so that every request of the operator is made once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from foedus_engine import names
from foedus_engine.accounting import Accounting
from foedus_engine.budget import budget_kinds, pod_kinds
from foedus_engine.cluster.feed import KeyFeed
from foedus_engine.cluster.gather import COMPARED
from foedus_engine.cluster.protocol import Conflict
from foedus_engine.decide.plan import Event, ObjectKey
from foedus_engine.pki import content_factory
from foedus_engine.reconcile import Reconciler
from foedus_engine.training import training_kinds
from foedus_operator.api_server import ApiServer
from foedus_operator.handlers import WATCHED, Watched
from foedus_operator.kube import KubeCluster, path_of
from foedus_operator.lease import Lease
from foedus_operator.ledgers import KubeLedgers
from support.brain import MODEL, RECORDS, SILOS, manifest

TTL_SECONDS = 60
LABEL = "app.kubernetes.io/name"
FINISHED = '{"outcome": "Complete", "rounds": 3}'


@dataclass
class Clock:
    """The time, which passes when a test says so."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **time: float) -> None:
        self.now += timedelta(**time)


class Life:
    """A job `demo` in `namespace`: `admin` does what people and nodes do, `operator` what the operator does.

    `with_controllers`: Kubernetes' own controllers run, so that a Job has a pod.
    """

    def __init__(
        self, admin: ApiServer, operator: ApiServer, namespace: str, release: str, *, with_controllers: bool
    ) -> None:
        self._with_controllers = with_controllers
        self._admin = KubeCluster(admin, KeyFeed())
        self._server = admin
        self._operator = KubeCluster(operator, KeyFeed())
        self._namespace = namespace
        self._lease = ObjectKey("coordination.k8s.io/v1", "Lease", release, "foedus-operator")
        self._clock = Clock()
        ledgers = KubeLedgers(operator)
        accounting = Accounting(lambda _: MODEL)
        kinds = {
            **training_kinds(self._operator, ledgers, accounting, clock=self._clock),
            **budget_kinds(self._operator, ledgers, accounting, clock=self._clock),
            **pod_kinds(self._operator, clock=self._clock),
        }
        factory = content_factory(self._clock, lambda size: b"\1" * size)
        self._loop = Reconciler(self._operator, ledgers, factory, kinds, clock=lambda: 0.0)
        self.key = ObjectKey(names.API_VERSION, names.TRAINING_KIND, namespace, "demo")

    async def live(self) -> None:
        """Live it; afterwards nothing is left of the job but itself and the claim with its adapter."""
        lease = Lease(self._operator, self._lease, "a-process")
        await lease.acquire()
        await lease.release()
        await self._make_budgets()
        job = manifest(ttlSecondsAfterFinished=TTL_SECONDS)
        meta = {"name": "demo", "namespace": self._namespace}
        await self._admin.create({**job, "metadata": meta})
        await self._settle()
        await self._let_others_change_what_is_there()
        await self._suspend_until_certificates_are_old()
        await self._end_the_coordinator()
        assert await self.phase() == "Complete"
        await self._ask_why_there_is_no_pod()
        for _ in range(2):  # the second time the event is counted
            await self._operator.publish(self.key, Event("Normal", "AllRounds", "said again"))
        self._clock.pass_by(hours=1)
        await self._settle()

    async def phase(self) -> str:
        """Return the job's phase."""
        return str((await self._admin.get(self.key))["status"]["phase"])

    async def left(self) -> list[tuple[str, str]]:
        """Return kind and name of what bears the job's label, leases of incarnations aside."""
        return [
            (kind, found["metadata"]["name"])
            for kind, version in names.CHILD_API_VERSIONS.items()
            for found in await self._admin.list(version, kind, self._namespace, {names.JOB_LABEL: "demo"})
        ]

    async def _settle(self) -> None:
        """Do passes until one asks for no other at once."""
        for _ in range(20):
            try:
                if await self._loop.reconcile(self.key) != 0.0:
                    return
            except Conflict:  # a controller was faster: what was decided on is no longer so
                continue
        raise AssertionError("it never settles")

    async def _make_budgets(self) -> None:
        for silo in SILOS:
            digest = "sha256:" + hashlib.sha256(silo.encode()).hexdigest()
            spec = {
                "dataset": {"digest": digest, "records": RECORDS},
                "epsilon": 1,
                "delta": 1e-5,
                "owner": silo,
                "labels": ["no", "yes"],
            }
            meta = {"name": f"budget-{silo}", "namespace": self._namespace}
            body = {"apiVersion": names.API_VERSION, "kind": names.BUDGET_KIND, "metadata": meta, "spec": spec}
            await self._admin.create(body)
            await self._loop.reconcile(ObjectKey(names.API_VERSION, names.BUDGET_KIND, self._namespace, meta["name"]))

    async def _ask_why_there_is_no_pod(self) -> None:
        """Look at a Job that could not have a pod, as under a quota; the life's own Jobs have theirs too soon."""
        meta = {"namespace": self._namespace, "name": "none", "uid": "none"}
        await self._operator.pods([{"metadata": meta, "spec": {}, "status": {}}])

    async def _suspend_until_certificates_are_old(self) -> None:
        await self._change(lambda spec: spec.update(suspend=True))
        await self._settle()
        assert await self.phase() == "Suspended"
        self._clock.pass_by(days=8)
        await self._change(lambda spec: spec.update(suspend=False))
        await self._settle()

    async def _let_others_change_what_is_there(self) -> None:
        """Change an object of each kind that is mended."""
        for kind in sorted(COMPARED - {"Job"}):
            place = (names.CHILD_API_VERSIONS[kind], kind, self._namespace, {names.JOB_LABEL: "demo"})
            found = (await self._admin.list(*place))[0]
            meta = found["metadata"]
            await self._admin.update({**found, "metadata": {**meta, "labels": meta["labels"] | {LABEL: "theirs"}}})
            await self._settle()
            assert (await self._admin.list(*place))[0]["metadata"]["labels"][LABEL] == "foedus"

    async def _change(self, change: Callable[[dict[str, Any]], None]) -> None:
        job = dict(await self._admin.get(self.key))
        change(job["spec"])
        await self._admin.update(job)

    async def _end_the_coordinator(self) -> None:
        """Say of the pods what their nodes would say: silos run, and then the coordinator, until it ends."""
        for silo in SILOS:
            await self._report(await self._pod(names.client("demo", silo)), "Running", {"running": {}})
        await self._settle()
        pod = await self._report(await self._pod(names.coordinator("demo")), "Running", {"running": {}})
        await self._settle()
        await self._report(pod, "Succeeded", {"terminated": {"exitCode": 0, "message": FINISHED}})
        await self._settle()
        await self._loop.reconcile(ObjectKey("v1", "Pod", self._namespace, pod["metadata"]["name"]))

    async def _pod(self, name: str) -> Any:
        """Return the pod of a role's Job."""
        job = await self._admin.get(ObjectKey("batch/v1", "Job", self._namespace, name))
        labels = {"batch.kubernetes.io/controller-uid": job["metadata"]["uid"]}
        if not self._with_controllers:
            template = job["spec"]["template"]["metadata"]
            meta = {**template, "name": f"{name}-0", "namespace": self._namespace}
            meta["labels"] = {**template["labels"], **labels}
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
            meta["ownerReferences"] = [{**owner, "controller": True}]
            await self._admin.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {}})
        while not (found := await self._admin.list("v1", "Pod", self._namespace, labels)):
            await asyncio.sleep(0.1)
        return found[0]

    async def _report(self, pod: Any, phase: str, state: dict[str, Any]) -> Any:
        container = {"name": "workload", "image": "none", "imageID": "", "ready": False, "restartCount": 0}
        status = {"phase": phase, "containerStatuses": [{**container, "started": phase == "Running", "state": state}]}
        key = ObjectKey("v1", "Pod", self._namespace, pod["metadata"]["name"])
        while True:
            body = {**await self._admin.get(key), "status": status}
            try:
                return await self._server.request("PUT", f"{path_of(key)}/status", body=body)
            except Conflict:  # a controller was faster
                continue


def watched() -> list[Watched]:
    """Return what the operator watches: the kinds of its table, and its own lease."""
    return [*WATCHED, Watched("coordination.k8s.io", "v1", "leases", only="foedus-operator")]

"""What a real API server alone has: events that are counted, quotas, namespaces that end, pods, pages."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from foedus_engine.cluster.protocol import Forbidden, NotFound, Object
from foedus_engine.decide.observed import PodsView
from foedus_engine.decide.plan import Event, ObjectKey, key_of
from foedus_operator import kube
from foedus_operator.kube import KubeCluster, path_of
from support.kubernetes import api_server, kubernetes_cluster, make_namespace

pytestmark = pytest.mark.e2e
NAMESPACE = "foedus-kube"


@pytest.fixture
async def cluster() -> AsyncIterator[KubeCluster]:
    kinds = [("v1", "ConfigMap"), ("v1", "Event"), ("v1", "Pod"), ("batch/v1", "Job")]
    async with kubernetes_cluster(NAMESPACE, kinds) as made:
        yield made


def config_map(name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}


async def test_a_repeated_event_is_counted(cluster: KubeCluster) -> None:
    about = key_of(await cluster.create(config_map("a")))
    for message in ("no", "no", "yes", "no"):
        await cluster.publish(about, Event("Warning", "BudgetRefused", message))
    events = await cluster.list("v1", "Event", NAMESPACE)
    told = {event["message"]: event["count"] for event in events if event["reason"] == "BudgetRefused"}
    assert told == {"no": 3, "yes": 1}


async def test_pages_are_one_list(cluster: KubeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "PAGE", 2)
    for name in "edcba":
        await cluster.create(config_map(name))
    found = await cluster.list("v1", "ConfigMap", NAMESPACE)
    assert [each["metadata"]["name"] for each in found] == ["a", "b", "c", "d", "e", "kube-root-ca.crt"]
    assert {(each["apiVersion"], each["kind"]) for each in found} == {("v1", "ConfigMap")}


async def test_a_quota_and_a_namespace_that_ends_forbid(cluster: KubeCluster) -> None:
    ending = f"foedus-ending-{uuid.uuid4().hex[:8]}"  # an earlier one of the name may still be ending
    async with api_server() as server:
        await make_namespace(server, ending)
        quotas = f"/api/v1/namespaces/{ending}/resourcequotas"
        body = {"metadata": {"name": "none"}, "spec": {"hard": {"count/configmaps": "0"}}}
        await server.request("POST", quotas, body=body)
        with pytest.raises(Forbidden, match="quota"):
            await create_many(cluster, ending)
        await server.request("DELETE", f"/api/v1/namespaces/{ending}")
    with pytest.raises((Forbidden, NotFound)):
        await cluster.create(config_map("b", ending))


async def create_many(cluster: KubeCluster, namespace: str) -> None:
    for number in range(1000):  # a new quota takes a moment to be seen
        await cluster.create(config_map(f"a{number}", namespace))


async def test_the_latest_pods_result_is_read_from_its_termination_message(cluster: KubeCluster) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "workload", "image": "none"}]}}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "j", "namespace": NAMESPACE},
        "spec": {"suspend": True, "template": template},
    }
    made = await cluster.create(job)
    another = await cluster.create({**job, "metadata": {"name": "another", "namespace": NAMESPACE}})
    assert (await cluster.pods([made]))["j"] == PodsView()
    uid = made["metadata"]["uid"]
    for name, message in (("one", "no result"), ("two", '{"outcome": "Complete", "rounds": 3}')):
        await make_finished_pod(name, uid, message, owner=made)
    forged = '{"outcome": "Complete", "rounds": 9}'
    # Their names come last, as those of the latest pods of one second do. A pod without an owner the Job would adopt,
    # and one whose owner is plainly not there the garbage collector would take away.
    await make_finished_pod("x-four", uid, forged, owner=another)
    await make_finished_pod("x-five", uid, forged, owner={**made, "apiVersion": "other.dev/v1"})
    views = await cluster.pods([made, another])
    assert views == {"j": PodsView(result=b'{"outcome": "Complete", "rounds": 3}', started=True), "another": PodsView()}


async def test_a_job_whose_pods_a_quota_forbids_says_so(cluster: KubeCluster) -> None:
    namespace = f"foedus-quota-{uuid.uuid4().hex[:8]}"
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "workload", "image": "none"}]}}
    async with api_server() as server:
        await make_namespace(server, namespace)
        quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}}
        await server.request("POST", f"/api/v1/namespaces/{namespace}/resourcequotas", body=quota)
        made = await cluster.create(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": "j", "namespace": namespace},
                "spec": {"template": template},
            }
        )
        async with asyncio.timeout(60):
            while (trouble := (await cluster.pods([made]))["j"].trouble) is None:
                await asyncio.sleep(0.1)
        await server.request("DELETE", f"/api/v1/namespaces/{namespace}")
    assert trouble.reason in {"QuotaExceeded", "Unschedulable"}  # a pod may be made before the quota is seen
    assert trouble.message


async def make_finished_pod(name: str, job_uid: str, message: str, *, owner: Object | None = None) -> None:
    """Say of a pod what its node would say: there may be no node here."""
    meta: dict[str, Any] = {"name": name, "labels": {"batch.kubernetes.io/controller-uid": job_uid}}
    if owner is not None:
        reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": True}
        reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
        meta["ownerReferences"] = [reference]
    # A node that does not exist: nothing else writes this pod's status.
    spec = {"nodeName": "none", "containers": [{"name": "workload", "image": "none"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
    terminated = {"exitCode": 0, "message": message}
    ended = {"name": "workload", "image": "none", "imageID": "", "ready": False, "restartCount": 0}
    status = {"phase": "Succeeded", "containerStatuses": [{**ended, "state": {"terminated": terminated}}]}
    async with api_server() as server:
        made = await server.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body=pod)
        path = path_of(ObjectKey("v1", "Pod", NAMESPACE, name))
        await server.request("PUT", f"{path}/status", body={**made, "status": status})

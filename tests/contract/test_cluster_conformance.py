"""What every cluster must do, whichever it is: the same cases run against each factory in CLUSTERS.

`make e2e` runs them on the API server that KUBECONFIG names; there the cases with pods need a node.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foedus_engine.cluster.embedded import EmbeddedCluster
from foedus_engine.cluster.protocol import AlreadyExists, Cluster, Conflict, NotFound, find
from foedus_engine.decide.plan import ObjectKey, key_of
from foedus_operator.kube import KubeCluster
from support.kubernetes import has_node, kubernetes_cluster

NAMESPACE = "conformance"
PYTHON_IMAGE = os.environ.get("E2E_PYTHON_IMAGE", "python:3.11")  # any with `python` on its path
PATIENCE_SECONDS = 30  # of the loop that waits for a state; no case measures time


@asynccontextmanager
async def embedded(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with EmbeddedCluster(tmp_path / "state", environ={}) as cluster:
        yield cluster


@asynccontextmanager
async def kubernetes(_: Path) -> AsyncIterator[Cluster]:
    async with kubernetes_cluster(NAMESPACE, [("v1", "ConfigMap"), ("batch/v1", "Job")]) as cluster:
        yield cluster


CLUSTERS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Cluster]]] = {
    "embedded": embedded,
    "kubernetes": kubernetes,
}


@pytest.fixture(params=["embedded", pytest.param("kubernetes", marks=pytest.mark.e2e)])
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with CLUSTERS[request.param](tmp_path) as made:
        yield made


async def gone(cluster: Cluster, key: ObjectKey) -> None:
    """Return once the object is not there any more: a cluster collects what is owned in its own time."""
    await until(lambda: find(cluster, key), lambda found: found is None)


async def until(read: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds(found := await read()):
            await asyncio.sleep(0.02)
    return found


def config_map(name: str = "a", **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": data,
    }


def owned(manifest: dict[str, Any], owner: Mapping[str, Any]) -> dict[str, Any]:
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"]}
    meta = {**manifest["metadata"], "ownerReferences": [{**reference, "uid": owner["metadata"]["uid"]}]}
    return {**manifest, "metadata": meta}


def python_job(script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": PYTHON_IMAGE, "command": ["python"], "args": ["-c", script]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job", "namespace": NAMESPACE},
        "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}} | spec,
    }


def policy(action: str, *codes: int, operator: str = "In") -> dict[str, Any]:
    on_exit_codes = {"containerName": "main", "operator": operator, "values": list(codes)}
    return {"podFailurePolicy": {"rules": [{"action": action, "onExitCodes": on_exit_codes}]}}


JOB = ObjectKey("batch/v1", "Job", NAMESPACE, "job")


async def job_when(cluster: Cluster, holds: Callable[[Mapping[str, Any]], bool]) -> Any:
    """Return the Job once its status is as asked."""
    return await until(lambda: cluster.get(JOB), lambda job: holds(job.get("status", {})))


def ended(status: Mapping[str, Any]) -> bool:
    return any(has(status, kind) for kind in ("Complete", "Failed"))


def has(status: Mapping[str, Any], kind: str) -> bool:
    return any(each["type"] == kind and each["status"] == "True" for each in status.get("conditions", ()))


class TestObjects:
    async def test_create_twice_is_refused(self, cluster: Cluster) -> None:
        await cluster.create(config_map(x="1"))
        with pytest.raises(AlreadyExists):
            await cluster.create(config_map(x="2"))
        assert (await cluster.get(key_of(config_map())))["data"] == {"x": "1"}

    async def test_absent_object_is_not_found(self, cluster: Cluster) -> None:
        with pytest.raises(NotFound):
            await cluster.get(key_of(config_map()))
        with pytest.raises(NotFound):
            await cluster.delete(key_of(config_map()))

    async def test_of_two_updates_of_one_version_one_wins(self, cluster: Cluster) -> None:
        read = await cluster.create(config_map(x="1"))
        await cluster.update({**read, "data": {"x": "2"}})
        with pytest.raises(Conflict):
            await cluster.update({**read, "data": {"x": "3"}})
        assert (await cluster.get(key_of(read)))["data"] == {"x": "2"}

    async def test_of_two_status_updates_of_one_version_one_wins(self, cluster: Cluster) -> None:
        read = await cluster.create(python_job("", suspend=True))
        read = await job_when(cluster, lambda status: has(status, "Suspended"))
        await cluster.update_status({**read, "status": {**read["status"], "failed": 1}})
        with pytest.raises(Conflict):
            await cluster.update_status({**read, "status": {**read["status"], "failed": 2}})

    async def test_a_new_object_is_not_the_old_one(self, cluster: Cluster) -> None:
        old = await cluster.create(config_map())
        await cluster.delete(key_of(old))
        new = await cluster.create(config_map())
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        assert int(new["metadata"]["resourceVersion"]) > int(old["metadata"]["resourceVersion"])

    async def test_delete_spares_another_uid(self, cluster: Cluster) -> None:
        made = await cluster.create(config_map())
        with pytest.raises(Conflict):
            await cluster.delete(replace(key_of(made), uid="another"))
        assert await find(cluster, key_of(made))
        await cluster.delete(replace(key_of(made), uid=made["metadata"]["uid"]))
        assert await find(cluster, key_of(made)) is None

    async def test_apply_spares_another_uid(self, cluster: Cluster) -> None:
        made = await cluster.create(config_map(x="1"))
        for uid in ("another", made["metadata"]["uid"]):
            manifest = config_map(x="2")
            manifest["metadata"]["uid"] = uid
            with pytest.raises(Conflict) if uid == "another" else nullcontext():
                await cluster.apply(manifest)
        await cluster.delete(key_of(made))
        with pytest.raises(Conflict):
            await cluster.apply(manifest)  # what is gone is not made anew
        assert await find(cluster, key_of(made)) is None

    async def test_apply_spares_another_version(self, cluster: Cluster) -> None:
        made = await cluster.create(config_map(x="1"))
        await cluster.update({**made, "data": {"x": "2"}}, field_manager="somebody")
        manifest = config_map(x="3")
        manifest["metadata"] |= {"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}
        with pytest.raises(Conflict):
            await cluster.apply(manifest)
        assert (await cluster.get(key_of(made)))["data"] == {"x": "2"}

    async def test_scan_finds_all_of_a_kind_by_labels(self, cluster: Cluster) -> None:
        for name, role in (("c", "x"), ("a", "x"), ("b", "y")):
            manifest = config_map(name)
            await cluster.create({**manifest, "metadata": {**manifest["metadata"], "labels": {"role": role}}})
        scanned = [obj async for obj in cluster.scan("v1", "ConfigMap", {"role": "x"})]
        assert [(obj["kind"], obj["metadata"]["name"]) for obj in scanned] == [("ConfigMap", "a"), ("ConfigMap", "c")]

    async def test_list_selects_by_labels_in_name_order(self, cluster: Cluster) -> None:
        for name, role in (("c", "x"), ("a", "x"), ("b", "y")):
            manifest = config_map(name)
            await cluster.create({**manifest, "metadata": {**manifest["metadata"], "labels": {"role": role}}})
        listed = await cluster.list("v1", "ConfigMap", NAMESPACE, {"role": "x"})
        assert [obj["metadata"]["name"] for obj in listed] == ["a", "c"]
        assert await cluster.list("v1", "ConfigMap", "elsewhere") == ()


class TestCascade:
    async def test_owned_objects_go_with_their_owner_over_generations(self, cluster: Cluster) -> None:
        top = await cluster.create(config_map("top"))
        middle = await cluster.create(owned(config_map("middle"), top))
        bottom = await cluster.create(owned(config_map("bottom"), middle))
        other = await cluster.create(config_map("other"))
        await cluster.delete(key_of(top))
        for obj in (top, middle, bottom):
            await gone(cluster, key_of(obj))
        assert await find(cluster, key_of(other))

    async def test_orphans_stay(self, cluster: Cluster) -> None:
        top = await cluster.create(config_map("top"))
        child = await cluster.create(owned(config_map("child"), top))
        await cluster.delete(key_of(top), cascade=False)
        await gone(cluster, key_of(top))
        assert not (await cluster.get(key_of(child)))["metadata"].get("ownerReferences")

    async def test_a_second_owner_keeps_an_object(self, cluster: Cluster) -> None:
        one, two = [await cluster.create(config_map(name)) for name in ("one", "two")]
        child = owned(config_map("child"), one)
        child["metadata"]["ownerReferences"] += owned(config_map("child"), two)["metadata"]["ownerReferences"]
        await cluster.create(child)
        await cluster.delete(key_of(one))
        await gone(cluster, key_of(one))
        assert await find(cluster, key_of(child))

    async def test_a_child_of_nobody_is_collected(self, cluster: Cluster) -> None:
        top = await cluster.create(config_map("top"))
        await cluster.delete(key_of(top))
        await cluster.create(owned(config_map("child"), top))
        await gone(cluster, key_of(config_map("child")))


class TestApply:
    async def test_a_field_that_is_left_out_goes(self, cluster: Cluster) -> None:
        await cluster.apply(config_map(x="1", y="2"))
        assert (await cluster.apply(config_map(x="1")))["data"] == {"x": "1"}

    async def test_a_field_that_was_created_and_is_left_out_goes(self, cluster: Cluster) -> None:
        made = await cluster.create(config_map(x="1", y="2"))
        theirs = await cluster.apply(config_map(z="3"), field_manager="somebody")
        manifest = config_map(x="4")
        manifest["metadata"] |= {key: theirs["metadata"][key] for key in ("uid", "resourceVersion")}
        assert (await cluster.apply(manifest))["data"] == {"x": "4", "z": "3"}
        assert made["metadata"]["uid"] == theirs["metadata"]["uid"]

    async def test_a_field_of_another_manager_stays(self, cluster: Cluster) -> None:
        await cluster.apply(config_map(x="1"), field_manager="one")
        await cluster.apply(config_map(y="2"), field_manager="two")
        assert (await cluster.apply(config_map(), field_manager="one"))["data"] == {"y": "2"}

    async def test_a_field_of_another_manager_is_not_changed_unless_forced(self, cluster: Cluster) -> None:
        await cluster.apply(config_map(x="1"), field_manager="one")
        with pytest.raises(Conflict):
            await cluster.apply(config_map(x="2"), field_manager="two", force=False)
        assert (await cluster.apply(config_map(x="2"), field_manager="two", force=True))["data"] == {"x": "2"}
        # The field has another owner now: the first manager cannot drop it any more.
        assert (await cluster.apply(config_map(), field_manager="one"))["data"] == {"x": "2"}

    async def test_the_same_value_is_shared(self, cluster: Cluster) -> None:
        await cluster.apply(config_map(x="1"), field_manager="one")
        await cluster.apply(config_map(x="1"), field_manager="two", force=False)
        assert (await cluster.apply(config_map(), field_manager="one"))["data"] == {"x": "1"}
        assert not (await cluster.apply(config_map(), field_manager="two")).get("data")

    async def test_a_field_that_was_updated_belongs_to_the_updater(self, cluster: Cluster) -> None:
        made = await cluster.apply(config_map(x="1"), field_manager="one")
        await cluster.update({**made, "data": {"x": "2"}}, field_manager="two")
        with pytest.raises(Conflict):
            await cluster.apply(config_map(x="1"), field_manager="one", force=False)

    async def test_applying_the_same_again_changes_nothing(self, cluster: Cluster) -> None:
        first = await cluster.apply(config_map(x="1"))
        assert await cluster.apply(config_map(x="1")) == first


class TestStatus:
    async def test_status_is_written_through_its_own_door_only(self, cluster: Cluster) -> None:
        made = await cluster.create({**python_job("", suspend=True), "status": {"failed": 7}})
        assert made.get("status", {}).get("failed", 0) == 0
        read = await job_when(cluster, lambda status: has(status, "Suspended"))
        written = await cluster.update({**read, "status": {"failed": 7}})
        assert written["status"] == read["status"]

    async def test_status_touches_neither_spec_nor_generation(self, cluster: Cluster) -> None:
        await cluster.create(python_job("", suspend=True))
        read = await job_when(cluster, lambda status: has(status, "Suspended"))
        changed = {**read, "spec": {**read["spec"], "backoffLimit": 9}, "status": {**read["status"], "failed": 7}}
        written = await cluster.update_status(changed)
        assert (written["spec"], written["metadata"]["generation"]) == (read["spec"], 1)
        assert written["status"]["failed"] == 7

    async def test_generation_counts_changes_of_the_spec(self, cluster: Cluster) -> None:
        await cluster.apply(python_job("", suspend=True))
        again = await cluster.apply(python_job("", suspend=True, backoffLimit=1))
        assert again["metadata"]["generation"] == 2

    async def test_watch_begins_with_what_is_there_and_names_the_controller(self, cluster: Cluster) -> None:
        top = await cluster.create(config_map("top"))
        watch = cluster.watch()
        child = owned(config_map("child"), top)
        child["metadata"]["ownerReferences"][0]["controller"] = True
        # A real namespace holds objects of its own besides.
        await until(lambda: anext(watch), lambda key: key == key_of(top))
        await cluster.create(child)
        seen = {await anext(watch)}
        await until(lambda: anext(watch), lambda key: seen.add(key) or seen >= {key_of(top), key_of(child)})


# A script that fails with code 3 at its first start, counted in the claim.
SECOND_TIME = """
import os, pathlib, sys
file = pathlib.Path(os.environ.get("FOEDUS_ROOT", "/")) / "count/n"
n = int(file.read_text()) + 1 if file.exists() else 1
file.write_text(str(n))
sys.exit(3 if n < 2 else 0)
"""


def with_claim(job: dict[str, Any]) -> dict[str, Any]:
    pod = job["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "count", "persistentVolumeClaim": {"claimName": "count"}}]
    pod["containers"][0]["volumeMounts"] = [{"name": "count", "mountPath": "/count"}]
    return job


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "count", "namespace": NAMESPACE},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
}


@pytest.fixture
async def _pods_run(cluster: Cluster) -> None:
    if isinstance(cluster, KubeCluster) and not await has_node(cluster):
        pytest.skip("no node is Ready, so no pod runs")


@pytest.mark.usefixtures("_pods_run")
class TestJobs:
    @pytest.mark.parametrize(
        ("script", "spec", "condition", "reason", "failed"),
        [
            ("", {}, "Complete", None, 0),
            ("raise SystemExit(3)", {}, "Failed", "BackoffLimitExceeded", 1),
            ("raise SystemExit(3)", {"backoffLimit": 1}, "Failed", "BackoffLimitExceeded", 2),
            ("raise SystemExit(3)", {"backoffLimit": 5} | policy("FailJob", 3), "Failed", "PodFailurePolicy", 1),
            ("raise SystemExit(3)", {"backoffLimit": 5} | policy("FailJob", 4, operator="NotIn"), "Failed",
             "PodFailurePolicy", 1),
            ("raise SystemExit(3)", {"backoffLimit": 0} | policy("Count", 3), "Failed", "BackoffLimitExceeded", 1),
            ("import os; os.kill(os.getpid(), 9)", policy("FailJob", 137), "Failed", "PodFailurePolicy", 1),
            ("import time; time.sleep(60)", {"activeDeadlineSeconds": 1}, "Failed", "DeadlineExceeded", 0),
        ],
    )  # fmt: skip
    async def test_exit_codes_decide(
        self, cluster: Cluster, script: str, spec: dict[str, Any], condition: str, reason: str | None, failed: int
    ) -> None:
        await cluster.create(python_job(script, **spec))
        status = (await job_when(cluster, ended))["status"]
        assert has(status, condition)
        assert reason is None or reason in {each["reason"] for each in status["conditions"]}
        assert (status.get("failed", 0), status.get("active", 0)) == (failed, 0)

    @pytest.mark.parametrize(("spec", "failed"), [({"backoffLimit": 1}, 1), (policy("Ignore", 3), 0)])
    async def test_a_job_is_tried_again_until_it_succeeds(
        self, cluster: Cluster, spec: dict[str, Any], failed: int
    ) -> None:
        await cluster.create(CLAIM)
        await cluster.create(with_claim(python_job(SECOND_TIME, **spec)))
        status = (await job_when(cluster, ended))["status"]
        assert has(status, "Complete")
        assert (status["succeeded"], status.get("failed", 0)) == (1, failed)

    async def test_suspension_stops_and_resumption_starts_again(self, cluster: Cluster) -> None:
        await cluster.apply(python_job("import time; time.sleep(60)", suspend=True))
        await job_when(cluster, lambda status: has(status, "Suspended"))
        await cluster.apply(python_job("import time; time.sleep(60)", suspend=False))
        await job_when(cluster, lambda status: status.get("ready") == 1 and not has(status, "Suspended"))
        await cluster.apply(python_job("import time; time.sleep(60)", suspend=True))
        stopped = await job_when(cluster, lambda s: has(s, "Suspended") and s.get("active", 0) == 0)
        assert (stopped["status"].get("failed", 0), stopped["status"].get("succeeded", 0)) == (0, 0)

    async def test_a_pod_waits_for_what_it_mounts(self, cluster: Cluster) -> None:
        await cluster.create(with_claim(python_job("")))
        await job_when(cluster, lambda status: status.get("active") == 1)
        await cluster.create(CLAIM)
        assert has((await job_when(cluster, ended))["status"], "Complete")

    async def test_a_finished_job_stays_finished(self, cluster: Cluster) -> None:
        await cluster.apply(python_job(""))
        await job_when(cluster, ended)
        await cluster.apply(python_job("", suspend=True))
        await cluster.apply(python_job("", suspend=False))
        assert (await job_when(cluster, ended))["status"]["succeeded"] == 1

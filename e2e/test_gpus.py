"""GPUs that a test makes up: pods that ask for one go where they are, and wait where there are none."""

import pytest

from e2e.cluster.kubectl import wait_for
from e2e.gpus import GPU, lend_gpus
from e2e.release import installed
from e2e.trainings import JOB_SECONDS, Trainings
from support.small_job import LABELS, SILOS, build_small_job

pytestmark = pytest.mark.e2e


@pytest.fixture
def node(target):
    """A node's name; on a cluster with GPUs of its own nothing here can be shown."""
    nodes = target.kubectl.get("nodes", "-l", "topology.kubernetes.io/region=us-east-1")["items"]
    if any(GPU in one["status"]["allocatable"] for one in target.kubectl.get("nodes")["items"]):
        pytest.skip(f"only on a cluster without {GPU} of its own")
    return nodes[0]["metadata"]["name"]


def ask_for_gpu(probes, name):
    """Apply a pod that wants one GPU, without waiting for it."""
    container = {"name": "asks", "image": probes.image, "resources": {"limits": {GPU: "1"}}}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    probes.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def failed_scheduling(probes, name):
    """Return what the scheduler said about a pod that it could not place."""
    selected = f"--field-selector=reason=FailedScheduling,involvedObject.name={name}"
    return [event["message"] for event in probes.kubectl.get("-n", probes.namespace, "events", selected)["items"]]


def unplaced(probes, name):
    """Whether a pod is Pending because no node has room for it, and an Event says what is missing."""
    pod = probes.get("pod", name)
    reasons = {one.get("reason") for one in pod["status"].get("conditions", []) if one["type"] == "PodScheduled"}
    said = any(f"Insufficient {GPU}" in message for message in failed_scheduling(probes, name))
    return pod["status"]["phase"] == "Pending" and reasons == {"Unschedulable"} and said


def test_a_pod_waits_until_a_node_has_a_gpu_and_lands_there(target, probes, node):
    ask_for_gpu(probes, "first")
    wait_for("the scheduler's refusal", lambda: unplaced(probes, "first"))
    with lend_gpus(target.kubectl, node):
        probes.ready("first")
        assert probes.get("pod", "first")["spec"]["nodeName"] == node
        ask_for_gpu(probes, "second")
        wait_for("the second pod's refusal", lambda: unplaced(probes, "second"))


def test_lent_gpus_are_gone_afterwards(target, node):
    before = target.kubectl.get("node", node)["status"]
    with lend_gpus(target.kubectl, node, 2):
        assert target.kubectl.get("node", node)["status"]["capacity"][GPU] == "2"
    after = target.kubectl.get("node", node)["status"]
    assert (after["capacity"].keys(), after["allocatable"].keys()) == (
        before["capacity"].keys(),
        before["allocatable"].keys(),
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return build_small_job(tmp_path_factory.mktemp("small"))


@pytest.fixture
def trainings(target, node, small):
    """A namespace whose silos' volumes are all on one node."""
    with installed(target, trains=True) as release:
        made = Trainings(target.kubectl, release.make_namespace(), target.image("busybox"))
        made.fill(small.root / "volumes", [node])
        release.rolled_out("foedus-operator")
        release.rolled_out("foedus-ledger")
        yield made
        made.clear()


def test_a_job_says_that_it_waits_for_gpus_and_trains_where_they_are(target, trainings, small, node):
    manifest = small.manifest("devices", resources={"client": {"limits": {GPU: "1"}}})
    trainings.submit(manifest, small.root / "volumes", LABELS)

    def ready():
        found = trainings.status("devices").get("conditions", ())
        return next((each for each in found if each["type"] == "Ready"), {})

    def waits():
        found = ready()
        return found.get("reason") == "Unschedulable" and f"Insufficient {GPU}" in found["message"]

    wait_for("the job says what it waits for", waits, JOB_SECONDS)  # before that, it waited for its volumes
    assert trainings.status("devices")["phase"] == "Pending"
    with lend_gpus(target.kubectl, node, len(SILOS)):
        assert trainings.ended("devices")["phase"] == "Complete"
        pods = [pod for silo in SILOS for pod in trainings.pods("devices", silo)]
        assert {pod["spec"]["nodeName"] for pod in pods} == {node}

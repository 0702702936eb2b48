"""Parts of our own cluster are killed, cut off and restored: what was acknowledged stays, what was broken heals."""

import json
import signal

import pytest

from e2e.cluster.kubectl import PATIENCE, wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture
def whole(cluster):
    """A cluster that is mended after the test, whatever the test left broken."""
    yield cluster
    for node in cluster.layout.nodes:
        cluster.heal(node)
    for daemon in cluster.daemons.values():
        daemon.start()
        daemon.signal(signal.SIGCONT)
    cluster.wait_for_api_server()
    cluster.each_node(cluster.wait_for_node)


def is_ready(cluster, name):
    conditions = cluster.kubectl.get("node", name)["status"]["conditions"]
    return next(one["status"] for one in conditions if one["type"] == "Ready")


@pytest.mark.parametrize("victims", [("etcd",), ("kube-apiserver",), ("kube-apiserver", "etcd")])
def test_what_was_acknowledged_survives_a_kill(whole, probes, victims):
    for number in range(10):
        probes.kubectl("-n", probes.namespace, "create", "configmap", f"kept-{number}")
    for name in victims:
        whole.daemons[name].signal(signal.SIGKILL)
    for name in reversed(victims):
        whole.daemons[name].start()
    whole.wait_for_api_server()
    found = {item["metadata"]["name"] for item in probes.kubectl.get("-n", probes.namespace, "configmaps")["items"]}
    assert found >= {f"kept-{number}" for number in range(10)}


def test_a_killed_kubelet_makes_its_node_unready_until_it_is_back(whole):
    node = whole.layout.nodes[2]
    whole.daemons[f"{node.name}-kubelet"].signal(signal.SIGKILL)
    wait_for("the node NotReady", lambda: is_ready(whole, node.name) == "Unknown")
    whole.daemons[f"{node.name}-kubelet"].start()
    whole.wait_for_node(node)


def test_a_cut_cable_separates_a_node_until_it_is_mended(whole, probes):
    here, away = whole.layout.nodes[0], whole.layout.nodes[1]
    address = probes.serve("web", nodeName=away.name)
    probes.start("client", nodeName=here.name)
    wait_for("the pod", lambda: probes.ask("client", address) == "web")
    whole.partition(away)
    assert probes.ask("client", address) == ""
    whole.heal(away)
    wait_for("the pod again", lambda: probes.ask("client", address) == "web")


def test_a_power_cut_moves_a_deployments_pod_to_another_node(whole, probes):
    labels = {"matchLabels": {"app": "one"}}
    pod = {"containers": [{"name": "one", "image": probes.image}], "terminationGracePeriodSeconds": 0}
    template = {"metadata": {"labels": {"app": "one"}}, "spec": pod}
    probes.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "one"},
            "spec": {"replicas": 1, "selector": labels, "template": template},
        }
    )
    probes.kubectl("-n", probes.namespace, "rollout", "status", "deployment/one", seconds=PATIENCE)

    def running_on():
        pods = probes.kubectl.get("-n", probes.namespace, "pods")["items"]
        return [pod["spec"]["nodeName"] for pod in pods if pod["status"]["phase"] == "Running" and is_live(pod)]

    (first,) = running_on()
    lost = next(node for node in whole.layout.nodes if node.name == first)
    whole.power_off(lost)
    wait_for("a pod on another node", lambda: running_on() and first not in running_on())
    whole.start_node(lost)
    whole.wait_for_node(lost)


def is_live(pod):
    return "deletionTimestamp" not in pod["metadata"]


def test_a_restored_snapshot_forgets_what_came_after_it(whole, probes, tmp_path):
    probes.kubectl("-n", probes.namespace, "create", "configmap", "before")
    whole.save_snapshot(tmp_path / "snapshot")
    probes.kubectl("-n", probes.namespace, "create", "configmap", "after")
    whole.restore_snapshot(tmp_path / "snapshot")
    assert probes.kubectl.succeeds("-n", probes.namespace, "get", "configmap", "before")
    assert not probes.kubectl.succeeds("-n", probes.namespace, "get", "configmap", "after")
    assert probes.kubectl.succeeds("-n", probes.namespace, "create", "configmap", "after")


def test_a_new_policy_cuts_connections_that_are_open(whole, probes):
    lines = "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.2; done | nc -l -p 8080"
    probes.start("talker", lines)
    address = probes.get("pod", "talker")["status"]["podIP"]
    probes.start("listener", f"tail -f /dev/null | nc {address} 8080")
    heard = lambda: len(probes.kubectl("-n", probes.namespace, "logs", "listener").splitlines())
    wait_for("the conversation", lambda: heard() > 3)
    spec = {"podSelector": {"matchLabels": {"app": "talker"}}, "policyTypes": ["Ingress", "Egress"]}
    probes.apply(
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"}, "spec": spec}
    )

    def silent():
        before = heard()
        probes.run("talker", "sleep 3")
        return heard() == before

    wait_for("silence", silent)


def test_a_new_pod_is_closed_from_its_first_packet(whole, probes):
    """A pod under default deny tries from its first instruction on; not one attempt may succeed."""
    address = probes.serve("web")
    spec = {"podSelector": {"matchLabels": {"app": "hasty"}}, "policyTypes": ["Egress"]}
    probes.apply(
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"}, "spec": spec}
    )
    probes.start("hasty", f"for i in 1 2 3 4 5 6; do nc -w 1 {address} 8080; done; echo over; sleep 100000")
    logs = lambda: probes.kubectl("-n", probes.namespace, "logs", "hasty")
    wait_for("the attempts", lambda: "over" in logs())
    assert "web" not in logs()


def test_the_audit_log_says_who_did_what(whole, probes):
    probes.kubectl("-n", probes.namespace, "create", "configmap", "seen")
    events = [json.loads(line) for line in whole.layout.audit_log.read_text().splitlines()]
    seen = [event for event in events if event.get("objectRef", {}).get("namespace") == probes.namespace]
    created = [event for event in seen if event["verb"] == "create" and event["objectRef"].get("name") == "seen"]
    assert [(event["user"]["username"], event["responseStatus"]["code"]) for event in created] == [("admin", 201)]

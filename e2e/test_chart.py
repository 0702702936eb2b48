"""The chart on a cluster with nodes: its pods get ready, lead and take over, and are closed but for what is used."""

import pytest
import yaml

from e2e.cluster.kubectl import wait_for
from e2e.release import NAMESPACE, installed
from e2e.targets import PROJECT

pytestmark = pytest.mark.e2e

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


@pytest.fixture(scope="module", autouse=True)
def release(target):
    with installed(target) as found:
        yield found


def addresses(target, component):
    found = target.kubectl.get("-n", NAMESPACE, "pods", "-l", f"app.kubernetes.io/component={component}")
    return [pod["status"]["podIP"] for pod in found["items"]]


@pytest.mark.parametrize("name", ["foedus-operator", "foedus-ledger"])
def test_both_replicas_get_ready_on_different_nodes(target, release, name):
    release.rolled_out(name)
    found = target.kubectl.get("-n", NAMESPACE, "pods", "-l", f"app.kubernetes.io/component={name[7:]}")
    assert len({pod["spec"]["nodeName"] for pod in found["items"]}) == 2


def test_a_suspended_job_is_adopted_and_a_leader_that_goes_is_followed(target, release, probes):
    release.rolled_out("foedus-operator")
    job = yaml.safe_load((PROJECT / "examples/bbc-news.yaml").read_text("utf-8"))
    job["spec"]["suspend"] = True
    adopted(target, probes, job, "before")
    leader = release.leader()
    target.kubectl("-n", NAMESPACE, "delete", "pod", leader, seconds=90)
    wait_for("another leader", lambda: release.leader() not in ("", leader), 60)
    adopted(target, probes, job, "after")


def adopted(target, probes, job, name):
    probes.apply({**job, "metadata": {"name": name}})
    phase = "-o=jsonpath={.status.phase}"
    read = ("-n", probes.namespace, "get", "federatedtrainingjob", name, phase)
    wait_for("the job is adopted", lambda: target.kubectl(*read) == "Suspended", 60)


def test_only_pods_of_jobs_reach_the_ledger_and_nobody_the_metrics(target, release, probes):
    for name in ("foedus-operator", "foedus-ledger"):
        release.rolled_out(name)
    probes.start("stranger")
    probes.start("silo", labels={"app.kubernetes.io/name": "foedus", "foedus.dev/job": "demo"})
    ledgers, operators = addresses(target, "ledger"), addresses(target, "operator")
    for address in ledgers:
        wait_for("a silo reaches the ledger", lambda: connects(probes, "silo", address, 8443), 30)  # noqa: B023
        assert not connects(probes, "stranger", address, 8443)
    for address in operators:
        assert not connects(probes, "stranger", address, 8081)
        assert not connects(probes, "silo", address, 8081)


def connects(probes, name, address, port):
    done = probes.run(name, f"nc -w 2 {address} {port} < /dev/null > /dev/null 2>&1; echo $?")
    return done.strip() == "0"


@pytest.mark.parametrize("name", ["foedus-operator", "foedus-ledger"])
def test_a_pod_of_foedus_reaches_the_api_server_alone(target, release, probes, name):
    release.rolled_out(name)
    address = probes.serve("web")
    server = target.kubectl.get("-n", "default", "service", "kubernetes")["spec"]["clusterIP"]
    assert reaches(target, name, server, 443)
    assert not reaches(target, name, address, 8080)
    dns = target.kubectl.get("-n", "kube-system", "service", "kube-dns")["spec"]["clusterIP"]
    assert not reaches(target, name, dns, 53)


def reaches(target, name, address, port):
    command = ("-n", NAMESPACE, "exec", f"deployment/{name}", "--", "python", "-c", CONNECT, address, str(port))
    return target.kubectl.attempt(*command).returncode == 0

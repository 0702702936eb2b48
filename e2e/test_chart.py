"""The chart on a cluster with nodes: its pods get ready, lead and take over, and are closed but for what is used."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from e2e.cluster.kubectl import wait_for

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]
NAMESPACE = "foedus-system"
POLICIES = ("ledger.foedus.dev", "kept.foedus.dev")
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


@pytest.fixture(scope="module", autouse=True)
def release(target):
    """The chart, in a namespace that insists on the restricted profile."""
    kubectl = target.kubectl
    kubectl("create", "namespace", NAMESPACE)
    kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    repository, _, tag = target.image("operator").rpartition(":")
    image = f"images.operator.repository={repository},images.operator.tag={tag}"
    place = ("--namespace", NAMESPACE)
    helm(target, "install", "foedus", str(ROOT / "charts/foedus"), *place, "--take-ownership", "--set", image)
    yield
    helm(target, "uninstall", "foedus", *place, "--wait")
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        kubectl("delete", kind, *POLICIES)
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def helm(target, *arguments):
    environment = {**os.environ, "KUBECONFIG": str(target.kubectl.kubeconfig)}
    done = subprocess.run([target.helm, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def rolled_out(target, name):
    arguments = ("rollout", "status", f"deployment/{name}", "--timeout=300s")
    target.kubectl("-n", NAMESPACE, *arguments, seconds=330)


def addresses(target, component):
    found = target.kubectl.get("-n", NAMESPACE, "pods", "-l", f"app.kubernetes.io/component={component}")
    return [pod["status"]["podIP"] for pod in found["items"]]


def holder(target):
    return target.kubectl.get("-n", NAMESPACE, "lease", "foedus-operator")["spec"]["holderIdentity"].partition(".")[0]


@pytest.mark.parametrize("name", ["foedus-operator", "foedus-ledger"])
def test_both_replicas_get_ready_on_different_nodes(target, name):
    rolled_out(target, name)
    found = target.kubectl.get("-n", NAMESPACE, "pods", "-l", f"app.kubernetes.io/component={name[7:]}")
    assert len({pod["spec"]["nodeName"] for pod in found["items"]}) == 2


def test_a_suspended_job_is_adopted_and_a_leader_that_goes_is_followed(target, probes):
    rolled_out(target, "foedus-operator")
    job = yaml.safe_load((ROOT / "examples/bbc-news.yaml").read_text("utf-8"))
    job["spec"]["suspend"] = True
    adopted(target, probes, job, "before")
    leader = holder(target)
    target.kubectl("-n", NAMESPACE, "delete", "pod", leader, seconds=90)
    wait_for("another leader", lambda: holder(target) not in ("", leader), 60)
    adopted(target, probes, job, "after")


def adopted(target, probes, job, name):
    probes.apply({**job, "metadata": {"name": name}})
    phase = "-o=jsonpath={.status.phase}"
    read = ("-n", probes.namespace, "get", "federatedtrainingjob", name, phase)
    wait_for("the job is adopted", lambda: target.kubectl(*read) == "Suspended", 60)


def test_only_pods_of_jobs_reach_the_ledger_and_nobody_the_metrics(target, probes):
    for name in ("foedus-operator", "foedus-ledger"):
        rolled_out(target, name)
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
def test_a_pod_of_foedus_reaches_the_api_server_alone(target, probes, name):
    rolled_out(target, name)
    address = probes.serve("web")
    server = target.kubectl.get("-n", "default", "service", "kubernetes")["spec"]["clusterIP"]
    assert reaches(target, name, server, 443)
    assert not reaches(target, name, address, 8080)
    dns = target.kubectl.get("-n", "kube-system", "service", "kube-dns")["spec"]["clusterIP"]
    assert not reaches(target, name, dns, 53)


def reaches(target, name, address, port):
    command = ("-n", NAMESPACE, "exec", f"deployment/{name}", "--", "python", "-c", CONNECT, address, str(port))
    return target.kubectl.attempt(*command).returncode == 0

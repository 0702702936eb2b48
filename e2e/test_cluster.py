"""What a cluster for the tests has to do: the same on ours, on kind and on any other."""

import socket
import ssl
import subprocess

import pytest

from e2e.cluster.kubectl import wait_for

pytestmark = pytest.mark.e2e

REGIONS = {"ap-southeast-1", "eu-west-1", "us-east-1"}
REGION = "topology.kubernetes.io/region"


def in_region(region):
    return {"nodeSelector": {REGION: region}}


def policy(name, spec):
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec}


def service(name, port, target_port):
    ports = [{"port": port, "targetPort": target_port}]
    spec = {"selector": {"served-by": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def test_three_regions_have_a_ready_node_each(target):
    nodes = [node for node in target.kubectl.get("nodes")["items"] if REGION in node["metadata"]["labels"]]
    ready = {
        node["metadata"]["labels"][REGION]: condition["status"]
        for node in nodes
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    }
    assert ready == dict.fromkeys(REGIONS, "True")


def test_a_service_is_found_by_name_and_reaches_pods_of_every_region(target, probes):
    probes.apply(service("web", 80, 8080))
    for region in sorted(REGIONS):
        probes.serve(f"web-{region}", {"served-by": "web"}, **in_region(region))
    probes.start("client")
    answers = set()
    wait_for("an answer from each", lambda: answers.add(probes.ask("client", "web", 80)) or len(answers - {""}) == 3)
    assert answers - {""} == {f"web-{region}" for region in REGIONS}


def test_a_pod_reaches_itself_by_its_service(target, probes):
    probes.apply(service("site", 80, 8080))
    probes.serve("web", {"served-by": "site"})
    wait_for("the Service", lambda: probes.ask("web", "site", 80) == "web")


def test_policies_close_and_open_on_one_node_and_across(target, probes):
    """Default deny, then one label, then one port: each step seen from three clients."""
    near, far = "eu-west-1", "us-east-1"
    address = probes.serve("web", **in_region(near))
    probes.start("friend", labels={"role": "friend"}, **in_region(far))
    probes.start("neighbour", labels={"role": "friend"}, **in_region(near))
    probes.start("stranger", **in_region(near))

    def reach(expected):
        seen = lambda: {who for who in ("friend", "neighbour", "stranger") if probes.ask(who, address) == "web"}
        wait_for(f"exactly {sorted(expected)} reach the pod", lambda: seen() == expected)

    reach({"friend", "neighbour", "stranger"})
    select = {"podSelector": {"matchLabels": {"app": "web"}}}
    probes.apply(policy("deny", {**select, "policyTypes": ["Ingress"]}))
    reach(set())
    friends = [{"podSelector": {"matchLabels": {"role": "friend"}}}]
    probes.apply(policy("allow", {**select, "ingress": [{"from": friends, "ports": [{"port": "probe"}]}]}))
    reach({"friend", "neighbour"})
    probes.apply(policy("allow", {**select, "ingress": [{"from": friends, "ports": [{"port": 1}]}]}))
    reach(set())


def test_egress_is_limited_to_what_a_policy_names(target, probes):
    web, other = probes.serve("web"), probes.serve("other")
    probes.start("client")
    allowed = [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 8080}]}]
    probes.apply(policy("client", {"podSelector": {"matchLabels": {"app": "client"}}, "egress": allowed}))
    heard = lambda: (probes.ask("client", web), probes.ask("client", other))
    wait_for("one pod in reach and one not", lambda: heard() == ("web", ""))


def test_volumes_outlive_their_pod(target, probes):
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}
    probes.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": claim})
    # A spec's `containers` would replace the probe's own, so the volume comes by a container of its own.
    volumes = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}
    mounted = {"initContainers": [container(probes, "writer", "echo kept >> /data/file")], **volumes}
    for number in (1, 2):
        probes.start(f"pod-{number}", **mounted)
        probes.kubectl("-n", probes.namespace, "delete", "pod", f"pod-{number}")
    reader = {"initContainers": [container(probes, "reader", "cat /data/file")], **volumes}
    probes.start("pod-3", **reader)
    assert probes.kubectl("-n", probes.namespace, "logs", "pod-3", "-c", "reader") == "kept\nkept\n"


def container(probes, name, command):
    return {
        "name": name,
        "image": probes.image,
        "command": ["sh", "-c", command],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }


def test_the_restricted_profile_is_enforced_and_can_be_met(target, probes):
    label = "pod-security.kubernetes.io/enforce=restricted"
    probes.kubectl("label", "namespace", probes.namespace, label)
    probes.start("good")
    done = probes.kubectl.attempt("-n", probes.namespace, "run", "bad", f"--image={probes.image}")
    assert 'violates PodSecurity "restricted' in done.stderr


def test_a_container_over_its_memory_limit_is_killed(target, probes):
    limited = {"resources": {"limits": {"memory": "16Mi"}}}
    grow = {**container(probes, "probe", "x=0123456789abcdef; while :; do x=$x$x; done"), **limited, "volumeMounts": []}
    probes.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "greedy"},
            "spec": {"restartPolicy": "Never", "containers": [grow]},
        }
    )

    def reason():
        statuses = probes.get("pod", "greedy")["status"].get("containerStatuses") or [{}]
        return statuses[0].get("state", {}).get("terminated", {}).get("reason")

    wait_for("the container's end", lambda: reason() is not None)
    assert reason() == "OOMKilled"


def test_admission_policies_decide(target, probes):
    """A ValidatingAdmissionPolicy of a namespace's ConfigMaps: what the ledger's protection is made of."""
    name = probes.namespace
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    probes.kubectl.apply(f"""
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  matchConstraints: {{resourceRules: [{rule}]}}
  validations: [{{expression: "object.metadata.name != 'forbidden'", message: "not this name"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec:
  policyName: {name}
  validationActions: [Deny]
  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}}}
""")
    create = ("-n", name, "create", "configmap", "forbidden", "--dry-run=server")
    wait_for("the policy", lambda: "not this name" in probes.kubectl.attempt(*create).stderr)
    assert probes.kubectl.succeeds("-n", name, "create", "configmap", "allowed")
    probes.kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", name)


def test_tls_1_2_is_not_spoken(cluster):
    context = ssl._create_unverified_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    address = (cluster.layout.api_address, 6443)
    with socket.create_connection(address, timeout=10) as plain, pytest.raises(ssl.SSLError, match="protocol version"):
        context.wrap_socket(plain)


def test_metrics_are_measured(cluster):
    wait_for("metrics of all nodes", lambda: len(nodes_measured(cluster)) == 3)


def nodes_measured(cluster):
    return cluster.kubectl.attempt("top", "nodes", "--no-headers").stdout.splitlines()


def test_helm_installs_and_removes_a_chart(target, probes, tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: small\nversion: 0.1.0\n")
    template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: small}\ndata: {value: {{ .Values.value | quote }}}\n"
    (tmp_path / "templates/one.yaml").write_text(template)
    flags = [f"--kubeconfig={target.kubectl.kubeconfig}", f"--namespace={probes.namespace}"]
    subprocess.run([target.helm, "install", "small", tmp_path, "--set=value=1", *flags], check=True)
    assert probes.get("configmap", "small")["data"] == {"value": "1"}
    subprocess.run([target.helm, "uninstall", "small", *flags], check=True)
    assert not target.kubectl.succeeds("-n", probes.namespace, "get", "configmap", "small")

"""A running job's network: what its pods listen on, whom they reach, and how their ports are to be spoken to."""

import base64
from datetime import UTC, datetime, timedelta

import pytest

from e2e.cluster.kubectl import wait_for
from e2e.cluster.network import metadata_server
from e2e.inside import OPEN, SILENT, Way, fetched, listening, reaches, signed_like, speaks
from e2e.probes import PORT, Probes
from e2e.release import NAMESPACE, installed
from e2e.trainings import Trainings
from support.small_job import LABELS, SILOS, build_small_job

pytestmark = pytest.mark.e2e

JOB = "probed"
ROUNDS = 300  # it is deleted in its middle
PRIVACY = {"epsilon": 8, "delta": 1e-4}  # so many rounds fit
TLS = 8443
# Every socket on which a pod of Foedus listens. Silos connect out only.
LISTENS = {
    # 8081: what the kubelet asks.
    "coordinator": [("tcp", "everybody", 8081), ("tcp", "everybody", TLS)],
    "silo": [],
    "ledger": [("tcp", "everybody", TLS)],
    "operator": [("tcp", "everybody", 8081)],
}
# Every edge that a policy opens; all others of the places below are closed.
EDGES = {
    "coordinator": {"ledger", "names"},
    "silo": {"coordinator", "ledger", "names"},
    "ledger": {"API server"},
    "operator": {"API server", "coordinator"},
}
KUBELET = 10250


@pytest.fixture(scope="module")
def release(target):
    with installed(target, trains=True) as found:
        for name in ("foedus-operator", "foedus-ledger"):
            found.rolled_out(name)
        yield found


@pytest.fixture(scope="module")
def job(target, release, tmp_path_factory):
    """A job in its rounds."""
    small = build_small_job(tmp_path_factory.mktemp("small"))
    made = Trainings(target.kubectl, release.make_namespace(), target.image("busybox"))
    made.fill(small.root / "volumes")
    manifest = small.manifest(JOB, rounds=ROUNDS, privacy=PRIVACY)
    made.submit(manifest, small.root / "volumes", LABELS, epsilon=PRIVACY["epsilon"])
    wait_for("a round", lambda: made.round(JOB) > 0)
    yield made
    made.clear()


@pytest.fixture(scope="module")
def pods(target, job):
    """One pod of each component, by namespace and name."""

    def of_chart(component):
        found = target.kubectl.get("-n", NAMESPACE, "pods", "-l", f"app.kubernetes.io/component={component}")
        return NAMESPACE, found["items"][0]

    roles = {"coordinator": "coordinator", "silo": SILOS[0]}
    return {
        **{name: (job.namespace, job.pods(JOB, role)[-1]) for name, role in roles.items()},
        **{name: of_chart(name) for name in ("ledger", "operator")},
    }


def name_of(pod):
    return pod["metadata"]["name"]


@pytest.mark.parametrize("component", LISTENS)
def test_every_listening_socket_is_on_the_list(target, pods, component):
    namespace, pod = pods[component]
    found = {(kind.removesuffix("6"), *rest) for kind, *rest in listening(target.kubectl, namespace, name_of(pod))}
    assert sorted(found) == LISTENS[component]


@pytest.fixture(scope="module")
def places(target, job, pods):
    """Where pods could want to go; in two namespaces somebody answers."""
    beside = Probes(target.kubectl, job.namespace, target.image("busybox"))
    kubectl = target.kubectl
    server = kubectl.get("-n", "default", "service", "kubernetes")["spec"]["clusterIP"]
    dns = kubectl.get("-n", "kube-system", "service", "kube-dns")["spec"]["clusterIP"]
    addresses = {name: pod["status"]["podIP"] for name, (_, pod) in pods.items()}
    nodes = {node["metadata"]["name"]: node for node in kubectl.get("nodes")["items"]}
    return {
        "coordinator": (addresses["coordinator"], TLS),
        "ledger": (addresses["ledger"], TLS),
        "names": (dns, 53),
        "API server": (server, 443),
        # Nothing listens there: what lets a connection through answers that, what is closed says nothing.
        "silo": (addresses["silo"], TLS),
        "operator": (addresses["operator"], 8081),
        "another pod": (beside.serve("web"), PORT),
        "names' metrics": (dns, 9153),
        **{
            f"kubelet of {name}": (address["address"], KUBELET)
            for name, node in nodes.items()
            for address in node["status"]["addresses"]
            if address["type"] == "InternalIP"
        },
    }


@pytest.mark.parametrize("component", EDGES)
def test_every_edge_that_no_policy_opens_is_closed(target, pods, places, component):
    namespace, pod = pods[component]
    # What a pod has with itself is no edge, and a node always reaches its own pods, and they it.
    left_out = {component, f"kubelet of {pod['spec']['nodeName']}"}
    asked = {name: place for name, place in places.items() if name not in left_out}
    found = dict(zip(asked, reaches(target.kubectl, namespace, name_of(pod), asked.values()), strict=True))
    assert found == {name: OPEN if name in EDGES[component] else SILENT for name in asked}


def test_a_stranger_in_the_jobs_namespace_reaches_none_of_it_and_what_it_reaches_shows_the_probe_works(
    target, job, pods, places
):
    probes = Probes(target.kubectl, job.namespace, target.image("busybox"))
    probes.start("stranger")
    assert probes.ask("stranger", *places["another pod"]) == "web"
    for name in pods:
        address, port = places[name]
        done = probes.run("stranger", f"nc -w 2 {address} {port} < /dev/null > /dev/null 2>&1; echo $?")
        assert done.strip() != "0", name


def test_no_pod_of_foedus_reaches_the_metadata_address(cluster, target, job, pods):
    probes = Probes(target.kubectl, job.namespace, target.image("busybox"))
    probes.start("free")
    with metadata_server(cluster.layout) as address:
        wait_for("others reach it", lambda: probes.ask("free", address, 80) == "secret", 30)
        for namespace, pod in pods.values():
            assert reaches(target.kubectl, namespace, name_of(pod), [(address, 80)]) == [SILENT], name_of(pod)


def secret(target, namespace, name):
    found = target.kubectl.get("-n", namespace, "secret", name)["data"]
    return {key: base64.b64decode(value) for key, value in found.items()}


def test_the_coordinator_speaks_tls_1_3_to_its_own_silos_and_the_operator_alone(target, job, pods):
    own, asking, authority = (
        secret(target, job.namespace, f"{JOB}-{name}") for name in (f"{SILOS[0]}-tls", "operator", "ca")
    )
    now, key, hour = datetime.now(UTC), authority["tls.key"], timedelta(hours=1)
    mine = Way(certificate=own["tls.crt"].decode(), key=own["tls.key"].decode())
    ways = {
        "its own certificate": mine,
        "the operator's": Way(certificate=asking["tls.crt"].decode(), key=asking["tls.key"].decode()),
        "a copy of it": signed_like(own["tls.crt"], key, now - hour, now + hour),
        "TLS 1.2": Way(old=True, certificate=mine.certificate, key=mine.key),
        "plain text": Way(plain=True),
        "no certificate": Way(),
        "an expired one": signed_like(own["tls.crt"], key, now - 2 * hour, now - hour),
        "one that is not valid yet": signed_like(own["tls.crt"], key, now + hour, now + 2 * hour),
        "a foreign one": signed_like(own["tls.crt"], None, now - hour, now + hour),
    }
    namespace, silo = pods["silo"]
    found = speaks(target.kubectl, namespace, name_of(silo), (f"{JOB}-coordinator", TLS), ways)
    served = {"its own certificate", "a copy of it", "the operator's"}
    assert {name for name, line in found.items() if line.startswith("HTTP/")} == served, found


@pytest.fixture
def reader(target, job):
    """Return what reads a metric of a component, summed over its pods, by the rights of `foedus-metrics`."""
    kubectl, account = target.kubectl, ("serviceaccount", "reader")
    kubectl("-n", job.namespace, "create", *account)
    bound = ("--clusterrole", "foedus-metrics", "--serviceaccount", f"{job.namespace}:reader")
    kubectl("create", "clusterrolebinding", "reader", *bound)
    token = kubectl("-n", job.namespace, "create", "token", "reader").strip()

    def read(component, port, sample):
        chosen = ("pods", "-l", f"app.kubernetes.io/component={component}")
        found = kubectl.get("-n", NAMESPACE, *chosen)["items"]
        pages = [
            fetched(kubectl, NAMESPACE, name_of(each), f"https://127.0.0.1:{port}/metrics", token) for each in found
        ]
        lines = [line for page in pages for line in page.splitlines() if line.startswith(sample)]
        return sum(float(line.split()[-1]) for line in lines)

    yield read
    kubectl("delete", "clusterrolebinding", "reader")
    kubectl("-n", job.namespace, "delete", *account)


@pytest.mark.parametrize(
    ("component", "port", "sample"),
    [
        ("operator", 8081, 'foedus_operator_coordinator_pages_total{answered="true"}'),
        ("ledger", TLS, 'foedus_ledger_requests_total{outcome="OK",what="charge"}'),
    ],
)
def test_whom_rbac_lets_may_read_that_coordinators_answer_and_silos_charge(reader, component, port, sample):
    before = reader(component, port, sample)
    wait_for("more of it", lambda: reader(component, port, sample) > before)


def test_the_ledger_speaks_tls_1_3_alone(target, pods):
    namespace, silo = pods["silo"]
    ways = {"TLS 1.3": Way(), "TLS 1.2": Way(old=True), "plain text": Way(plain=True)}
    host = f"foedus-ledger.{NAMESPACE}.svc"
    found = speaks(target.kubectl, namespace, name_of(silo), (host, TLS), ways)
    assert {name for name, line in found.items() if line.startswith("HTTP/")} == {"TLS 1.3"}, found


@pytest.mark.parametrize("component", ["operator", "coordinator"])
def test_what_a_kubelet_asks_is_answered_over_tls_1_3_alone(target, pods, component):
    namespace, pod = pods[component]
    ways = {"TLS 1.3": Way(), "TLS 1.2": Way(old=True), "plain text": Way(plain=True)}
    found = speaks(target.kubectl, namespace, name_of(pod), ("127.0.0.1", 8081), ways)
    assert {name for name, line in found.items() if line.startswith("HTTP/")} == {"TLS 1.3"}, found

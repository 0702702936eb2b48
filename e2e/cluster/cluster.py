"""A cluster as a whole: up, down, and its parts for tests that break them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

from e2e.cluster import cgroups, mounts, network, registry, settings
from e2e.cluster.addons import DEPLOYMENTS, addon_manifests
from e2e.cluster.binaries import exclusive
from e2e.cluster.commands import run
from e2e.cluster.control_plane import (
    AUDIT_POLICY,
    CONTROL_PLANE,
    ETCD_PORT,
    control_plane,
    restore_flags,
    write_configuration,
)
from e2e.cluster.errors import HarnessError
from e2e.cluster.images import Image
from e2e.cluster.kubectl import Kubectl, wait_for
from e2e.cluster.layout import Layout, Node
from e2e.cluster.nodes import SOCKET, node_daemons, write_node_configuration
from e2e.cluster.pki import ensure_keys
from e2e.cluster.processes import Daemon, end
from e2e.cluster.progress import Progress

# All that daemons get of the harness's environment: kubelet, kube-proxy and containerd call programs of these folders.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOURCES = Path(__file__).parents[2]
# Who writes to the API server ends first, and what it writes to last.
STOPPED_LAST = ("kube-apiserver", "etcd")


@dataclass(frozen=True)
class Cluster:
    """One cluster: where everything is, the programs it is made of, the add-ons' images and their tars.

    `audit` is the policy of the API server's audit log.
    """

    layout: Layout
    programs: Mapping[str, Path]
    images: Mapping[str, Image]
    cache: Path
    audit: Mapping[str, object] = field(default_factory=lambda: AUDIT_POLICY)

    @cached_property
    def kubectl(self) -> Kubectl:
        """kubectl as the cluster's administrator."""
        return Kubectl(str(self.programs["kubectl"]), self.layout.kubeconfig)

    @cached_property
    def daemons(self) -> dict[str, Daemon]:
        """Every daemon by name, for instance `kube-apiserver` and `node2-kubelet`, in the order of their start."""
        daemons = control_plane(self.layout, self.programs, PATH)
        if self.layout.with_nodes:
            daemons["policy-enforcer"] = policy_enforcer(self.layout)
        for node in self.layout.nodes:
            daemons |= {one.name: one for one in node_daemons(node, self.programs, PATH).values()}
        return daemons

    def up(self, progress: Progress) -> None:
        """Start what does not run; on a whole cluster that is nothing."""
        with _held(self.layout, progress):
            if not self.layout.kubeconfig.exists():
                shutil.rmtree(self.layout.logs, ignore_errors=True)  # of the folder's last cluster
            ensure_keys(self.layout, datetime.now(UTC))
            if self.layout.with_nodes:
                cgroups.check_machine()
                cgroups.make_control_plane_group(self.layout)
                settings.save_and_set(self.layout)
                network.make_network(self.layout)
                mounts.make_handles(self.layout)
            self.start_control_plane(progress)
            if self.layout.with_nodes:
                self.kubectl.apply(addon_manifests(self.layout, self.images))
                self.daemons["policy-enforcer"].start()
                with progress.step("images imported, nodes started"):
                    self.each_node(self.start_node)
                with progress.step("nodes ready"):
                    self.each_node(self.wait_for_node)
                with progress.step("CoreDNS, metrics-server and volumes ready"):
                    self.wait_for_deployments(DEPLOYMENTS)

    def start_control_plane(self, progress: Progress) -> None:
        """Start etcd, API server, controller-manager and scheduler, and wait until pods could be made."""
        write_configuration(self.layout, self.audit)
        with progress.step("etcd and API server ready"):
            self.daemons["etcd"].start()
            self.daemons["kube-apiserver"].start()
            self.wait_for_api_server()
        with progress.step("controller-manager and scheduler ready"):
            self.daemons["kube-controller-manager"].start()
            self.daemons["kube-scheduler"].start()
            account = ("-n", "default", "get", "serviceaccount", "default")
            wait_for("the default ServiceAccount", lambda: self.kubectl.succeeds(*account))

    def wait_for_api_server(self) -> None:
        """Return when the API server says that it is ready."""
        wait_for("the API server", lambda: self.kubectl.succeeds("get", "--raw", "/readyz"))

    def start_node(self, node: Node) -> None:
        """Start a node's daemons; its images are there before its kubelet."""
        cgroups.make_cgroups(node)
        mounts.make_mount_namespace(node)
        write_node_configuration(node, self.images["busybox"].reference)
        daemons = node_daemons(node, self.programs, PATH)
        daemons["containerd"].start()
        wait_for(f"containerd on {node.name}", lambda: _answers(node))
        self.import_images(node, [(image.reference, image.tar(self.cache)) for image in self.images.values()])
        daemons["kubelet"].start()
        daemons["kube-proxy"].start()

    def import_images(self, node: Node, images: Sequence[tuple[str, Path]]) -> None:
        """Give a node the images, of name and tar, that it does not have."""
        present = _ctr(node, "images", "list", "--quiet").split()
        for reference, tar in images:
            if reference not in present:
                _ctr(node, "images", "import", "--snapshotter=overlayfs", str(tar))

    def power_off(self, node: Node) -> None:
        """Stop a node as a power cut does: nothing is told, nothing is ended in order, its pods are gone."""
        cgroups.kill_group(node.cgroup)

    def partition(self, node: Node) -> None:
        """Pull a node's cable: nothing reaches it and it reaches nothing, while everything on it goes on."""
        network.cut(node)

    def heal(self, node: Node) -> None:
        """Put a node's cable back."""
        network.mend(node)

    def save_snapshot(self, file: Path) -> None:
        """Write what etcd holds now into a file."""
        endpoint = f"--endpoints=https://{self.layout.loopback}:{ETCD_PORT}"
        run(str(self.programs["etcdctl"]), endpoint, *self._etcd_identity(), "snapshot", "save", str(file))

    def restore_snapshot(self, file: Path) -> None:
        """Make the cluster's objects those of a snapshot, as an administrator does after a loss."""
        for name in reversed(CONTROL_PLANE):
            self.daemons[name].stop()
        data = self.layout.folder / "etcd"
        shutil.rmtree(data)
        # Revisions go on above all that clients have seen, and what they watched counts as compacted: so that caches
        # are read anew.
        revisions = ("--bump-revision=1000000000", "--mark-compacted")
        run(str(self.programs["etcdutl"]), "snapshot", "restore", str(file), *restore_flags(self.layout), *revisions)
        self.start_control_plane(Progress())

    def _etcd_identity(self) -> tuple[str, ...]:
        pki = self.layout.pki
        return (f"--cacert={pki / 'etcd-ca.crt'}", f"--cert={pki / 'etcd.crt'}", f"--key={pki / 'etcd.key'}")

    def each_node(self, work: Callable[[Node], None]) -> None:
        """Do something for all nodes at once."""
        with ThreadPoolExecutor(max_workers=len(self.layout.nodes)) as pool:
            list(pool.map(work, self.layout.nodes))

    def wait_for_node(self, node: Node) -> None:
        """Return when a node is Ready."""
        ready = ("wait", "--for=condition=Ready", f"node/{node.name}", "--timeout=5s")
        wait_for(f"{node.name} Ready", lambda: self.kubectl.succeeds(*ready))

    def wait_for_deployments(self, deployments: Sequence[tuple[str, str]]) -> None:
        """Return when all of the Deployments, of namespace and name, are available."""
        for namespace, name in deployments:
            status = ("-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=5s")
            wait_for(f"{namespace}/{name} available", partial(self.kubectl.succeeds, *status))


def policy_enforcer(layout: Layout) -> Daemon:
    """Return the process that enforces NetworkPolicies on all nodes."""
    nodes = [
        text for node in layout.nodes for text in ("--node", node.name, str(node.network_handle), node.pod_network)
    ]
    module = ("-m", "e2e.cluster.policy_enforcer", f"--server={layout.api_url}", f"--pki={layout.pki}")
    return Daemon(
        name="policy-enforcer",
        argv=(sys.executable, *module, *nodes),
        record=layout.registration / "daemons" / "policy-enforcer.json",
        log=layout.logs / "policy-enforcer.log",
        environment={"PATH": PATH, "PYTHONPATH": str(SOURCES)},
    )


def down(layout: Layout, progress: Progress) -> None:
    """Remove everything that the cluster has on the machine, except its logs; it may be whole, or half of it gone."""
    with _held(layout, progress):
        with progress.step("daemons ended"):
            end_daemons(layout)
        if layout.with_nodes:
            with progress.step("containers, namespaces and cgroups removed"):
                cgroups.kill_group(layout.name)
                mounts.remove_mount_namespaces(layout)
                network.remove_network(layout)
                cgroups.remove_cgroups(layout)
                settings.restore(layout)
        with progress.step("files removed"):
            for name in ("etcd", "nodes", "pki"):
                shutil.rmtree(layout.folder / name, ignore_errors=True)
            for file in (layout.kubeconfig, layout.folder / "audit-policy.yaml"):
                file.unlink(missing_ok=True)
        registry.release(layout)


def end_daemons(layout: Layout) -> None:
    """End every process that was recorded; the control plane's core last, so that the others can say goodbye."""
    records = {record.stem: record for record in (layout.registration / "daemons").glob("*.json")}
    first = [record for name, record in records.items() if name not in STOPPED_LAST]
    if first:
        with ThreadPoolExecutor(max_workers=len(first)) as pool:
            list(pool.map(end, first))
    for name in STOPPED_LAST:
        if name in records:
            end(records[name])


def _answers(node: Node) -> bool:
    try:
        _ctr(node, "version")
    except HarnessError:
        return False
    return True


def _ctr(node: Node, *arguments: str) -> str:
    # Inside the node: an import unpacks by mounting, and has to see the node's own folders.
    return run(*mounts.entering(node), "ctr", f"--address={SOCKET}", "--namespace=k8s.io", *arguments)


@contextmanager
def _held(layout: Layout, progress: Progress) -> Iterator[None]:
    """Keep every other harness away from this cluster while it is changed."""
    with exclusive(layout.registry / f"{layout.slot}.lock", progress):
        if registry.find(layout.registry, layout.folder) != layout:
            raise HarnessError(f"the cluster in {layout.folder} was taken down meanwhile")
        yield

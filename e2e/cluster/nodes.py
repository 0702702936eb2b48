"""A node's programs and their configuration: containerd, kubelet, kube-proxy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.cgroups import ENTERED, group_folder
from e2e.cluster.files import write_changed
from e2e.cluster.layout import Node
from e2e.cluster.mounts import entering, inner
from e2e.cluster.processes import Daemon

SOCKET = "/run/containerd/containerd.sock"
# Plugins of Debian's containerd 1.6 that find nothing to work with here and would only fill the log.
UNUSED_PLUGINS = (
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
)
CONTAINERD = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = {unused}
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def node_daemons(node: Node, programs: Mapping[str, Path], path: str) -> dict[str, Daemon]:
    """Return the node's three daemons by name, in the order in which they are started."""
    configuration = node.folder / "configuration"
    pki = node.layout.pki
    labels = {"topology.kubernetes.io/region": node.region, "topology.kubernetes.io/zone": f"{node.region}a"}
    commands = {
        "containerd": ("containerd", f"--config={configuration / 'containerd.toml'}"),
        "kubelet": (
            str(programs["kubelet"]),
            f"--config={configuration / 'kubelet.yaml'}",
            f"--kubeconfig={pki / f'{node.name}.kubeconfig'}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--node-labels={','.join(f'{name}={value}' for name, value in labels.items())}",
        ),
        "kube-proxy": (str(programs["kube-proxy"]), f"--config={configuration / 'kube-proxy.yaml'}"),
    }
    return {name: _daemon(node, name, command, path) for name, command in commands.items()}


def _daemon(node: Node, name: str, command: tuple[str, ...], path: str) -> Daemon:
    full = f"{node.name}-{name}"
    return Daemon(
        name=full,
        argv=(*entering(node), *command),
        record=node.layout.registration / "daemons" / f"{full}.json",
        log=node.layout.logs / f"{full}.log",
        environment={"PATH": path, "HOME": "/root"},
        cgroups=tuple(group_folder(hierarchy, f"{node.cgroup}/system") for hierarchy in ENTERED),
    )


def write_node_configuration(node: Node, pause: str) -> None:
    """Write what the daemons read; `pause` is the image that holds a pod's namespaces."""
    folder = node.folder / "configuration"
    unused = json.dumps(UNUSED_PLUGINS)
    write_changed(folder / "containerd.toml", CONTAINERD.format(unused=unused, socket=SOCKET, pause=pause))
    write_changed(inner(node, "/etc/cni/net.d") / "10-pods.conflist", json.dumps(pod_network(node), indent=1))
    write_changed(folder / "kubelet.yaml", yaml.safe_dump(kubelet(node)))
    write_changed(folder / "kube-proxy.yaml", yaml.safe_dump(kube_proxy(node)))
    write_changed(folder / "resolv.conf", "")


def pod_network(node: Node) -> dict[str, Any]:
    """Return the CNI configuration: one bridge a node, addresses out of the node's own network."""
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": False,  # the nodes have routes to each other's pods
                "hairpinMode": True,  # a pod may reach itself by its Service
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.pod_network}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def kubelet(node: Node) -> dict[str, Any]:
    """Return the kubelet's configuration."""
    pki = node.layout.pki
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "failSwapOn": False,
        "oomScoreAdj": 0,  # a lower one would need a capability that containers lack
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "address": node.address,
        "healthzBindAddress": "127.0.0.1",
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"{node.name}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{node.name}.key"),
        "clusterDNS": [node.layout.dns_address],
        "clusterDomain": "cluster.local",
        "resolvConf": str(node.folder / "configuration" / "resolv.conf"),
        # The disk is the whole machine's: a node must not evict because something else fills it.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "maxPods": 110,
        "nodeStatusUpdateFrequency": "5s",
        "nodeLeaseDurationSeconds": 20,  # renewed every 5 s; the controller-manager waits 25
        "syncFrequency": "10s",
    }


def kube_proxy(node: Node) -> dict[str, Any]:
    """Return kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(node.layout.pki / "kube-proxy.kubeconfig")},
        "clusterCIDR": node.layout.pod_network,
        "hostnameOverride": node.name,
        "oomScoreAdj": 0,
        "bindAddress": node.address,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # The size of the connection table is the machine's, not a namespace's.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }

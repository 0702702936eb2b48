"""The control plane's programs with their flags: etcd, API server, controller-manager, scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from e2e.cluster.cgroups import control_plane_group
from e2e.cluster.files import write_changed
from e2e.cluster.layout import API_PORT, Layout
from e2e.cluster.processes import Daemon

ETCD_PORT, ETCD_PEER_PORT = 2379, 2380
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
# Seconds until a node that says nothing is NotReady (default 50), and until its pods are evicted (default 300): tests
# wait for both.
NODE_SILENCE = 25
EVICTION = 30

# Who did what, so that tests can ask which rights are used and which writes were accepted. Our own kinds with their
# contents; Secrets never.
AUDIT_POLICY: Mapping[str, object] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # Whether the API server is ready is asked all the time; of pods it is a right.
        {"level": "Metadata", "nonResourceURLs": ["/readyz"], "userGroups": ["system:serviceaccounts"]},
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*"]},
        {
            "level": "RequestResponse",
            "verbs": ["create", "update", "patch", "delete"],
            "resources": [{"group": "foedus.dev"}],
        },
        {"level": "Metadata"},
    ],
}


def control_plane(layout: Layout, programs: Mapping[str, Path], path: str) -> dict[str, Daemon]:
    """Return the four daemons by name, in the order in which they are started."""
    flags = {
        "etcd": _etcd(layout),
        "kube-apiserver": _api_server(layout),
        "kube-controller-manager": _controller_manager(layout),
        "kube-scheduler": _component(layout, "scheduler"),
    }
    return {
        name: Daemon(
            name=name,
            argv=(str(programs[name]), *(f"--{flag}={value}" for flag, value in flags[name].items())),
            record=layout.registration / "daemons" / f"{name}.json",
            log=layout.logs / f"{name}.log",
            environment={"PATH": path, "HOME": str(layout.folder)},
            cgroups=(control_plane_group(layout),) if layout.with_nodes else (),
        )
        for name in CONTROL_PLANE
    }


def write_configuration(layout: Layout, audit: Mapping[str, object]) -> None:
    """Write the files that the flags name."""
    write_changed(layout.folder / "audit-policy.yaml", yaml.safe_dump(dict(audit)))


def restore_flags(layout: Layout) -> tuple[str, ...]:
    """Return the flags of `etcdutl snapshot restore` that make a data folder which our etcd accepts."""
    etcd = _etcd(layout)
    names = ("name", "data-dir", "initial-cluster", "initial-advertise-peer-urls")
    return tuple(f"--{name}={etcd[name]}" for name in names)


def _etcd(layout: Layout) -> dict[str, object]:
    peers = f"http://{layout.loopback}:{ETCD_PEER_PORT}"
    clients = f"https://{layout.loopback}:{ETCD_PORT}"
    return {
        "name": "etcd",
        "data-dir": layout.folder / "etcd",
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"etcd={peers}",
        "client-cert-auth": "true",
        "trusted-ca-file": layout.pki / "etcd-ca.crt",
        "cert-file": layout.pki / "etcd.crt",
        "key-file": layout.pki / "etcd.key",
        "log-level": "warn",
    }


def _api_server(layout: Layout) -> dict[str, object]:
    pki = layout.pki
    return {
        "bind-address": layout.api_address,
        "advertise-address": layout.bridge_address,
        "secure-port": API_PORT,
        # Without nodes nobody is there to reach it by its Service, and a loopback address may not be an endpoint.
        "endpoint-reconciler-type": "lease" if layout.with_nodes else "none",
        "etcd-servers": f"https://{layout.loopback}:{ETCD_PORT}",
        "etcd-cafile": pki / "etcd-ca.crt",
        "etcd-certfile": pki / "etcd.crt",
        "etcd-keyfile": pki / "etcd.key",
        "tls-cert-file": pki / "apiserver.crt",
        "tls-private-key-file": pki / "apiserver.key",
        "tls-min-version": "VersionTLS13",
        "client-ca-file": pki / "ca.crt",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "default-not-ready-toleration-seconds": EVICTION,
        "default-unreachable-toleration-seconds": EVICTION,
        "allow-privileged": "true",  # whether a pod may be is Pod Security's matter
        "service-cluster-ip-range": layout.service_network,
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": pki / "service-accounts.pub",
        "service-account-signing-key-file": pki / "service-accounts.key",
        "kubelet-certificate-authority": pki / "ca.crt",
        "kubelet-client-certificate": pki / "apiserver-kubelet-client.crt",
        "kubelet-client-key": pki / "apiserver-kubelet-client.key",
        "kubelet-preferred-address-types": "InternalIP",
        **_aggregation(layout),
        "audit-policy-file": layout.folder / "audit-policy.yaml",
        "audit-log-path": layout.audit_log,
        "audit-log-maxsize": 256,  # megabytes, then a new file: all of them stay
        "profiling": "true",
    }


def _aggregation(layout: Layout) -> dict[str, object]:
    return {
        "requestheader-client-ca-file": layout.pki / "front-proxy-ca.crt",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": layout.pki / "front-proxy-client.crt",
        "proxy-client-key-file": layout.pki / "front-proxy-client.key",
        # The API server is outside all nodes' Service rules, but has routes to the pods.
        "enable-aggregator-routing": "true",
    }


def _controller_manager(layout: Layout) -> dict[str, object]:
    pki = layout.pki
    return {
        **_component(layout, "controller-manager"),
        "use-service-account-credentials": "true",
        "service-account-private-key-file": pki / "service-accounts.key",
        "root-ca-file": pki / "ca.crt",
        "cluster-signing-cert-file": pki / "ca.crt",
        "cluster-signing-key-file": pki / "ca.key",
        "cluster-cidr": layout.pod_network,
        "service-cluster-ip-range": layout.service_network,
        "allocate-node-cidrs": "false",  # the nodes' routes are laid before there are nodes
        "node-monitor-grace-period": f"{NODE_SILENCE}s",
        "horizontal-pod-autoscaler-sync-period": "5s",
    }


def _component(layout: Layout, user: str) -> dict[str, object]:
    kubeconfig = layout.pki / f"{user}.kubeconfig"
    return {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": layout.loopback,
        "leader-elect": "false",
        "profiling": "true",
    }

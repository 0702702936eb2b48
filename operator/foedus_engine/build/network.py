"""Who may talk to whom: silos connect out to the coordinator's Service, nothing connects to a silo, and no more.

Every pod of a job is shut in both directions; a role's edges open what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foedus_engine import names
from foedus_engine.build.metadata import Owner, build_labels, build_metadata

DNS_PORT = 53
# Where names are resolved, as every distribution labels it. A node-local cache has the node's own addresses: egress to
# one's own node is open with most network plugins, and otherwise the installation adds a policy.
DNS_PODS: Mapping[str, Any] = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}


def build_coordinator_service(owner: Owner) -> dict[str, Any]:
    """Return the Service in front of the coordinator."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(owner, names.coordinator(owner.name), names.COORDINATOR_ROLE),
        "spec": {
            "type": "ClusterIP",
            "selector": build_labels(owner.name, names.COORDINATOR_ROLE),
            "ports": [
                {
                    "name": "https",
                    "appProtocol": "https",
                    "protocol": "TCP",
                    "port": names.COORDINATOR_PORT,
                    "targetPort": names.COORDINATOR_PORT,
                }
            ],
        },
    }


def build_denial(owner: Owner) -> dict[str, Any]:
    """Return the NetworkPolicy that shuts every pod of the job."""
    pods = {names.JOB_LABEL: owner.name}
    return _policy(owner, names.denial(owner.name), "network", pods, {"policyTypes": ["Ingress", "Egress"]})


def build_coordinator_edges(owner: Owner) -> dict[str, Any]:
    """Return the NetworkPolicy that lets the job's silos reach the coordinator."""
    role = names.COORDINATOR_ROLE
    silos = {"podSelector": {"matchLabels": _role(owner, names.CLIENT_ROLE)}}
    ingress = [{"from": [silos], "ports": [_tcp(names.COORDINATOR_PORT)]}]
    name = names.edges(owner.name, role)
    return _policy(owner, name, role, _role(owner, role), {"policyTypes": ["Ingress"], "ingress": ingress})


def build_client_edges(owner: Owner) -> dict[str, Any]:
    """Return the NetworkPolicy that lets silos reach the coordinator, and resolve its name."""
    role = names.CLIENT_ROLE
    coordinator = {"podSelector": {"matchLabels": _role(owner, names.COORDINATOR_ROLE)}}
    egress = [
        {"to": [coordinator], "ports": [_tcp(names.COORDINATOR_PORT)]},
        {"to": [dict(DNS_PODS)], "ports": [{"protocol": "UDP", "port": DNS_PORT}, _tcp(DNS_PORT)]},
    ]
    name = names.edges(owner.name, role)
    return _policy(owner, name, role, _role(owner, role), {"policyTypes": ["Egress"], "egress": egress})


def _policy(
    owner: Owner, name: str, component: str, pods: Mapping[str, str], spec: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": build_metadata(owner, name, component),
        "spec": {"podSelector": {"matchLabels": dict(pods)}, **spec},
    }


def _role(owner: Owner, role: str) -> dict[str, str]:
    return {names.JOB_LABEL: owner.name, names.COMPONENT_LABEL: role}


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}

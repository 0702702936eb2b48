"""Who may talk to whom: silos and the operator connect to the coordinator, nothing connects to a silo, and no more.

Every pod of a job is shut in both directions; a role's edges open what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foedus_contract.run_spec import LedgerService
from foedus_engine import names
from foedus_engine.build.metadata import Owner, build_labels, build_metadata
from foedus_engine.build.pods import Settings

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


def build_coordinator_edges(owner: Owner, settings: Settings) -> dict[str, Any]:
    """Return the NetworkPolicy that lets silos and operator reach the coordinator, and it the ledger service."""
    role = names.COORDINATOR_ROLE
    silos = {"podSelector": {"matchLabels": _role(owner, names.CLIENT_ROLE)}}
    operator = [_of_installation(settings.ledger, names.OPERATOR_PODS)] if settings.ledger else []
    ingress = [{"from": [silos, *operator], "ports": [_tcp(names.COORDINATOR_PORT)]}]
    egress = [*_to_ledger(settings.ledger), _to_dns()] if settings.ledger else []
    spec = {"policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": egress}
    return _policy(owner, names.edges(owner.name, role), role, _role(owner, role), spec)


def build_client_edges(owner: Owner, settings: Settings) -> dict[str, Any]:
    """Return the NetworkPolicy that lets silos reach coordinator and ledger service, and resolve their names."""
    role = names.CLIENT_ROLE
    coordinator = {"podSelector": {"matchLabels": _role(owner, names.COORDINATOR_ROLE)}}
    egress = [
        {"to": [coordinator], "ports": [_tcp(names.COORDINATOR_PORT)]},
        *(_to_ledger(settings.ledger) if settings.ledger else ()),
        _to_dns(),
    ]
    name = names.edges(owner.name, role)
    return _policy(owner, name, role, _role(owner, role), {"policyTypes": ["Egress"], "egress": egress})


def _to_ledger(service: LedgerService) -> list[dict[str, Any]]:
    return [{"to": [_of_installation(service, names.LEDGER_PODS)], "ports": [_tcp(service.port)]}]


def _of_installation(service: LedgerService, pods: Mapping[str, str]) -> dict[str, Any]:
    """Return pods beside the ledger service; its host is `service.namespace.svc`, as the chart has it."""
    _, _, place = service.host.partition(".")
    namespace = {"matchLabels": {"kubernetes.io/metadata.name": place.partition(".")[0]}}
    return {"namespaceSelector": namespace, "podSelector": {"matchLabels": dict(pods)}}


def _to_dns() -> dict[str, Any]:
    return {"to": [dict(DNS_PODS)], "ports": [{"protocol": "UDP", "port": DNS_PORT}, _tcp(DNS_PORT)]}


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

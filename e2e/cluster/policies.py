"""NetworkPolicies as nftables rules of one node. Pure: objects as the API server shows them in, rules out.

An address of the node's pods that the API server has not yet told is closed both ways: a new pod is never open before
its policies hold, and cut off until it is known. Replies to what was permitted pass; each packet of the asking side is
judged anew, so a new policy also cuts connections that were open before it.

Source of the semantics: the Kubernetes documentation's "Network Policies" and the API reference of
networking.k8s.io/v1. Traffic between a pod and its own node is always allowed there, and is not seen here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

TABLE = "foedus_policies"
Direction = Literal["ingress", "egress"]
Object = Mapping[str, Any]
SIDES: tuple[tuple[Direction, str], ...] = (("egress", "saddr"), ("ingress", "daddr"))
EVERY_PORT: tuple[Object, ...] = ({},)


@dataclass(frozen=True)
class Pod:
    """What policies need to know of a pod with an address of its own."""

    namespace: str
    name: str
    node: str
    address: str
    labels: Mapping[str, str]
    ports: Mapping[tuple[str, str], int]  # (protocol, name) -> number


@dataclass(frozen=True)
class World:
    """Everything that the rules depend on."""

    pods: tuple[Pod, ...]
    namespaces: Mapping[str, Mapping[str, str]]  # name -> labels
    policies: tuple[Object, ...]


def gather_world(pods: Iterable[Object], namespaces: Iterable[Object], policies: Iterable[Object]) -> World:
    """Return the world that three lists of the API server describe."""
    return World(
        pods=tuple(sorted((_pod(pod) for pod in pods if _has_address(pod)), key=lambda pod: (pod.namespace, pod.name))),
        namespaces={one["metadata"]["name"]: one["metadata"].get("labels", {}) for one in namespaces},
        policies=tuple(sorted(policies, key=lambda one: (one["metadata"]["namespace"], one["metadata"]["name"]))),
    )


def build_rules(node: str, pod_network: str, world: World) -> str:
    """Return the input of `nft -f` that replaces the node's rules in one transaction."""
    local = [pod for pod in world.pods if pod.node == node]
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    jumps: list[str] = []
    for pod in local:
        for direction, field in SIDES:
            rules = _chain(pod, direction, world)
            if rules is not None:
                chain = f"{direction}-{pod.address.replace('.', '-')}"
                lines += [
                    f'  chain {chain} {{ comment "{pod.namespace}/{pod.name}";',
                    *(f"    {rule}" for rule in rules),
                    "  }",
                ]
                jumps.append(f"    ip {field} {pod.address} jump {chain}")
    lines += ["  chain forward {", "    type filter hook forward priority -5; policy accept;"]
    lines += ["    ct direction reply accept", "    ct state related accept"]
    lines += [*(f"    ip {field} {pod_network} {_none_of(field, local)}counter drop" for field in ("saddr", "daddr"))]
    return "\n".join([*lines, *jumps, "  }", "}", ""])


def _none_of(field: str, pods: Sequence[Pod]) -> str:
    return f"ip {field} != {{ {', '.join(pod.address for pod in pods)} }} " if pods else ""


def _chain(pod: Pod, direction: Direction, world: World) -> list[str] | None:
    """Return the rules of the policies that isolate a pod in a direction, or None when none does."""
    isolating = [policy for policy in world.policies if _isolates(policy, pod, direction)]
    if not isolating:
        return None
    other = "saddr" if direction == "ingress" else "daddr"
    rules = [f"ip {other} {pod.address} return"]  # no policy keeps a pod from itself
    for policy in isolating:
        for rule in policy["spec"].get(direction) or ():
            rules += [f"{text} return" for text in _permitted(rule, pod, policy, direction, world)]
    return [*rules, "counter drop"]


def _isolates(policy: Object, pod: Pod, direction: Direction) -> bool:
    spec = policy["spec"]
    types = spec.get("policyTypes") or (["Ingress", "Egress"] if "egress" in spec else ["Ingress"])
    return (
        policy["metadata"]["namespace"] == pod.namespace
        and direction in [kind.lower() for kind in types]
        and matches(spec.get("podSelector"), pod.labels)
    )


def _permitted(rule: Object, pod: Pod, policy: Object, direction: Direction, world: World) -> Iterable[str]:
    """Yield one nftables match for each pair of peers and port that a policy's rule permits."""
    field, key = ("saddr", "from") if direction == "ingress" else ("daddr", "to")
    peers = rule.get(key)
    chosen = [one for one in world.pods if any(_selects(peer, one, policy, world) for peer in peers or ())]
    for port in rule.get("ports") or EVERY_PORT:
        named = isinstance(port.get("port"), str)
        if direction == "egress" and named:
            # The name means each target's own number.
            targets = list(world.pods) if not peers else chosen
            yield from (f"ip daddr {target.address} {match}" for target in targets if (match := _port(port, target)))
            continue
        match = _port(port, pod)
        if match is None:
            continue
        if not peers:
            yield match
            continue
        if chosen:
            yield f"ip {field} {{ {', '.join(one.address for one in chosen)} }} {match}"
        yield from (f"{block} {match}" for peer in peers if (block := _block(peer, field)))


def _selects(peer: Object, pod: Pod, policy: Object, world: World) -> bool:
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        in_namespace = matches(peer["namespaceSelector"], world.namespaces.get(pod.namespace, {}))
    else:
        in_namespace = pod.namespace == policy["metadata"]["namespace"]
    return in_namespace and matches(peer.get("podSelector"), pod.labels)


def _block(peer: Object, field: str) -> str | None:
    block = peer.get("ipBlock")
    if block is None or ipaddress.ip_network(block["cidr"], strict=False).version != 4:
        return None
    excepted = block.get("except") or ()
    return f"ip {field} {block['cidr']}" + (f" ip {field} != {{ {', '.join(excepted)} }}" if excepted else "")


def _port(port: Object, target: Pod) -> str | None:
    """Return the match for a port, or None when the target has no port of that name. No port at all is every port."""
    if not port:
        return "meta nfproto ipv4"
    protocol, number = port.get("protocol", "TCP"), port.get("port")
    if number is None:
        return f"meta l4proto {protocol.lower()}"
    if isinstance(number, str):
        number = target.ports.get((protocol, number))
        if number is None:
            return None
    last = f"-{port['endPort']}" if "endPort" in port else ""
    return f"{protocol.lower()} dport {number}{last}"


def matches(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """Say whether a label selector selects an object with these labels; an empty one selects everything."""
    selector = selector or {}
    exact = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return exact and all(_holds(expression, labels) for expression in selector.get("matchExpressions") or ())


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(f"unknown operator in a label selector: {expression['operator']}")


def _has_address(pod: Object) -> bool:
    ended = pod["status"].get("phase") in ("Succeeded", "Failed")
    return not ended and not pod["spec"].get("hostNetwork") and bool(pod["status"].get("podIP"))


def _pod(pod: Object) -> Pod:
    containers = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]
    ports = [port for container in containers for port in container.get("ports") or () if "name" in port]
    return Pod(
        namespace=pod["metadata"]["namespace"],
        name=pod["metadata"]["name"],
        node=pod["spec"]["nodeName"],
        address=pod["status"]["podIP"],
        labels=pod["metadata"].get("labels", {}),
        ports={(port.get("protocol", "TCP"), port["name"]): port["containerPort"] for port in ports},
    )

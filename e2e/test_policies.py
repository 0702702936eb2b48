"""NetworkPolicies as nftables rules: the whole text for small worlds, written out by hand from the API reference."""

import pytest

from e2e.cluster.policies import build_rules, gather_world, matches

NETWORK = "10.208.65.0/24"


def pod(name, address, node="node1", namespace="demo", labels=None, ports=(), **status):
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {"app": name}},
        "spec": {"nodeName": node, "containers": [{"ports": list(ports)}]},
        "status": {"phase": "Running", "podIP": address, **status},
    }


def policy(spec, namespace="demo"):
    return {"metadata": {"name": "one", "namespace": namespace}, "spec": spec}


PODS = (
    pod("web", "10.208.65.2", ports=[{"name": "http", "containerPort": 8080}]),
    pod("client", "10.208.65.3"),
    pod("far", "10.208.66.2", node="node2", ports=[{"name": "http", "containerPort": 9090}]),
    pod("other", "10.208.66.3", node="node2", namespace="other", labels={"app": "client"}),
)
NAMESPACES = tuple({"metadata": {"name": name, "labels": {"team": name}}} for name in ("demo", "other"))


def chain(spec, name):
    """Return the rules of one chain on node1, or None when there is no such chain."""
    text = build_rules("node1", NETWORK, gather_world(PODS, NAMESPACES, [policy(spec)]))
    _, found, rest = text.partition(f"  chain {name} {{")
    return [line.strip() for line in rest.partition("\n  }")[0].splitlines()[1:]] if found else None


def ingress(*rules, selector=None):
    return {
        "podSelector": selector or {"matchLabels": {"app": "web"}},
        "policyTypes": ["Ingress"],
        "ingress": list(rules),
    }


def egress(*rules):
    return {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"], "egress": list(rules)}


ITSELF = "ip saddr 10.208.65.2 return"
INGRESS = [
    ("nothing", [], []),
    ("everything", [{}], ["meta nfproto ipv4 return"]),
    ("a port for all", [{"ports": [{"port": 80}]}], ["tcp dport 80 return"]),
    ("a range", [{"ports": [{"protocol": "UDP", "port": 80, "endPort": 90}]}], ["udp dport 80-90 return"]),
    ("a named port", [{"ports": [{"port": "http"}]}], ["tcp dport 8080 return"]),
    ("a name that the pod does not have", [{"ports": [{"port": "grpc"}]}], []),
    (
        "pods of the policy's namespace",
        [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}],
        ["ip saddr { 10.208.65.3 } meta nfproto ipv4 return"],
    ),
    (
        "pods of chosen namespaces",
        [{"from": [{"namespaceSelector": {"matchLabels": {"team": "other"}}}], "ports": [{"port": 80}]}],
        ["ip saddr { 10.208.66.3 } tcp dport 80 return"],
    ),
    (
        "both selectors in one peer mean both",
        [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "client"}}}]}],
        ["ip saddr { 10.208.65.3, 10.208.66.3 } meta nfproto ipv4 return"],
    ),
    ("peers that nobody is", [{"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]}], []),
    (
        "a block with a hole",
        [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
        ["ip saddr 10.0.0.0/8 ip saddr != { 10.1.0.0/16 } meta nfproto ipv4 return"],
    ),
    ("a block of IPv6", [{"from": [{"ipBlock": {"cidr": "fd00::/8"}}]}], []),
]


@pytest.mark.parametrize(("rules", "want"), [row[1:] for row in INGRESS], ids=[row[0] for row in INGRESS])
def test_ingress(rules, want):
    assert chain(ingress(*rules), "ingress-10-208-65-2") == [ITSELF, *want, "counter drop"]


def test_egress_to_a_named_port_means_each_targets_own_number():
    rules = chain(egress({"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}), "egress-10-208-65-2")
    assert rules == [
        "ip daddr 10.208.65.2 return",
        "ip daddr 10.208.66.2 tcp dport 9090 return",
        "ip daddr 10.208.65.2 tcp dport 8080 return",
        "counter drop",
    ]


def test_egress_to_an_address_and_a_port():
    rules = chain(
        egress({"to": [{"ipBlock": {"cidr": "10.208.0.1/32"}}], "ports": [{"port": 6443}]}), "egress-10-208-65-2"
    )
    assert rules == ["ip daddr 10.208.65.2 return", "ip daddr 10.208.0.1/32 tcp dport 6443 return", "counter drop"]


@pytest.mark.parametrize(
    ("spec", "isolated"),
    [
        ({"podSelector": {}}, {"ingress"}),
        ({"podSelector": {}, "egress": []}, {"ingress", "egress"}),
        ({"podSelector": {}, "policyTypes": ["Egress"]}, {"egress"}),
        ({"podSelector": {"matchLabels": {"app": "client"}}}, set()),
    ],
)
def test_directions_that_a_policy_isolates(spec, isolated):
    assert {side for side in ("ingress", "egress") if chain(spec, f"{side}-10-208-65-2")} == isolated


def test_policies_add_up():
    first, second = ingress({"ports": [{"port": 80}]}), ingress({"ports": [{"port": 81}]})
    text = build_rules("node1", NETWORK, gather_world(PODS, NAMESPACES, [policy(first), policy(second)]))
    assert "    tcp dport 80 return\n    tcp dport 81 return\n    counter drop\n" in text


def test_the_forward_chain_closes_what_is_not_known_and_jumps_for_its_own_pods_only():
    world = gather_world(PODS, NAMESPACES, [policy(ingress(selector={"matchExpressions": []}))])
    assert build_rules("node1", NETWORK, world).partition("  chain forward {\n")[2] == (
        "    type filter hook forward priority -5; policy accept;\n"
        "    ct direction reply accept\n"
        "    ct state related accept\n"
        "    ip saddr 10.208.65.0/24 ip saddr != { 10.208.65.3, 10.208.65.2 } counter drop\n"
        "    ip daddr 10.208.65.0/24 ip daddr != { 10.208.65.3, 10.208.65.2 } counter drop\n"
        "    ip daddr 10.208.65.3 jump ingress-10-208-65-3\n"
        "    ip daddr 10.208.65.2 jump ingress-10-208-65-2\n"
        "  }\n"
        "}\n"
    )


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_an_ended_pods_address_is_nobodys(phase):
    assert gather_world([pod("done", "10.208.65.9", phase=phase)], NAMESPACES, []).pods == ()


LABELS = {"app": "web", "tier": "front"}


@pytest.mark.parametrize(
    ("expression", "want"),
    [
        (("app", "In", ["web", "db"]), True),
        (("app", "In", ["db"]), False),
        (("zone", "In", ["a"]), False),
        (("app", "NotIn", ["db"]), True),
        (("app", "NotIn", ["web"]), False),
        (("zone", "NotIn", ["a"]), True),
        (("app", "Exists", []), True),
        (("zone", "Exists", []), False),
        (("app", "DoesNotExist", []), False),
        (("zone", "DoesNotExist", []), True),
    ],
)
def test_label_expressions(expression, want):
    key, operator, values = expression
    assert matches({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}, LABELS) is want

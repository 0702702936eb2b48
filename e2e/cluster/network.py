"""The nodes' network: a bridge, and for each node a namespace with a cable to it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster.commands import run, run_quietly
from e2e.cluster.layout import Layout, Node

METADATA = "169.254.169.254"  # of the large clouds alike


def make_network(layout: Layout) -> None:
    """Lay the bridge, and to each node a cable, addresses and routes."""
    if not Path(f"/sys/class/net/{layout.bridge}").exists():
        run("ip", "link", "add", layout.bridge, "type", "bridge")
    run("ip", "address", "replace", f"{layout.bridge_address}/24", "dev", layout.bridge)
    run("ip", "link", "set", layout.bridge, "up")
    for node in layout.nodes:
        if not node.network_handle.exists():
            run("ip", "netns", "add", node.namespace)
        _connect(node)
        run("ip", "route", "replace", node.pod_network, "via", node.address)


def _connect(node: Node) -> None:
    layout = node.layout
    inside = ("ip", "-n", node.namespace)
    if not Path(f"/sys/class/net/{node.link}").exists():
        run("ip", "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", node.namespace)
    run("ip", "link", "set", node.link, "master", layout.bridge, "up")
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "address", "replace", f"{node.address}/24", "dev", "eth0")
    run(*inside, "link", "set", "eth0", "up")
    run(*inside, "route", "replace", "default", "via", layout.bridge_address)
    for other in layout.nodes:
        if other != node:
            run(*inside, "route", "replace", other.pod_network, "via", other.address)
    # Traffic between two pods of a node crosses only a bridge; without the second setting neither Service rules nor
    # policies would see it. Both belong to the namespace.
    run(
        "ip",
        "netns",
        "exec",
        node.namespace,
        "sysctl",
        "-qw",
        "net.ipv4.ip_forward=1",
        "net.bridge.bridge-nf-call-iptables=1",
    )


def cut(node: Node) -> None:
    """Pull the node's cable."""
    run("ip", "link", "set", node.link, "down")


def mend(node: Node) -> None:
    """Put the node's cable back."""
    run("ip", "link", "set", node.link, "up")


def remove_network(layout: Layout) -> None:
    """Remove namespaces, cables and the bridge; routes go with them."""
    for node in layout.nodes:
        run_quietly("ip", "link", "delete", node.link)
        run_quietly("ip", "netns", "delete", node.namespace)
    run_quietly("ip", "link", "delete", layout.bridge)


@contextmanager
def metadata_server(layout: Layout) -> Iterator[str]:
    """Yield the address at which clouds tell a machine's credentials, with a server there; afterwards it is gone.

    It is a machine of its own beside the nodes, on their bridge: for no pod is it its own node.
    """
    name, place = f"{layout.name}-metadata", f"{layout.prefix}.0.250"
    link, inside = f"fe{layout.slot}md", ("ip", "-n", name)
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", link, "master", layout.bridge, "up")
        for address, device in ((f"{place}/24", "eth0"), (f"{METADATA}/32", "lo")):
            run(*inside, "address", "add", address, "dev", device)
            run(*inside, "link", "set", device, "up")
        run(*inside, "route", "add", "default", "via", layout.bridge_address)
        for node in layout.nodes:
            run("ip", "-n", node.namespace, "route", "replace", f"{METADATA}/32", "via", place)
        serve = ("ip", "netns", "exec", name, "busybox", "nc", "-ll", "-p", "80", "-e", "echo", "secret")
        with subprocess.Popen(serve) as server:
            try:
                yield METADATA
            finally:
                server.kill()
    finally:
        for node in layout.nodes:
            run_quietly("ip", "-n", node.namespace, "route", "delete", f"{METADATA}/32")
        run_quietly("ip", "link", "delete", link)
        run_quietly("ip", "netns", "delete", name)

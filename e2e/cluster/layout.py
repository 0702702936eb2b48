"""Where everything of one cluster is: names, addresses and paths, all worked out from a slot number and a folder.

Clusters on one machine differ in their slot, and everything that the machine has only once (addresses, interfaces,
namespaces, cgroups) carries it. Ports are therefore the usual ones: each cluster has addresses of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.errors import HarnessError

SLOTS = range(8)
REGISTRY = Path("/run/foedus-e2e")
# The second octets from which slots count. 10.208.0.0/13 and 127.208.0.0/13 then hold all eight clusters.
FIRST_NETWORK = 208
REGIONS = ("eu-west-1", "us-east-1", "ap-southeast-1")
API_PORT = 6443


@dataclass(frozen=True)
class Node:
    """One node: its number from 1, its name, the region it stands for, and what belongs to it on the machine."""

    layout: Layout
    number: int

    @property
    def name(self) -> str:
        """The node's name in Kubernetes."""
        return f"node{self.number}"

    @property
    def region(self) -> str:
        """The value of the well-known region label."""
        return REGIONS[self.number - 1]

    @property
    def address(self) -> str:
        """The node's address on the bridge."""
        return f"{self.layout.prefix}.0.{10 + self.number}"

    @property
    def pod_network(self) -> str:
        """The network of the node's pods."""
        return f"{self.layout.prefix}.{64 + self.number}.0/24"

    @property
    def namespace(self) -> str:
        """The name of the node's network namespace."""
        return f"{self.layout.name}-{self.name}"

    @property
    def network_handle(self) -> Path:
        """The file that holds the network namespace open."""
        return Path("/run/netns") / self.namespace

    @property
    def mount_handle(self) -> Path:
        """The file that holds the mount namespace open."""
        return self.layout.registration / "mounts" / self.name

    @property
    def link(self) -> str:
        """The machine's end of the node's cable; an interface's name has at most 15 characters."""
        return f"fe{self.layout.slot}n{self.number}"

    @property
    def cgroup(self) -> str:
        """The node's cgroup, below which its pods lie; its own daemons lie in `system` below it."""
        return f"/{self.layout.name}/{self.name}"

    @property
    def folder(self) -> Path:
        """The node's files: its configuration, and what its private mounts show under the standard paths."""
        return self.layout.folder / "nodes" / self.name


@dataclass(frozen=True)
class Layout:
    """A cluster's slot, its data folder, whether it has nodes, and where its addresses begin."""

    slot: int
    folder: Path
    with_nodes: bool = True
    first_network: int = FIRST_NETWORK
    registry: Path = REGISTRY

    def __post_init__(self) -> None:
        """Refuse what would leave the range of private addresses, or a name that another cluster could have."""
        if self.slot not in SLOTS:
            raise HarnessError(f"slot {self.slot} is not one of 0 to {SLOTS[-1]}")
        if not 0 <= self.network <= 255:
            raise HarnessError(f"10.{self.network}.0.0/16 is not a network")
        if not self.folder.is_absolute():
            raise HarnessError(f"{self.folder} is not an absolute path")

    @property
    def network(self) -> int:
        """The second octet of all the cluster's addresses."""
        return self.first_network + self.slot

    @property
    def name(self) -> str:
        """What the cluster's namespaces and cgroups are called, or begin with."""
        return f"foedus-e2e-{self.slot}"

    @property
    def registration(self) -> Path:
        """The folder that says that this slot is taken, by which cluster, and what it started."""
        return self.registry / str(self.slot)

    @property
    def prefix(self) -> str:
        """The first two octets of the addresses of nodes, pods and Services."""
        return f"10.{self.network}"

    @property
    def loopback(self) -> str:
        """The address of what only the machine itself talks to: etcd, scheduler, controller-manager."""
        return f"127.{self.network}.0.1"

    @property
    def bridge(self) -> str:
        """The bridge that the nodes' cables end at."""
        return f"fe{self.slot}br"

    @property
    def bridge_address(self) -> str:
        """The machine's own address on the bridge."""
        return f"{self.prefix}.0.1"

    @property
    def api_address(self) -> str:
        """Where the API server listens. Without nodes there is no bridge, so on the loopback interface."""
        return self.bridge_address if self.with_nodes else self.loopback

    @property
    def api_url(self) -> str:
        """The API server's address as clients write it."""
        return f"https://{self.api_address}:{API_PORT}"

    @property
    def pod_network(self) -> str:
        """All pods' network."""
        return f"{self.prefix}.64.0/18"

    @property
    def service_network(self) -> str:
        """All Services' network."""
        return f"{self.prefix}.128.0/17"

    @property
    def api_service_address(self) -> str:
        """The first address of the Services' network, which Kubernetes gives to itself."""
        return f"{self.prefix}.128.1"

    @property
    def dns_address(self) -> str:
        """The cluster's DNS Service."""
        return f"{self.prefix}.128.10"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """One node a region, or none."""
        return tuple(Node(self, number) for number in range(1, len(REGIONS) + 1)) if self.with_nodes else ()

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.folder / "pki"

    @property
    def logs(self) -> Path:
        """One log a daemon, and the API server's audit log. They outlive the cluster."""
        return self.folder / "logs"

    @property
    def audit_log(self) -> Path:
        """Every request that the API server answered."""
        return self.logs / "audit.log"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {**asdict(self), "folder": str(self.folder), "registry": str(self.registry)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Layout:
        """Return the layout that was written by `to_json`."""
        return cls(**{**value, "folder": Path(value["folder"]), "registry": Path(value["registry"])})

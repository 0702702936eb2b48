"""The nodes' cgroups (v1). All lie below one that has the cluster's name, so what is in there is ours."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from e2e.cluster.errors import HarnessError, UnsuitableMachine
from e2e.cluster.layout import Layout, Node

CGROUP_ROOT = Path("/sys/fs/cgroup")
# All hierarchies: the kubelet wants its root group in every one of them.
HIERARCHIES = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
# Those that a node's daemons enter.
ENTERED = ("pids", "memory", "cpu", "cpuacct")

# The control plane's weight, where a node has 1024. A group weighs as much as twenty processes that are nice: beside it
# the API server of such a harness would not answer while pods compute, which on a real cluster are on other machines.
CONTROL_PLANE_SHARES = 4096


def check_machine() -> None:
    """Refuse a machine on which the nodes cannot work, and say what can."""
    cure = "E2E_CLUSTER=kind and =existing work elsewhere"
    check_user()
    absent = [name for name in HIERARCHIES if not (CGROUP_ROOT / name / "cgroup.procs").exists()]
    if absent:
        raise UnsuitableMachine(f"no cgroup v1 hierarchy for {', '.join(absent)} under {CGROUP_ROOT}; {cure}")


def check_user() -> None:
    """Refuse who may not start a cluster: where it is written down what runs, only root writes."""
    if os.geteuid() != 0:
        raise UnsuitableMachine("only root starts a cluster; E2E_CLUSTER=kind and =existing work for others")


def group_folder(hierarchy: str, group: str) -> Path:
    """Return where a hierarchy shows a group."""
    return CGROUP_ROOT / hierarchy / group.strip("/")


def control_plane_group(layout: Layout) -> Path:
    """Return the group that the control plane's processes enter."""
    return group_folder("cpu", f"{layout.name}/control-plane")


def make_control_plane_group(layout: Layout) -> None:
    """Make that group, with its weight."""
    folder = control_plane_group(layout)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.shares").write_text(str(CONTROL_PLANE_SHARES))


def make_cgroups(node: Node) -> None:
    """Make the node's groups in every hierarchy.

    Pods go below the node's group, the daemons and containerd's shims into `system`: what the node leaves behind is
    found there and needs no search by name.
    """
    for hierarchy in HIERARCHIES:
        for group in (node.layout.name, node.cgroup, f"{node.cgroup}/system"):
            folder = group_folder(hierarchy, group)
            folder.mkdir(exist_ok=True)
            if hierarchy == "cpuset":  # a group without processors and memory takes nobody in
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (folder / file).write_text((folder.parent / file).read_text())


def kill_group(group: str, seconds: float = 20.0) -> None:
    """Kill all processes of a group that the harness made: containers, their shims, what they started."""
    root = group_folder("pids", group)
    deadline = time.monotonic() + seconds
    while members := _members(root):
        if time.monotonic() > deadline:
            raise HarnessError(f"{len(members)} processes in the cgroup {group} do not end, not even by SIGKILL")
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _members(root: Path) -> list[int]:
    found: list[int] = []
    for folder, _, _ in os.walk(root):
        with suppress(OSError):
            found += [int(line) for line in (Path(folder) / "cgroup.procs").read_text().split()]
    return found


def remove_cgroups(layout: Layout) -> None:
    """Remove the cluster's empty groups."""
    for hierarchy in HIERARCHIES:
        root = group_folder(hierarchy, layout.name)
        for folder, _, _ in os.walk(root, topdown=False):
            with suppress(FileNotFoundError):
                os.rmdir(folder)

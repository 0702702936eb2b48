"""The nodes' mount namespaces."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from e2e.cluster.commands import run, run_quietly
from e2e.cluster.layout import Layout, Node

# Folders of which every node has its own, shown under the standard path inside its mount namespace: so that all
# programs keep their defaults and three kubelets do not meet.
PRIVATE_FOLDERS = (
    "/var/lib/containerd",
    "/run/containerd",
    "/var/lib/kubelet",
    "/var/log/pods",
    "/var/log/containers",
    "/var/lib/cni",
    "/etc/cni/net.d",
    "/run/netns",
    "/opt/local-path-provisioner",
)


def make_mount_namespace(node: Node) -> None:
    """Make the namespace in which the node sees its own folders under the standard paths, and pin it to a file."""
    handles = node.mount_handle.parent
    handles.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(handles):
        # A file that pins a mount namespace has to lie on a private mount.
        run("mount", "--bind", str(handles), str(handles))
        run("mount", "--make-private", str(handles))
    if os.path.ismount(node.mount_handle):
        return
    node.mount_handle.touch()
    for folder in PRIVATE_FOLDERS:
        Path(folder).mkdir(parents=True, exist_ok=True)
        inner(node, folder).mkdir(parents=True, exist_ok=True)
    script = 'files=$1; shift; for folder; do mount --bind "$files$folder" "$folder"; done; mount --make-rshared /'
    arguments = [str(node.folder), *PRIVATE_FOLDERS]
    run("unshare", f"--mount={node.mount_handle}", "--propagation=private", "sh", "-ec", script, "sh", *arguments)


def inner(node: Node, path: str) -> Path:
    """Return where on the machine lies what the node sees under one of its private paths."""
    return node.folder / path.lstrip("/")


def entering(node: Node) -> tuple[str, ...]:
    """Return the command that runs what follows it as if on the node.

    `ip netns exec` would do for the network, but mounts a new /sys, in which there are no cgroups.
    """
    return ("nsenter", f"--net={node.network_handle}", f"--mount={node.mount_handle}", "--")


def remove_mount_namespaces(layout: Layout) -> None:
    """Let go of the namespaces; what is mounted in one goes when nobody is in it any more."""
    for node in layout.nodes:
        run_quietly("umount", str(node.mount_handle))
    handles = layout.registration / "mounts"
    run_quietly("umount", str(handles))
    shutil.rmtree(handles, ignore_errors=True)

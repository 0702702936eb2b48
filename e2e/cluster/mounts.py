"""The nodes' mount namespaces."""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e.cluster.commands import run
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
    "/var/tmp/foedus-e2e",  # what tests put on every node
)


def make_handles(layout: Layout) -> None:
    """Make the folder for the files that hold the namespaces open: such a file has to lie on a private mount."""
    handles = _handles(layout)
    handles.mkdir(parents=True, exist_ok=True)
    if not _is_mounted(handles):
        run("mount", "--bind", str(handles), str(handles))
        run("mount", "--make-private", str(handles))


def make_mount_namespace(node: Node) -> None:
    """Make the namespace in which the node sees its own folders under the standard paths, and pin it to a file."""
    if _is_mounted(node.mount_handle):
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
    for folder in (*(node.mount_handle for node in layout.nodes), _handles(layout)):
        while _is_mounted(folder):
            run("umount", str(folder))
    shutil.rmtree(_handles(layout), ignore_errors=True)


def _is_mounted(path: Path) -> bool:
    # `os.path.ismount` does not see a folder that is mounted on itself.
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _handles(layout: Layout) -> Path:
    return layout.registration / "mounts"

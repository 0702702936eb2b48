"""Made-up GPUs: what the scheduler believes a node has, for tests of scheduling. No container gets a device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from e2e.cluster.errors import HarnessError
from e2e.cluster.kubectl import Kubectl, wait_for

GPU = "nvidia.com/gpu"


@contextmanager
def lend_gpus(kubectl: Kubectl, node: str, count: int = 1) -> Iterator[None]:
    """Let a node have `count` GPUs inside the block; afterwards it has none again.

    As documented for extended resources that no device plugin offers: the capacity is written into the node's status,
    and the kubelet keeps what it finds there.
    """
    if GPU in _allocatable(kubectl, node):
        raise HarnessError(f"{node} has {GPU} of its own, or borrowed ones")
    _offer(kubectl, node, str(count))
    try:
        yield
    finally:
        _offer(kubectl, node, None)


def _offer(kubectl: Kubectl, node: str, count: str | None) -> None:
    status = {"capacity": {GPU: count}, "allocatable": {GPU: count}}
    patch = json.dumps({"status": status})
    kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={patch}")
    # A kubelet that was about to report may undo the second half; it makes it good from the first.
    wait_for(f"{GPU} on {node}: {count}", lambda: _allocatable(kubectl, node).get(GPU) == count)


def _allocatable(kubectl: Kubectl, node: str) -> dict[str, str]:
    return dict(kubectl.get("node", node)["status"]["allocatable"])

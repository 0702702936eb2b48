"""Kernel settings, which all clusters of the machine share: noted before the first one, put back after the last."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster import registry
from e2e.cluster.files import write_atomically
from e2e.cluster.layout import Layout

SETTINGS = {
    "net/ipv4/ip_forward": "1",
    # Three containerds and kubelets watch more files than the default allows one machine.
    "fs/inotify/max_user_instances": "2048",
    "fs/inotify/max_user_watches": "524288",
}
# The kubelet sets these, on the whole machine; they are put back like ours.
KUBELET_SETTINGS = (
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def save_and_set(layout: Layout) -> None:
    """Note the machine's settings unless another cluster did, and make them what nodes need."""
    with _machine_lock(layout.registry):
        saved = layout.registry / "settings.json"
        if not saved.exists():
            names = (*SETTINGS, *KUBELET_SETTINGS)
            write_atomically(saved, json.dumps({name: _setting(name).read_text().strip() for name in names}))
        for name, value in SETTINGS.items():
            _setting(name).write_text(value)


def restore(layout: Layout) -> None:
    """Put the settings back, unless another cluster with nodes is there."""
    with _machine_lock(layout.registry):
        saved = layout.registry / "settings.json"
        others = [other for other in registry.registered(layout.registry) if other.with_nodes and other != layout]
        if others or not saved.exists():
            return
        for name, value in json.loads(saved.read_text()).items():
            _setting(name).write_text(value)
        saved.unlink()


def _setting(name: str) -> Path:
    return Path("/proc/sys") / name


@contextmanager
def _machine_lock(folder: Path) -> Iterator[None]:
    with (folder / "settings.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

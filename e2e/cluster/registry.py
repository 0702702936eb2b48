"""Which clusters this machine has: one folder a slot under /run, that names the cluster's data folder.

A slot is taken by renaming a finished folder to the slot's name, which fails when the slot is taken: so two harnesses
that start at once get two slots, and a registration without its content does not exist.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from e2e.cluster.errors import HarnessError
from e2e.cluster.files import write_atomically
from e2e.cluster.layout import FIRST_NETWORK, SLOTS, Layout

_CONTENT = "cluster.json"


def registered(registry: Path) -> tuple[Layout, ...]:
    """Return the clusters that are up, or were left behind by a harness that crashed."""
    found = []
    for file in sorted(registry.glob(f"[0-9]*/{_CONTENT}")):
        with suppress(FileNotFoundError):  # released since it was listed
            found.append(Layout.from_json(json.loads(file.read_text())))
    return tuple(found)


def find(registry: Path, folder: Path) -> Layout | None:
    """Return the cluster with this data folder, or None."""
    return next((layout for layout in registered(registry) if layout.folder == folder), None)


def claim(
    registry: Path,
    folder: Path,
    *,
    slots: Iterable[int] = SLOTS,
    with_nodes: bool = True,
    first_network: int = FIRST_NETWORK,
) -> Layout:
    """Return the cluster of this folder, after giving it the first free one of the slots when it had none."""
    if found := find(registry, folder):
        if (found.with_nodes, found.first_network) != (with_nodes, first_network) or found.slot not in slots:
            raise HarnessError(f"{folder} holds a cluster of another kind, in slot {found.slot}: take it down first")
        return found
    registry.mkdir(parents=True, exist_ok=True)
    fresh = registry / f".claim-{os.getpid()}"
    try:
        for slot in slots:
            layout = Layout(slot, folder, with_nodes, first_network, registry)
            if _take(registry, fresh, layout):
                return layout
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    taken = "; ".join(f"slot {layout.slot}: {layout.folder}" for layout in registered(registry))
    raise HarnessError(f"no free slot ({taken}): take a cluster down with `python -m e2e.cluster down --slot N`")


def release(layout: Layout) -> None:
    """Free the slot. Everything that belongs to the cluster has to be gone."""
    spent = layout.registry / f".released-{os.getpid()}"
    layout.registration.rename(spent)
    shutil.rmtree(spent)


def _take(registry: Path, fresh: Path, layout: Layout) -> bool:
    fresh.mkdir(exist_ok=True)
    write_atomically(fresh / _CONTENT, json.dumps(layout.to_json()))
    try:
        fresh.rename(registry / str(layout.slot))
    except OSError:  # the slot's folder is there and not empty
        return False
    return True

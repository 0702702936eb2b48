"""From nothing to a cluster: packages, programs, images, then the cluster itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from e2e.cluster import registry
from e2e.cluster.addons import addon_images
from e2e.cluster.binaries import CONTROL_PLANE, WHOLE, built
from e2e.cluster.cgroups import check_machine
from e2e.cluster.cluster import Cluster
from e2e.cluster.images import Image, ensure_image
from e2e.cluster.layout import FIRST_NETWORK, REGISTRY, SLOTS, Layout
from e2e.cluster.packages import IMAGES, NODES, ensure_packages
from e2e.cluster.progress import Progress


def ensure_parts(cache: Path, progress: Progress, *, with_nodes: bool) -> tuple[dict[str, Path], dict[str, Image]]:
    """Return the programs and the add-ons' images, after making those that the cache does not hold."""
    if not with_nodes:
        return built(CONTROL_PLANE, cache, progress), {}
    check_machine()
    ensure_packages({**NODES, **IMAGES}, progress)
    programs = built(WHOLE, cache, progress)
    images = addon_images(programs)
    for image in images.values():
        ensure_image(image, cache, progress)
    return programs, images


def start_cluster(
    folder: Path,
    cache: Path,
    progress: Progress,
    *,
    with_nodes: bool = True,
    slots: Iterable[int] = SLOTS,
    first_network: int = FIRST_NETWORK,
) -> Cluster:
    """Return a cluster in this folder, after starting what does not run of it."""
    programs, images = ensure_parts(cache, progress, with_nodes=with_nodes)
    layout = registry.claim(REGISTRY, folder, slots=slots, with_nodes=with_nodes, first_network=first_network)
    cluster = Cluster(layout, programs, images, cache)
    cluster.up(progress)
    return cluster


def opened(layout: Layout, cache: Path, progress: Progress) -> Cluster:
    """Return a cluster that is up."""
    programs, images = ensure_parts(cache, progress, with_nodes=layout.with_nodes)
    return Cluster(layout, programs, images, cache)

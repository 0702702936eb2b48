"""From nothing to a cluster: packages, programs, images, then the cluster itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from e2e.cluster import registry
from e2e.cluster.addons import addon_images
from e2e.cluster.binaries import CONTROL_PLANE, WHOLE, built
from e2e.cluster.cgroups import check_machine
from e2e.cluster.cluster import Cluster
from e2e.cluster.control_plane import AUDIT_POLICY
from e2e.cluster.images import Image, busybox_image, ensure_image
from e2e.cluster.layout import FIRST_NETWORK, REGISTRY, SLOTS, Layout
from e2e.cluster.packages import IMAGES, NODES, ensure_packages
from e2e.cluster.progress import Progress
from e2e.cluster.project_images import BuiltImage, ensure_project_image


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
    audit: Mapping[str, object] = AUDIT_POLICY,
) -> Cluster:
    """Return a cluster in this folder, after starting what does not run of it."""
    programs, images = ensure_parts(cache, progress, with_nodes=with_nodes)
    layout = registry.claim(REGISTRY, folder, slots=slots, with_nodes=with_nodes, first_network=first_network)
    cluster = Cluster(layout, programs, images, cache, audit)
    cluster.up(progress)
    return cluster


def opened(layout: Layout, cache: Path, progress: Progress) -> Cluster:
    """Return a cluster that is up."""
    programs, images = ensure_parts(cache, progress, with_nodes=layout.with_nodes)
    return Cluster(layout, programs, images, cache)


def ensure_pod_image(name: str, cache: Path, progress: Progress, environment: Mapping[str, str]) -> BuiltImage:
    """Return what pods get as `operator`, `workloads` or `busybox`, after building it when the cache lacks it."""
    ensure_packages(IMAGES, progress)
    if name != "busybox":
        return ensure_project_image(name, cache, progress, environment)
    busybox = busybox_image()
    return BuiltImage(busybox.reference, ensure_image(busybox, cache, progress))


def load_image(cluster: Cluster, name: str, progress: Progress, environment: Mapping[str, str]) -> str:
    """Return the name under which pods get an image of `ensure_pod_image`, after every node has it."""
    made = ensure_pod_image(name, cluster.cache, progress, environment)
    with progress.step(f"image {name} on every node"):
        cluster.each_node(lambda node: cluster.import_images(node, [(made.reference, made.tar)]))
    return made.reference

"""What runs as pods on every cluster with nodes: CoreDNS, metrics-server, volumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template

from e2e.cluster.images import Image, busybox_image, program_image
from e2e.cluster.layout import Layout

MANIFESTS = Path(__file__).parent / "addons"
PROGRAMS = ("coredns", "metrics-server", "local-path-provisioner")
DEPLOYMENTS = (
    ("kube-system", "coredns"),
    ("kube-system", "metrics-server"),
    ("local-path-storage", "local-path-provisioner"),
)


def addon_images(programs: Mapping[str, Path]) -> dict[str, Image]:
    """Return the images of the add-ons, and busybox, by name."""
    return {"busybox": busybox_image(), **{name: program_image(name, programs[name]) for name in PROGRAMS}}


def addon_manifests(layout: Layout, images: Mapping[str, Image]) -> str:
    """Return the manifests of everything in the folder, with this cluster's addresses and images."""
    values = {name.replace("-", "_"): image.reference for name, image in images.items()}
    texts = [Template(file.read_text()) for file in sorted(MANIFESTS.glob("*.yaml"))]
    return "---\n".join(text.substitute(values, dns_address=layout.dns_address) for text in texts)

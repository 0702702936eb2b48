"""Debian packages that nodes and images need; they are installed on the machine itself."""

from __future__ import annotations

import os
import shutil
import subprocess

from e2e.cluster.errors import HarnessError
from e2e.cluster.progress import Progress

# What a node runs or calls, and what images are made with. Each with a program that shows that it is there.
NODES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iproute2": "ip",
    "nftables": "nft",
    "iptables": "iptables",  # containerd's portmap plugin calls it
    "conntrack": "conntrack",
    "util-linux": "nsenter",
}
IMAGES = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "busybox-static": "/bin/busybox",
}


def ensure_packages(packages: dict[str, str], progress: Progress) -> None:
    """Install the packages whose program is missing."""
    missing = [name for name, program in packages.items() if not _there(program)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise HarnessError(f"missing Debian packages, and only root may install them: {' '.join(missing)}")
    with progress.step(f"installing {' '.join(missing)}"):
        if not _apt("install", "--no-install-recommends", *missing):
            _apt("update")  # the lists are missing, or name versions that the archive no longer has
            if not _apt("install", "--no-install-recommends", *missing):
                raise HarnessError(f"apt-get install {' '.join(missing)} failed: run it by hand to see why")


def _there(program: str) -> bool:
    return os.path.exists(program) if program.startswith("/") else shutil.which(program) is not None


def _apt(*arguments: str) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "-y", "-qq", *arguments], env=environment, capture_output=True, check=False)
    return done.returncode == 0

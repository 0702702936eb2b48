"""The project's own images, built from its Dockerfile on Debian bases that are made on the spot.

What the host's pip needs to reach its package index (its configuration, its certificates) is mounted while the build
runs and is no part of an image.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.binaries import exclusive
from e2e.cluster.commands import run
from e2e.cluster.errors import HarnessError
from e2e.cluster.images import REPOSITORY, buildah, push
from e2e.cluster.progress import Progress

PROJECT = Path(__file__).parents[2]
TARGETS = ("operator", "workloads")
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
COMPILER = f"{PACKAGES},gcc,libc6-dev"
# Left out of the base: what only installing or reading needs.
SURPLUS = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/log")
BASE = """\
FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
CMD ["python3"]
"""
# What the Dockerfile reads, but for README and LICENSE: an image is built anew when one of these changes.
INPUTS = (
    "Dockerfile",
    "images",
    "requirements.lock",
    "requirements-cuda.lock",
    "requirements-crypten.lock",
    "pyproject.toml",
    "operator",
    "workloads",
    "sdk",
)
HOST_FILES = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
KEPT = 2  # builds of an image that stay in the cache: the last one, and the one before for upgrade tests


@dataclass(frozen=True)
class BuiltImage:
    """An image in the cache: the name that manifests use, and its tar."""

    reference: str
    tar: Path


def ensure_project_image(target: str, cache: Path, progress: Progress, environment: Mapping[str, str]) -> BuiltImage:
    """Return the image of a target of the Dockerfile, after building it when its inputs changed."""
    wheels = find_wheels(environment)
    packages = {"BASE": PACKAGES} | ({"COMPILER": COMPILER} if target == "workloads" else {})
    bases = {name: _base(name.lower(), wanted) for name, wanted in packages.items()}
    tag = _digest([target, *bases.values(), *(wheel.name for wheel in wheels), *_inputs(PROJECT)])
    image = BuiltImage(f"{REPOSITORY}/{target}:{tag}", cache / "images" / f"{target}-{tag}.tar")
    with exclusive(cache / "images" / "build.lock", progress):
        if not image.tar.exists():
            for name, reference in bases.items():
                _ensure_base(reference, packages[name], cache, progress)
            with progress.step(f"image {target}"):
                _build(target, bases, image, wheels, cache)
            _forget(target, cache)
    return image


def find_wheels(environment: Mapping[str, str]) -> list[Path]:
    """Return the CPU wheels of torch in the folders that PIP_FIND_LINKS names."""
    folders = [Path(text) for text in environment.get("PIP_FIND_LINKS", "").split()]
    return sorted(wheel for folder in folders for wheel in folder.glob("torch-*+cpu-*.whl"))


def _base(name: str, packages: str) -> str:
    return f"{REPOSITORY}/{name}:{_digest([BASE, SUITE, packages, *SURPLUS])}"


def _ensure_base(reference: str, packages: str, cache: Path, progress: Progress) -> None:
    if buildah(cache, "images", "--quiet", f"--filter=reference={reference}").strip():
        return
    with (
        progress.step(f"Debian with {packages} (debootstrap)"),
        tempfile.TemporaryDirectory(dir=cache / "images") as folder,
    ):
        root = Path(folder) / "root"
        run("debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(root), *_mirror())
        run("sh", "-ec", TIDY, "sh", str(root), *SURPLUS)
        run("tar", "-C", str(root), "-cf", str(Path(folder) / "rootfs.tar"), ".")
        run("rm", "-rf", "--one-file-system", str(root))
        (Path(folder) / "Dockerfile").write_text(BASE)
        buildah(cache, "build", "--quiet", f"--tag={reference}", folder)


# No package source, no resolver and no name of this machine stay inside.
TIDY = """
root=$1; shift
for folder; do find "$root/$folder" -mindepth 1 -delete; done
find "$root" -name __pycache__ -prune -exec rm -rf {} +
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
ln -sf python3 "$root/usr/bin/python"
for file in etc/apt/sources.list etc/resolv.conf etc/hostname; do : > "$root/$file"; done
"""


def _mirror() -> list[str]:
    """Return the package source that this machine uses for the suite, for debootstrap has one of its own."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    lines = sources.read_text().splitlines() if sources.exists() else []
    return [line.split()[1] for line in lines if line.startswith("URIs:")][:1]


def _build(target: str, bases: Mapping[str, str], image: BuiltImage, wheels: list[Path], cache: Path) -> None:
    if target == "workloads" and not wheels:
        raise HarnessError("no CPU wheel of torch: name the folder that holds it in PIP_FIND_LINKS")
    options = [f"--build-arg={name}={reference}" for name, reference in bases.items()]
    options += [f"--target={target}", f"--tag={image.reference}", "--layers", "--pull-never"]
    options += [f"--volume={file}:{file}:ro" for file in HOST_FILES if os.path.exists(file)]
    options += [f"--build-context=wheels={wheels[-1].parent}"] if wheels else []
    buildah(cache, "build", "--quiet", *options, str(PROJECT))
    push(image.reference, image.tar, cache)


def _forget(target: str, cache: Path) -> None:
    """Remove all but the newest builds of a target."""
    tars = sorted((cache / "images").glob(f"{target}-*.tar"), key=lambda tar: tar.stat().st_mtime)
    for tar in tars[:-KEPT]:
        tar.unlink()
    with_layers = buildah(cache, "images", "--format={{.Name}}:{{.Tag}}", f"--filter=reference={REPOSITORY}/{target}")
    kept = {f"{REPOSITORY}/{target}:{tar.stem.removeprefix(f'{target}-')}" for tar in tars[-KEPT:]}
    for reference in with_layers.split():
        if reference not in kept:
            buildah(cache, "rmi", "--force", reference)


def _inputs(project: Path) -> Iterable[str]:
    """Yield name and content's checksum of every file that the Dockerfile reads and git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *INPUTS],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in sorted(filter(None, listed.split("\0"))):
        file = project / name
        if file.exists():
            yield name
            yield hashlib.sha256(file.read_bytes()).hexdigest()


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

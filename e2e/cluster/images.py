"""Container images, made on the machine: each once for what goes into it, kept in the cache as a tar.

buildah works in a storage of its own, without a daemon, and reads nothing from a registry.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from e2e.cluster.binaries import exclusive
from e2e.cluster.errors import HarnessError
from e2e.cluster.progress import Progress

REPOSITORY = "localhost/foedus-e2e"
# Users are numbers: an empty image has no /etc/passwd.
PROGRAM = 'FROM scratch\nCOPY {program} /{program}\nUSER {user}\nENTRYPOINT ["/{program}"]\n'
BUSYBOX = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
USER 65532:65532
CMD ["sleep", "infinity"]
"""


@dataclass(frozen=True)
class Image:
    """One image: its name, its Dockerfile, and the files of its context by name."""

    name: str
    dockerfile: str
    files: Mapping[str, Path | bytes]

    @cached_property
    def reference(self) -> str:
        """The name that manifests use. The tag says what is inside, so a changed image is another image."""
        digest = hashlib.sha256(self.dockerfile.encode())
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + _file_digest(content))
        return f"{REPOSITORY}/{self.name}:{digest.hexdigest()[:16]}"

    def tar(self, cache: Path) -> Path:
        """Where the cache keeps the image."""
        return cache / "images" / f"{self.name}-{self.reference.rpartition(':')[2]}.tar"


def program_image(name: str, program: Path, user: str = "65532:65532") -> Image:
    """Return the image that holds one static program."""
    return Image(name, PROGRAM.format(program=program.name, user=user), {program.name: program})


def busybox_image() -> Image:
    """Return a shell with the usual tools: volumes are made with it, tests probe with it.

    It is also what keeps a pod's namespaces open; containerd ends that process by SIGKILL, so sleeping is all it needs.
    """
    return Image("busybox", BUSYBOX, {"busybox": Path("/bin/busybox")})


def ensure_image(image: Image, cache: Path, progress: Progress) -> Path:
    """Return the image's tar, after building it when the cache does not hold it."""
    tar = image.tar(cache)
    if not tar.exists():
        with exclusive(cache / "images" / "build.lock", progress):
            if not tar.exists():
                with progress.step(f"image {image.name}"):
                    _build(image, cache)
    return tar


def _build(image: Image, cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache / "images", prefix="context-") as folder:
        context = Path(folder)
        for name, content in image.files.items():
            if isinstance(content, bytes):
                (context / name).write_bytes(content)
            else:
                shutil.copy2(content, context / name)
            (context / name).chmod(0o755)
        (context / "Dockerfile").write_text(image.dockerfile)
        buildah(cache, "build", "--quiet", "--pull-never", "--timestamp=0", f"--tag={image.reference}", str(context))
    push(image.reference, image.tar(cache), cache)


def push(reference: str, tar: Path, cache: Path) -> None:
    """Write an image of buildah's storage into a tar that containerd imports."""
    fresh = tar.with_suffix(".partial")
    fresh.unlink(missing_ok=True)
    buildah(cache, "push", "--quiet", reference, f"docker-archive:{fresh}:{reference}")
    fresh.rename(tar)


def buildah(cache: Path, *arguments: str) -> str:
    """Return what buildah printed. Its storage is the cache's own, so no other user of buildah is touched."""
    storage = cache / "buildah"
    storage.mkdir(parents=True, exist_ok=True)
    places = (f"--root={storage / 'root'}", f"--runroot={storage / 'run'}", "--storage-driver=overlay")
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run(
        ["buildah", *places, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        # What it was working on stays mounted otherwise.
        subprocess.run(["buildah", *places, "rm", "--all"], capture_output=True, check=False)
        raise HarnessError(f"buildah {arguments[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _file_digest(content: Path | bytes) -> bytes:
    data = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha256(data).digest()

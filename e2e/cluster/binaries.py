"""The programs of the cluster, built from Go modules whose versions and checksums stand in `pins/`.

A pin is a folder with `go.mod` and `go.sum`; its `tool` lines are what is built. What was built lies in a cache folder
whose name holds the checksum of the pin, so a changed pin is built anew and an unchanged one never again. A build that
was cut off goes on where it was, because Go keeps what it has compiled.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import HarnessError, UnsuitableMachine
from e2e.cluster.progress import Progress

PINS = Path(__file__).parent / "pins"
# Part of every checksum: raise it when the way of building changes.
RECIPE = "1"
OLDEST_GO = 26  # of 1.26: what the pinned modules ask for
A_MODULE = "go.uber.org/zap"  # a small one that etcd's pin holds


@dataclass(frozen=True)
class Pin:
    """One folder of `pins/`, the programs that come out of it, and what the linker writes into them."""

    name: str
    programs: tuple[str, ...]
    stamps: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Where its go.mod is."""
        return PINS / self.name


_VERSION = "k8s.io/component-base/version."
KUBERNETES = Pin(
    "kubernetes",
    ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"),
    # The kubelet and the API server compare versions, and `go build` knows of no version but that of the main module.
    {_VERSION + "gitVersion": "v1.35.4", _VERSION + "gitMajor": "1", _VERSION + "gitMinor": "35"},
)
ETCD = Pin("etcd", ("etcd", "etcdctl", "etcdutl"), {})
COREDNS = Pin("coredns", ("coredns",), {})
METRICS_SERVER = Pin("metrics-server", ("metrics-server",), {})
LOCAL_PATH_PROVISIONER = Pin("local-path-provisioner", ("local-path-provisioner",), {})
HELM = Pin("helm", ("helm",), {})
KIND = Pin("kind", ("kind",), {})

CONTROL_PLANE = (KUBERNETES, ETCD)
WHOLE = (*CONTROL_PLANE, COREDNS, METRICS_SERVER, LOCAL_PATH_PROVISIONER, HELM)


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return where binaries and images are kept: FOEDUS_E2E_CACHE, or `foedus-e2e` in the user's cache folder."""
    if chosen := environment.get("FOEDUS_E2E_CACHE"):
        return Path(chosen).absolute()
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "foedus-e2e"


def checksum(pin: Pin) -> str:
    """Return what names a pin's build: its files, the way of building, the compiler and the processor."""
    digest = hashlib.sha256()
    for part in (RECIPE, _go_version(), repr(sorted(pin.stamps.items()))):
        digest.update(part.encode() + b"\0")
    for file in sorted(pin.folder.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def built(pins: Iterable[Pin], cache: Path, progress: Progress) -> dict[str, Path]:
    """Return every program's path, after building those that the cache does not hold."""
    programs: dict[str, Path] = {}
    for pin in pins:
        folder = cache / "bin" / f"{pin.name}-{checksum(pin)}"
        if not folder.is_dir():
            with exclusive(cache / "bin" / f"{pin.name}.lock", progress):
                if not folder.is_dir():
                    _build(pin, folder, progress)
        programs |= {program: folder / program for program in pin.programs}
    return programs


@contextmanager
def exclusive(lock: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock between processes, and say so when it has to be waited for."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another process that holds {lock}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(pin: Pin, folder: Path, progress: Progress) -> None:
    fresh = folder.with_suffix(".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    linker = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in pin.stamps.items())])
    # -v names each package when its compilation begins: that is the progress.
    command = [
        "go",
        "build",
        "-v",
        "-mod=readonly",
        "-buildvcs=false",
        "-trimpath",
        f"-ldflags={linker}",
        f"-o={fresh}/",
    ]
    packages = ["tool", *([] if not list(pin.folder.glob("*.go")) else ["."])]
    with subprocess.Popen(
        [*command, *packages], cwd=pin.folder, env=_environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
        reader.start()
        with progress.step(f"building {pin.name}", lambda: f"({len(said)} packages compiled or fetched)"):
            code = process.wait()
            reader.join()
    missing = [program for program in pin.programs if not (fresh / program).is_file()]
    if code or missing:
        tail = "".join(said[-15:])
        raise HarnessError(f"go build of {pin.name} failed with exit code {code}; missing: {missing}\n{tail}")
    fresh.rename(folder)


def _go_version() -> str:
    if shutil.which("go") is None:
        raise UnsuitableMachine(f"Go 1.{OLDEST_GO} or newer is needed to build the cluster's programs")
    found = subprocess.run(["go", "version"], capture_output=True, text=True, env=_environment(), check=False)
    if found.returncode:
        raise HarnessError(f"`go version` failed: {found.stderr.strip()}")
    return found.stdout.strip()


def _environment() -> dict[str, str]:
    """Return what every call of the compiler sees: no settings of the user's, and no other compiler fetched."""
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def check_compiler() -> None:
    """Refuse a machine without the compiler, or with one that is too old."""
    version = re.search(r"go1\.(\d+)", _go_version())
    if version and int(version[1]) < OLDEST_GO:
        raise UnsuitableMachine(f"Go 1.{OLDEST_GO} or newer is needed, and here is {version[0]}")


def check_modules() -> None:
    """Refuse a machine that cannot fetch modules: none of the programs can be built there."""
    command = ["go", "mod", "download", A_MODULE]
    try:
        subprocess.run(
            command, cwd=ETCD.folder, env=_environment(), capture_output=True, text=True, check=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        raise UnsuitableMachine(f"`{' '.join(command)}` did not end within two minutes") from None
    except subprocess.CalledProcessError as error:
        raise UnsuitableMachine(f"`{' '.join(command)}` failed: {error.stderr.strip()[-500:]}") from None

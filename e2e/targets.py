"""The cluster that the tests run on, by E2E_CLUSTER: `local` (built here), `kind` (in Docker) or `existing`."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import registry
from e2e.cluster.assembly import ensure_pod_image, load_image, opened, start_cluster
from e2e.cluster.binaries import HELM, KIND, built, cache_folder
from e2e.cluster.cluster import Cluster, down
from e2e.cluster.errors import HarnessError
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.layout import REGISTRY
from e2e.cluster.progress import Progress

FOLDER = Path("build/e2e/cluster")
PROJECT = Path(__file__).parents[1]
KIND_NAME = "foedus-e2e"


@dataclass(frozen=True)
class Target:
    """A cluster as the tests see it.

    `image` returns the name under which pods get the project's `operator` or `workloads` image, or `busybox`, after
    every node has it. `cluster` is there when the harness runs the cluster itself: only then can tests break its parts
    and read its audit log.
    """

    kind: str
    kubectl: Kubectl
    helm: str
    image: Callable[[str], str]
    cluster: Cluster | None = None


@contextmanager
def open_target(environment: Mapping[str, str], progress: Progress) -> Iterator[Target]:
    """Yield the cluster that E2E_CLUSTER asks for. One that was up before stays up, one started for this goes."""
    kinds = {"local": _local, "kind": _kind, "existing": _existing}
    chosen = environment.get("E2E_CLUSTER", "local")
    if chosen not in kinds:
        raise HarnessError(f"E2E_CLUSTER is one of {', '.join(kinds)}, not {chosen}")
    with kinds[chosen](environment, cache_folder(environment), progress) as target:
        yield target


@contextmanager
def _local(environment: Mapping[str, str], cache: Path, progress: Progress) -> Iterator[Target]:
    folder = Path(environment.get("E2E_FOLDER", FOLDER)).absolute()
    found = registry.find(REGISTRY, folder)
    cluster = opened(found, cache, progress) if found else start_cluster(folder, cache, progress)
    if found:
        cluster.up(progress)

    @functools.cache
    def image(name: str) -> str:
        return load_image(cluster, name, progress, environment)

    try:
        yield Target("local", cluster.kubectl, str(cluster.programs["helm"]), image, cluster)
    finally:
        if not found:
            down(cluster.layout, progress)


@contextmanager
def _kind(environment: Mapping[str, str], cache: Path, progress: Progress) -> Iterator[Target]:
    if shutil.which("docker") is None:
        raise HarnessError("E2E_CLUSTER=kind needs Docker")
    programs = built((KIND, HELM), cache, progress)
    kind = str(programs["kind"])
    kubeconfig = PROJECT / "build/e2e/kind/kubeconfig"
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    mine = KIND_NAME not in _run(kind, "get", "clusters").split()
    if mine:
        with progress.step("kind cluster"):
            configuration = f"--config={PROJECT / 'e2e/kind.yaml'}"
            _run(kind, "create", "cluster", f"--name={KIND_NAME}", configuration, "--wait=5m")
    _run(kind, "export", "kubeconfig", f"--name={KIND_NAME}", f"--kubeconfig={kubeconfig}")

    @functools.cache
    def image(name: str) -> str:
        if name == "busybox":
            made = ensure_pod_image(name, cache, progress, environment)
            _run(kind, "load", "image-archive", str(made.tar), f"--name={KIND_NAME}")
            return made.reference
        reference = f"localhost/foedus-e2e/{name}:kind"
        wheels = next((each for each in environment.get("PIP_FIND_LINKS", "").split() if Path(each).is_dir()), None)
        torch = "--build-arg=TORCH=cuda" if wheels is None else f"--build-context=wheels={wheels}"
        with progress.step(f"image {name} (docker build)"):
            _run("docker", "build", f"--target={name}", f"--tag={reference}", torch, str(PROJECT))
        _run(kind, "load", "docker-image", reference, f"--name={KIND_NAME}")
        return reference

    try:
        yield Target("kind", Kubectl(_program("kubectl"), kubeconfig), str(programs["helm"]), image)
    finally:
        if mine:
            _run(kind, "delete", "cluster", f"--name={KIND_NAME}")


@contextmanager
def _existing(environment: Mapping[str, str], cache: Path, progress: Progress) -> Iterator[Target]:
    kubeconfig = environment.get("KUBECONFIG") or str(Path.home() / ".kube/config")

    def image(name: str) -> str:
        variable = f"E2E_{name.upper()}_IMAGE"
        if variable not in environment:
            raise HarnessError(f"say in {variable} which image the cluster's nodes can pull for {name}")
        return environment[variable]

    programs = built((HELM,), cache, progress)
    yield Target("existing", Kubectl(_program("kubectl"), Path(kubeconfig)), str(programs["helm"]), image)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise HarnessError(f"{name} is not installed")
    return found


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise HarnessError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    return done.stdout

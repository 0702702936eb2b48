"""The chart on the tests' cluster, and the namespaces whose budgets its policies keep."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from e2e.cluster.errors import HarnessError
from e2e.cluster.kubectl import wait_for
from e2e.targets import PROJECT, Target

NAMESPACE = "foedus-system"
POLICIES = ("ledger.foedus.dev", "kept.foedus.dev")
CHART = PROJECT / "charts/foedus"
ROLL_OUT_SECONDS = 300  # it only ends what would never end


@dataclass(frozen=True)
class Release:
    """The chart, installed under the name `foedus`."""

    target: Target
    namespaces: list[str] = field(default_factory=list)

    def make_namespace(self) -> str:
        """Return a new namespace that may hold budgets. It goes with the release: the policies would keep it."""
        name = f"test-{secrets.token_hex(4)}"
        self.target.kubectl("create", "namespace", name)
        self.namespaces.append(name)
        self.target.kubectl("label", "namespace", name, "foedus.dev/budgets=kept")
        return name

    def rolled_out(self, name: str) -> None:
        """Wait until all replicas of a Deployment are ready."""
        arguments = ("rollout", "status", f"deployment/{name}", f"--timeout={ROLL_OUT_SECONDS}s")
        self.target.kubectl("-n", NAMESPACE, *arguments, seconds=ROLL_OUT_SECONDS + 30)

    def leader(self) -> str:
        """Return the name of the operator's pod that leads, nothing while none does."""
        lease = self.target.kubectl.get("-n", NAMESPACE, "lease", "foedus-operator")
        return str(lease["spec"].get("holderIdentity") or "").partition(".")[0]


@contextmanager
def installed(target: Target, *, trains: bool = False) -> Iterator[Release]:
    """Yield the chart, in a namespace that insists on the restricted profile; with `trains`, its jobs can run."""
    kubectl = target.kubectl
    images = {"operator": target.image("operator")} | ({"workload": target.image("workloads")} if trains else {})
    kubectl("create", "namespace", NAMESPACE)
    kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    release = Release(target)
    try:
        helm(target, "install", "foedus", str(CHART), "--take-ownership", *_settings(images))
        yield release
    finally:
        helm(target, "uninstall", "foedus", "--wait")
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            kubectl("delete", kind, *POLICIES)
        for name in (*release.namespaces, NAMESPACE):
            # The API server goes on refusing for a moment after the policy is gone.
            deleted = ("delete", "namespace", name, "--wait=false")
            wait_for("the policies let go", lambda: kubectl.attempt(*deleted).returncode == 0)  # noqa: B023
        kubectl("wait", "--for=delete", f"namespace/{NAMESPACE}", "--timeout=120s", seconds=150)


def _settings(images: dict[str, str]) -> list[str]:
    found = []
    for name, reference in images.items():
        repository, _, tag = reference.rpartition(":")
        found += ["--set", f"images.{name}.repository={repository},images.{name}.tag={tag}"]
    return found


def helm(target: Target, *arguments: str) -> None:
    """Run helm in the release's namespace; an error with its message when it fails."""
    environment = {**os.environ, "KUBECONFIG": str(target.kubectl.kubeconfig)}
    command = [target.helm, *arguments, "--namespace", NAMESPACE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise HarnessError(f"helm {arguments[0]}: {done.stderr.strip()[-2000:]}")

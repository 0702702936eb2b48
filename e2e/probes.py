"""Small pods that serve, connect and report, for tests of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from e2e.cluster.kubectl import PATIENCE, Kubectl

PORT = 8080
# Answers each connection with the pod's name. nc serves one connection, then the loop goes on.
SERVE = f'while :; do echo "$NAME" | nc -l -p {PORT} -w 5; done'
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Probes:
    """Starts pods in one namespace, and asks them what they can reach."""

    kubectl: Kubectl
    namespace: str
    image: str

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects, in the namespace."""
        for one in objects:
            self.kubectl.apply(yaml.safe_dump({**one, "metadata": {"namespace": self.namespace, **one["metadata"]}}))

    def start(
        self, name: str, command: str = "sleep 100000", labels: Mapping[str, str] | None = None, **spec: Any
    ) -> None:
        """Start a pod that runs a shell command, and wait until it is ready."""
        self.apply(build_pod(name, self.image, command, labels or {}, spec))
        self.ready(name)

    def serve(self, name: str, labels: Mapping[str, str] | None = None, **spec: Any) -> str:
        """Start a pod that answers on port 8080 with its name, and return its address."""
        self.start(name, SERVE, labels, **spec)
        return str(self.get("pod", name)["status"]["podIP"])

    def ready(self, name: str) -> None:
        """Wait until a pod is ready."""
        ready = ("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={PATIENCE}s")
        self.kubectl("-n", self.namespace, *ready, seconds=2 * PATIENCE)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return an object of the namespace."""
        return self.kubectl.get("-n", self.namespace, kind, name)

    def run(self, name: str, command: str) -> str:
        """Return what a shell command prints in a pod."""
        return self.kubectl("-n", self.namespace, "exec", name, "--", "sh", "-c", command)

    def ask(self, name: str, address: str, port: int = PORT) -> str:
        """Return what a server answers to a pod, or nothing when no answer comes within two seconds."""
        arguments = ("-n", self.namespace, "exec", name, "--", "nc", "-w", "2", address, str(port))
        return self.kubectl.attempt(*arguments).stdout.strip()


def build_pod(
    name: str, image: str, command: str, labels: Mapping[str, str], spec: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a pod of the restricted profile with one container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name, **labels}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "probe",
                    "image": image,
                    "command": ["sh", "-c", command],
                    "env": [{"name": "NAME", "value": name}],
                    "securityContext": RESTRICTED,
                    "ports": [{"name": "probe", "containerPort": PORT}],
                }
            ],
            **spec,
        },
    }

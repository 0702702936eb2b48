"""`kubectl foedus` as a user of the tests' cluster runs it."""

from __future__ import annotations

import subprocess
import sys

from e2e.cluster.kubectl import Kubectl

PROGRAM = "from foedus.main import plugin; plugin()"


def foedus(kubectl: Kubectl, namespace: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a namespace; no setting of who runs the tests reaches it."""
    place = ("--kubeconfig", str(kubectl.kubeconfig), "--namespace", namespace)
    command = [sys.executable, "-c", PROGRAM, *arguments, *place]
    environ = {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)

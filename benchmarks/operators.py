"""Operators as processes beside a real API server, each known in the audit log by a token of its own."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from e2e.cluster.cluster import Cluster
from e2e.cluster.kubectl import wait_for

from benchmarks.api_cluster import OPERATOR, SYSTEM, administrators, apply, namespace

ACCOUNT = "foedus-operator"
CREDENTIAL = "authentication.kubernetes.io/credential-id"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Operator:
    """One operator process; `credential` is how the audit log names its token."""

    name: str
    credential: str
    environ: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        """Start the process."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "foedus_operator.main"]
            self.process = subprocess.Popen(command, env=dict(self.environ), stderr=log, stdout=log)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Return the exit code once the process has ended."""
        assert self.process is not None
        return self.process.wait(seconds)

    def end(self) -> None:
        """Kill the process if it is there."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def memory(self, what: str) -> float:
        """Return VmRSS (now) or VmHWM (most so far) of the process in MB."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        kilobytes = next(line.split()[1] for line in text.splitlines() if line.startswith(f"{what}:"))
        return int(kilobytes) * 1024 / 1e6

    def processor_seconds(self) -> float:
        """Return the processor time that the process has taken so far."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/stat").read_text("ascii")
        fields = text[text.rindex(")") + 2 :].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def operators(cluster: Cluster, folder: Path, lease_namespace: str, *names: str) -> Iterator[list[Operator]]:
    """Yield operators that are not started yet; whatever runs of them in the end is killed."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": SYSTEM}}
    apply(cluster, namespace(SYSTEM), namespace(lease_namespace), account, administrators(OPERATOR))
    made = [_make(cluster, folder, lease_namespace, name) for name in names]
    try:
        yield made
    finally:
        for operator in made:
            operator.end()


def _make(cluster: Cluster, folder: Path, lease_namespace: str, name: str) -> Operator:
    token = cluster.kubectl("create", "token", ACCOUNT, "-n", SYSTEM, "--duration=6h").strip()
    config = yaml.safe_load(cluster.layout.kubeconfig.read_text("utf-8"))
    config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
    path = folder.absolute() / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(config), "utf-8")
    path.chmod(0o600)
    environ = {
        "KUBECONFIG": str(path),
        "PATH": os.environ["PATH"],
        "FOEDUS_OPERATOR_IDENTITY": name,
        "FOEDUS_OPERATOR_NAMESPACE": lease_namespace,
        "FOEDUS_OPERATOR_HEALTH_PORT": str(_free_port()),
    }
    return Operator(name, f"JTI={_claims(token)['jti']}", environ, folder / f"{name}.log")


def _claims(token: str) -> dict[str, Any]:
    middle = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return claims


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def leader(cluster: Cluster, lease_namespace: str) -> str:
    """Return who holds the lease; empty when nobody does."""
    done = cluster.kubectl.attempt("-n", lease_namespace, "get", "lease", "foedus-operator", "-o", "json")
    return "" if done.returncode else str(json.loads(done.stdout)["spec"].get("holderIdentity") or "")


def wait_for_leader(cluster: Cluster, lease_namespace: str, name: str) -> None:
    """Return when `name` holds the lease."""
    wait_for(f"{name} to lead", lambda: leader(cluster, lease_namespace) == name)


def audit_entries(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """Yield what the API server has answered, oldest file first."""
    log = cluster.layout.audit_log
    for file in [*sorted(log.parent.glob("audit-*.log")), log]:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                if entry.get("stage") == "ResponseComplete":
                    yield entry


def credential_of(entry: Mapping[str, Any]) -> str:
    """Return which token a request came with."""
    found = (entry.get("user", {}).get("extra") or {}).get(CREDENTIAL) or [""]
    return str(found[0])

"""Writes the golden files of the chart: `python -m chart.golden`. It needs Helm."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from chart.helm import GOLDEN, find_helm, render, without_random

DIGEST = "sha256:" + "5e" * 32
SETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    # What a careful platform team sets.
    "production": {
        "images": {
            "operator": {"repository": "registry.example.com/foedus/operator", "digest": DIGEST},
            "workload": {"repository": "registry.example.com/foedus/workloads", "digest": DIGEST},
            "pullSecrets": ["registry"],
        },
        "operator": {
            "replicas": 3,
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"node-role.example.com/platform": "true"},
            "tolerations": [{"key": "platform", "operator": "Exists", "effect": "NoSchedule"}],
        },
        "ledger": {"certificate": {"source": "CertManager"}},
        "networkPolicy": {
            "apiServer": {"cidrs": ["192.0.2.10/32", "2001:db8::10/128"], "ports": [6443]},
            "metricsFrom": ["monitoring"],
        },
        "monitoring": {"kind": "PodMonitor", "labels": {"release": "prometheus"}},
    },
    # Certificates and metrics by what the cluster has already.
    "issuer": {
        "images": {"operator": {"tag": "0.2.0"}, "workload": {"tag": "0.2.0-cuda"}, "pullPolicy": "Always"},
        "ledger": {"certificate": {"source": "CertManager", "issuer": {"name": "platform", "kind": "ClusterIssuer"}}},
        "networkPolicy": {"metricsFrom": ["monitoring", "tracing"]},
        "monitoring": {"kind": "ServiceMonitor", "interval": "1m"},
    },
    # A small cluster whose owner makes the certificate, without NetworkPolicies.
    "open": {
        "operator": {"replicas": 1},
        "ledger": {"replicas": 1, "certificate": {"source": "Secret", "secretName": "ledger-certificate"}},
        "networkPolicy": {"enabled": False},
    },
}


def compose(helm: str, name: str) -> str:
    """Return the text of one golden file: all documents but the kinds, which have files of their own."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as values:
        yaml.safe_dump(dict(SETS[name]), values)
        values.flush()
        made = render(helm, "--values", values.name)
    documents = [without_random(each) for each in made if each["kind"] != "CustomResourceDefinition"]
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=120)


def main(folder: Path) -> int:
    """Write them all; return 1 when there is no Helm."""
    helm = find_helm()
    if helm is None:
        sys.stderr.write("the golden files need helm: put it on the PATH, or run `python -m e2e.cluster build`\n")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        (folder / f"{name}.yaml").write_text(compose(helm, name), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(GOLDEN))

"""Writes the golden files of the chart: `python -m chart.golden`. It needs Helm."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from chart.helm import GOLDEN, find_helm, render, without_random

DEFAULT = "default"
LACKING = "# lacks "
DIGEST = "sha256:" + "5e" * 32
SETS: Mapping[str, Mapping[str, Any]] = {
    DEFAULT: {},
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
    """Return the text of one golden file, without kinds and policies, which have files of their own.

    `default` shows every document, another set those that differ from it, after the names of those that it lacks.
    """
    made = _documents(helm, name)
    base = {} if name == DEFAULT else _documents(helm, DEFAULT)
    lacking = "".join(f"{LACKING}{identity}\n" for identity in base if identity not in made)
    shown = [document for identity, document in made.items() if base.get(identity) != document]
    return lacking + yaml.safe_dump_all(shown, sort_keys=False, allow_unicode=True, width=120)


def _documents(helm: str, name: str) -> dict[str, dict[str, Any]]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as values:
        yaml.safe_dump(dict(SETS[name]), values)
        values.flush()
        made = render(helm, "--values", values.name)
    return {identity(each): without_random(each) for each in made if not is_file_of_its_own(each)}


def read(name: str) -> list[dict[str, Any]]:
    """Return all documents of a set, as its golden file and that of the default say them."""
    text = (GOLDEN / f"{name}.yaml").read_text("utf-8")
    shown = {identity(each): each for each in yaml.safe_load_all(text)}
    if name == DEFAULT:
        return list(shown.values())
    lacking = {line.removeprefix(LACKING) for line in text.splitlines() if line.startswith(LACKING)}
    base = {identity(each): each for each in read(DEFAULT)}
    return list({**{key: each for key, each in base.items() if key not in lacking}, **shown}.values())


def role_rules(name: str) -> list[dict[str, Any]]:
    """Return the rules of a ClusterRole of the chart."""
    roles = {each["metadata"]["name"]: each for each in read(DEFAULT) if each["kind"] == "ClusterRole"}
    rules: list[dict[str, Any]] = roles[name]["rules"]
    return rules


def is_file_of_its_own(document: Mapping[str, Any]) -> bool:
    """Say whether the chart holds the document as it stands."""
    return document["kind"].startswith(("CustomResourceDefinition", "ValidatingAdmissionPolicy"))


def identity(document: Mapping[str, Any]) -> str:
    """Return what names a document among those of a release."""
    return f"{document['kind']} {document['metadata']['name']}"


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

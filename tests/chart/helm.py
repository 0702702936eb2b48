"""Helm, where the machine has it, and what it makes of the chart."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from e2e.cluster.binaries import HELM, cache_folder, checksum

from chart.documents import CHART

GOLDEN = Path(__file__).parents[1] / "golden/chart"
KUBERNETES = "1.35.0"


def find_helm() -> str | None:
    """Return the program: of the PATH, or as the cluster for the tests has built it."""
    if found := shutil.which("helm"):
        return found
    if shutil.which("go") is None:  # its version is part of the checksum
        return None
    built = cache_folder(os.environ) / "bin" / f"{HELM.name}-{checksum(HELM)}" / "helm"
    return str(built) if built.exists() else None


def run_helm(helm: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it and return how it ended; it reads and writes nothing of the user's."""
    environment = {**os.environ, "HELM_NO_PLUGINS": "1"}
    return subprocess.run([helm, *arguments], capture_output=True, text=True, env=environment, check=False)


def render(helm: str, *arguments: str, namespace: str = "foedus-system") -> list[dict[str, Any]]:
    """Return the documents that `helm template` makes."""
    place = ["--namespace", namespace, "--kube-version", KUBERNETES]
    done = run_helm(helm, "template", "foedus", str(CHART), *place, *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def without_random(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with keys and certificates, which are new each time, replaced by what they are."""
    if "data" not in document or document["kind"] != "Secret":
        return document
    return {**document, "data": dict.fromkeys(document["data"], "made by Helm")}

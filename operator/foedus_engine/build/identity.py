"""Under which name a role's pods run, and how many silos a drain may take at a time."""

from __future__ import annotations

from typing import Any

from foedus_engine import names
from foedus_engine.build.metadata import Owner, build_metadata


def build_service_account(owner: Owner, role: str) -> dict[str, Any]:
    """Return a role's ServiceAccount; it has no right, and its pods get no token of it."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": build_metadata(owner, names.service_account(owner.name, role), role),
        "automountServiceAccountToken": False,
    }


def build_disruption_budget(owner: Owner, threshold: int) -> dict[str, Any]:
    """Return the PodDisruptionBudget that leaves a round its `threshold` silos; a pod that is not ready may always go.

    The coordinator has none: a single pod that may not go would hold a node's drain up until the job ends.
    """
    role = names.CLIENT_ROLE
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": build_metadata(owner, names.disruption_budget(owner.name), role),
        "spec": {
            "minAvailable": threshold,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {names.JOB_LABEL: owner.name, names.COMPONENT_LABEL: role}},
        },
    }

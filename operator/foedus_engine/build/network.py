"""The one address of a training job: silos connect out to the coordinator's Service, nothing connects to a silo."""

from __future__ import annotations

from typing import Any

from foedus_engine import names
from foedus_engine.build.metadata import Owner, build_labels, build_metadata


def build_coordinator_service(owner: Owner) -> dict[str, Any]:
    """Return the Service in front of the coordinator."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(owner, names.coordinator(owner.name), names.COORDINATOR_ROLE),
        "spec": {
            "type": "ClusterIP",
            "selector": build_labels(owner.name, names.COORDINATOR_ROLE),
            "ports": [
                {
                    "name": "https",
                    "appProtocol": "https",
                    "protocol": "TCP",
                    "port": names.COORDINATOR_PORT,
                    "targetPort": names.COORDINATOR_PORT,
                }
            ],
        },
    }

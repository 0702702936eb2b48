"""The pod that hands over what a claim holds: short-lived, made by a person's command and deleted by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foedus_contract import paths
from foedus_engine import names
from foedus_engine.build.metadata import Owner, build_labels
from foedus_engine.build.pods import Settings, build_pod_spec, claim_mount

HANDOVER = ("python", "-m", "foedus_workloads.transport.handover")
LIFETIME_SECONDS = 900  # a handover of the largest adapter takes minutes on a slow line; then the pod ends by itself
# It hashes and sends files block by block, however large they are.
RESOURCES: Mapping[str, Any] = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}


@dataclass(frozen=True)
class Reading:
    """What is to be handed over: files of a folder of a claim, all of them when no names are given."""

    claim: str
    folder: str
    files: Sequence[str] = ()
    scheduling: Mapping[str, Any] = field(default_factory=dict)


def build_reader(owner: Owner, name: str, reading: Reading, settings: Settings) -> dict[str, Any]:
    """Return the pod; it goes with its owner should nobody delete it.

    It bears the job's label, so the job's NetworkPolicy shuts it, and it has neither a token nor the job's identities,
    which may be gone by then. The owner does not wait for it: to ask for that, one needs a right that people lack.
    """
    labels = build_labels(owner.name, names.READER_ROLE) if owner.kind == names.TRAINING_KIND else names.READER_LABELS
    mount = claim_mount("content", paths.OUTPUT_FOLDER, reading.claim, read_only=True)
    reference = {"apiVersion": names.API_VERSION, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
    folder = names.mounted(paths.OUTPUT_FOLDER, reading.folder) if reading.folder else paths.OUTPUT_FOLDER
    spec = build_pod_spec(
        HANDOVER,
        (folder, *reading.files),
        [mount],
        RESOURCES,
        settings,
        service_account="default",
        scheduling=reading.scheduling,
    )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": owner.namespace, "labels": labels, "ownerReferences": [reference]},
        "spec": {**spec, "activeDeadlineSeconds": LIFETIME_SECONDS},
    }

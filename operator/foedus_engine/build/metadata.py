"""Metadata of every child: name, labels, and the owner that takes it along when it is deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from foedus_engine import names


@dataclass(frozen=True)
class Owner:
    """The job object that its children belong to."""

    kind: str
    namespace: str
    name: str
    uid: str


def build_metadata(owner: Owner, name: str, component: str, silo: str = "") -> dict[str, Any]:
    """Return the metadata of one child of `owner`."""
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": build_labels(owner.name, component, silo),
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def build_labels(job: str, component: str, silo: str = "") -> dict[str, str]:
    """Return the labels of a child and of its pods."""
    labels = names.labels(job, component)
    return labels | {names.SILO_LABEL: silo} if silo else labels

"""The URI names in a training job's certificates: who signs them and who checks them spell them here."""

from __future__ import annotations


def silo_uri(namespace: str, job: str, silo: str) -> str:
    """Return the URI name that a silo's certificate carries."""
    return f"foedus://{namespace}/{job}/silo/{silo}"


def operator_uri(namespace: str, job: str) -> str:
    """Return the URI name with which the operator asks the coordinator how far the job is."""
    return f"foedus://{namespace}/{job}/operator"

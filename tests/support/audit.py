"""What somebody has asked the API server for, as the audit log of a cluster of e2e/cluster has it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e.cluster import registry
from e2e.cluster.layout import REGISTRY

from chart.rights import documented
from chart.store_server import resource
from support.kubernetes import kubeconfig

# What everybody may ask for.
DISCOVERY = ("/api", "/apis", "/openapi", "/version")


@dataclass(frozen=True)
class Audit:
    """The audit log from one moment on; None where it cannot be read."""

    log: Path | None
    begin: int

    @classmethod
    def from_now_on(cls) -> Audit:
        """Return the log of the cluster that KUBECONFIG names, from now on."""
        layout = registry.find(REGISTRY, kubeconfig().parent.absolute())
        return cls(layout.audit_log, layout.audit_log.stat().st_size) if layout else cls(None, 0)

    def requests(self, user: str) -> Iterator[dict[str, Any]]:
        """Yield the requests of a user; skips the test where there is no log."""
        if self.log is None:
            pytest.skip("the audit log can be read on a cluster of e2e/cluster only")
        with self.log.open("rb") as log:
            log.seek(self.begin)
            for line in log:
                if user.encode() in line and (event := json.loads(line))["user"]["username"] == user:
                    yield event


def denied(events: Iterable[dict[str, Any]]) -> list[str]:
    """Return the requests for which a right was missing; what admission refuses is none of them."""
    return [
        f"{event['verb']} {event['requestURI']}"
        for event in events
        if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
    ]


def used(events: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return the rights that the requests took; what an apply has created took the right to create, too."""
    rights: set[tuple[str, str]] = set()
    for event in events:
        if "objectRef" not in event:
            path = event["requestURI"].partition("?")[0]
            if not path.startswith(DISCOVERY):
                rights.add((path, event["verb"]))
            continue
        about = event["objectRef"]
        if about["resource"].startswith("self"):
            continue  # who am I, which everybody may ask
        what = resource(about.get("apiGroup", ""), about["resource"], about.get("subresource", ""))
        rights.add((what, event["verb"]))
        if event["verb"] == "patch" and event["responseStatus"]["code"] == 201:
            rights.add((what, "create"))
    return rights


def granted(identity: str) -> set[tuple[str, str]]:
    """Return the rights of an identity that docs/operator.md lists, without those that no request takes."""
    return {
        (what.split(" ")[0], verb)
        for (who, _, what, verb), why in documented().items()
        if who == identity and not why.startswith("no request")
    }

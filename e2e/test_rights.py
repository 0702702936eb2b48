"""What Foedus' identities asked the API server for in the whole run: none of their rights is idle, none was missing.

It comes last (`conftest`), and only after all other files: the audit log is that of everything before.
"""

import json

import pytest

from e2e.release import NAMESPACE
from support.audit import denied, granted, used

pytestmark = pytest.mark.e2e

# Granted, and not asked for by anything that these tests let happen; tests/contract asks for each of them once.
# A child is read and patched when somebody has changed it, and deleted when ttlSecondsAfterFinished has passed.
CHILDREN = (
    "configmaps",
    "jobs.batch",
    "networkpolicies.networking.k8s.io",
    "persistentvolumeclaims",
    "poddisruptionbudgets.policy",
    "secrets",
    "serviceaccounts",
    "services",
)
IDLE = {
    "foedus-operator": {(kind, verb) for kind in CHILDREN for verb in ("delete", "get", "patch")},
    "foedus-ledger": set(),
}
# An uninstall takes the roles away while a pod still holds its lease or asks who does; the other one waits it out.
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/foedus-operator"
LATE = {f"{verb} {LEASE}" for verb in ("get", "update")}


@pytest.mark.parametrize("identity", IDLE)
def test_no_right_is_idle_and_none_is_missing(cluster, identity):
    events = list(requests(cluster.layout.audit_log, f"system:serviceaccount:{NAMESPACE}:{identity}"))
    assert [line for line in denied(events) if line.partition("?")[0] not in LATE] == []
    assert sorted(granted(identity) - used(events) - IDLE[identity]) == []
    assert used(events) <= granted(identity)


def requests(log, user):
    """Yield what the user has asked for, the files that are full first."""
    for file in [*sorted(log.parent.glob("audit-*.log")), log]:
        with file.open("rb") as lines:
            for line in lines:
                if user.encode() in line and (event := json.loads(line))["user"]["username"] == user:
                    yield event

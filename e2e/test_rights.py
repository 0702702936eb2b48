"""What Foedus' identities asked the API server for in the whole run: none of their rights is idle, none was missing.

It comes last (`conftest`), and only after all other files: the audit log is that of everything before.
"""

import json

import pytest

from e2e.release import NAMESPACE
from support.audit import denied, granted, used

pytestmark = pytest.mark.e2e

# Granted, and not asked for by anything that these tests let happen; tests/contract asks for each of them once.
IDLE = {
    "foedus-operator": {
        # Only of a job whose ttlSecondsAfterFinished has passed; others' children go with the job.
        ("networkpolicies.networking.k8s.io", "delete"),
        ("persistentvolumeclaims", "delete"),
        ("secrets", "delete"),
        ("serviceaccounts", "delete"),
        ("services", "delete"),
        # Certificates are made again after a suspension that outlasted them.
        ("secrets", "patch"),
        # Nobody reads the numbers there.
        ("subjectaccessreviews.authorization.k8s.io", "create"),
        ("tokenreviews.authentication.k8s.io", "create"),
    },
    "foedus-ledger": {("subjectaccessreviews.authorization.k8s.io", "create")},
}
# An uninstall takes the roles away while a pod still gives its lease back; the other one waits it out.
LATE = f"update /apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/foedus-operator"


@pytest.mark.parametrize("identity", IDLE)
def test_no_right_is_idle_and_none_is_missing(cluster, identity):
    events = list(requests(cluster.layout.audit_log, f"system:serviceaccount:{NAMESPACE}:{identity}"))
    assert [line for line in denied(events) if line.partition("?")[0] != LATE] == []
    assert granted(identity) - used(events) == IDLE[identity]
    assert used(events) <= granted(identity)


def requests(log, user):
    """Yield what the user has asked for, the files that are full first."""
    for file in [*sorted(log.parent.glob("audit-*.log")), log]:
        with file.open("rb") as lines:
            for line in lines:
                if user.encode() in line and (event := json.loads(line))["user"]["username"] == user:
                    yield event

"""Who may ask the ledger service: each link from a token to a budget, with everything but that link in order.

The answers are the API server's, written out, for some of them cannot be brought about at will; the whole way on a real
one is in contract/test_ledger_service.py.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from contract.test_crds import changed
from foedus_contract.errors import Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_engine.cluster.protocol import Conflict, NotFound
from foedus_engine.decide.plan import BudgetKey
from foedus_operator.api_server import ApiServer
from foedus_operator.ledger_service.desk import Desk
from foedus_operator.ledger_service.identity import TOKEN_REVIEWS, identify
from support.brain import manifest

NAMESPACE = "/namespaces/team-a/"
POD, JOB = f"/api/v1{NAMESPACE}pods/demo-silo-1-x", f"/apis/batch/v1{NAMESPACE}jobs/demo-silo-1"
TRAINING = f"/apis/foedus.dev/v1alpha1{NAMESPACE}federatedtrainingjobs/demo"
LEASE = f"/apis/coordination.k8s.io/v1{NAMESPACE}leases/demo-silo-1"
LEASES = f"/apis/coordination.k8s.io/v1{NAMESPACE}leases"
UID = manifest()["metadata"]["uid"]


def owned(kind: str, api_version: str, name: str, uid: str) -> list[dict[str, Any]]:
    return [{"kind": kind, "apiVersion": api_version, "name": name, "uid": uid, "controller": True}]


GOOD: dict[str, Any] = {
    TOKEN_REVIEWS: {
        "status": {
            "authenticated": True,
            "audiences": ["foedus-ledger"],
            "user": {
                "username": "system:serviceaccount:team-a:default",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["demo-silo-1-x"],
                    "authentication.kubernetes.io/pod-uid": ["pod-uid"],
                },
            },
        }
    },
    POD: {
        "metadata": {
            "name": "demo-silo-1-x",
            "namespace": "team-a",
            "uid": "pod-uid",
            "ownerReferences": owned("Job", "batch/v1", "demo-silo-1", "job-uid"),
        },
        "status": {"phase": "Running"},
    },
    JOB: {
        "metadata": {
            "name": "demo-silo-1",
            "namespace": "team-a",
            "uid": "job-uid",
            "ownerReferences": owned("FederatedTrainingJob", "foedus.dev/v1alpha1", "demo", UID),
        },
    },
    TRAINING: manifest(),
}


class Answers(ApiServer):
    """An API server with these objects; what is written is kept."""

    def __init__(self, objects: Mapping[str, Any]) -> None:
        self.objects = dict(objects)
        self.version = 0

    async def request(self, verb: str, path: str, **more: Any) -> Any:  # type: ignore[override]
        if verb == "GET":
            if path not in self.objects:
                raise NotFound("not found", where=path)
            return copy.deepcopy(self.objects[path])
        if path == TOKEN_REVIEWS:
            return self.objects[path]
        body = copy.deepcopy(more["body"])
        self.version += 1
        self.objects[LEASE] = {
            **body,
            "metadata": {"uid": "lease-uid", **body["metadata"], "resourceVersion": self.version},
        }
        return self.objects[LEASE]


def altered(path: str, field: str, value: Any) -> Answers:
    return Answers({**GOOD, path: changed(copy.deepcopy(GOOD[path]), field, value)})


async def test_a_silos_pod_is_known_by_its_owners() -> None:
    caller = await identify(Answers(GOOD), "a.b.c")
    assert (caller.pod_uid, caller.job_uid, caller.role, caller.silo) == ("pod-uid", UID, "demo-silo-1", "silo-1")
    assert caller.budget == BudgetKey("team-a", "budget-silo-1")


POD_META, USER = "metadata.ownerReferences", "status.user"


@pytest.mark.parametrize(
    ("path", "field", "value", "refusal"),
    [
        (TOKEN_REVIEWS, "status.authenticated", False, "the token is not accepted"),
        (TOKEN_REVIEWS, "status.audiences", ["https://kubernetes.default.svc"], "the token is not accepted"),
        (TOKEN_REVIEWS, "status.audiences", [], "the token is not accepted"),
        (TOKEN_REVIEWS, f"{USER}.username", "system:node:node1", "not bound to a pod"),
        (TOKEN_REVIEWS, f"{USER}.extra", {}, "not bound to a pod"),
        (POD, "metadata.uid", "another", "Pod demo-silo-1-x is another one by now"),
        (POD, "status.phase", "Succeeded", "the pod has ended"),
        (POD, "status.phase", "Failed", "the pod has ended"),
        (POD, POD_META, [], "belongs to no Job"),
        (POD, POD_META, [{**GOOD[POD]["metadata"]["ownerReferences"][0], "controller": False}], "belongs to no Job"),
        (POD, POD_META, owned("Job", "example.org/v1", "demo-silo-1", "job-uid"), "belongs to no Job"),
        (POD, POD_META, owned("Job", "batch/v1", "demo-silo-9", "job-uid"), "Job demo-silo-9 is gone"),
        (JOB, "metadata.uid", "another", "Job demo-silo-1 is another one by now"),
        (JOB, "metadata.ownerReferences", [], "belongs to no FederatedTrainingJob"),
        (JOB, "metadata.name", "demo-silo-9", "has no role demo-silo-9"),
        (TRAINING, "metadata.uid", "another", "FederatedTrainingJob demo is another one by now"),
        (TRAINING, "spec.clients", "none", "cannot be read"),
    ],
)
async def test_each_link_is_checked(path: str, field: str, value: Any, refusal: str) -> None:
    with pytest.raises(Refused, match=refusal) as caught:
        await identify(altered(path, field, value), "a.b.c")
    assert caught.value.code is ExitCode.IDENTITY_REFUSED


@pytest.mark.parametrize("token", ["", "ä", "x" * 8193])
async def test_what_is_no_token_is_not_shown_to_the_api_server(token: str) -> None:
    with pytest.raises(Refused, match="there is no token"):
        await identify(Answers({}), token)


async def test_a_pod_that_is_told_to_end_may_not_fail_its_job() -> None:
    with pytest.raises(Unavailable, match="the pod is ending"):
        await identify(altered(POD, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z"), "a.b.c")


async def test_a_pod_keeps_its_number_and_the_next_one_gets_the_next() -> None:
    server = Answers(GOOD)
    desk = Desk(server)
    first = [(await desk.claim("a.b.c")).incarnation for _ in range(2)]
    review = changed(copy.deepcopy(GOOD[TOKEN_REVIEWS]), f"{USER}.extra", {
        "authentication.kubernetes.io/pod-name": ["demo-silo-1-x"],
        "authentication.kubernetes.io/pod-uid": ["later"],
    })  # fmt: skip
    server.objects |= {TOKEN_REVIEWS: review, POD: changed(copy.deepcopy(GOOD[POD]), "metadata.uid", "later")}
    assert (first, (await desk.claim("a.b.c")).incarnation) == ([0, 0], 1)


async def test_a_lost_race_begins_anew_with_who_asks() -> None:
    class Overtaken(Answers):
        async def request(self, verb: str, path: str, **more: Any) -> Any:  # type: ignore[override]
            if path == LEASES:  # another pod was first, and this one has ended meanwhile
                self.objects[POD] = changed(copy.deepcopy(GOOD[POD]), "status.phase", "Failed")
                raise Conflict("changed", where=path)
            return await super().request(verb, path, **more)

    with pytest.raises(Refused, match="the pod has ended"):
        await Desk(Overtaken(GOOD)).claim("a.b.c")


async def test_the_lease_of_an_earlier_job_of_the_name_is_not_taken_over() -> None:
    server = Answers(GOOD)
    await Desk(server).claim("a.b.c")
    server.objects[LEASE]["metadata"]["ownerReferences"][0]["uid"] = "earlier"
    with pytest.raises(Unavailable, match="it belongs to another job"):
        await Desk(server).claim("a.b.c")

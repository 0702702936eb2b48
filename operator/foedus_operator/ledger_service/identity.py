"""Who asks: from a pod's token to the role it plays in a job, and for a silo to its budget.

1. TokenReview, for our audience alone, names ServiceAccount and pod; it refuses the token of a pod that is gone.
2. The pod must be that very one, by UID, and neither have ended nor be told to.
3. Its controller must be a Job, and that one's a training job, each by UID and in the pod's namespace.
4. The Job's name says the role; the training job's spec says which budget a silo of that name charges.

Adversary: any pod of the cluster that can reach the service, a silo's pod included. Assumption: who may create pods or
Jobs in a job's namespace belongs to it; such a one could charge its budgets, and not lower one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foedus_contract.errors import InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.ledger_wire import AUDIENCE
from foedus_engine import names
from foedus_engine.api.parse import parse_stored
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.cluster.protocol import NotFound, Object
from foedus_engine.decide.plan import BudgetKey, ObjectKey
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import path_of
from foedus_operator.serving import TOKEN_REVIEWS, is_token

POD_NAME, POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"
ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True)
class Caller:
    """One live pod: its UID, the training job, its role (the name of its Job), and for a silo's role the budget."""

    pod_uid: str
    job: ObjectKey  # with its UID
    role: str
    component: str
    silo: str = ""
    budget: BudgetKey | None = None

    @property
    def job_uid(self) -> str:
        """Return the account that the job has in its budgets."""
        return self.job.uid


async def identify(server: ApiServer, token: str) -> Caller:
    """Return who shows this token; raises Refused (IDENTITY_REFUSED), or Unavailable's kin without an answer."""
    namespace, name, uid = _pod_of(await _review(server, token))
    pod = await _get(server, ObjectKey("v1", "Pod", namespace, name, uid))
    if (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
        raise _refused("the pod has ended")
    if pod["metadata"].get("deletionTimestamp"):
        # Not refused for good: it may be told to go elsewhere, and its exit code must not fail the job.
        raise Unavailable("the pod is ending", where="ledger service", cure="the next pod of the role asks anew")
    job = await _get(server, _controller(pod, "batch/v1", "Job"))
    key = _controller(job, names.API_VERSION, names.TRAINING_KIND)
    return _in_role(await _get(server, key), key, str(job["metadata"]["name"]), uid)


async def _review(server: ApiServer, token: str) -> Mapping[str, Any]:
    if not is_token(token):
        raise _refused("there is no token")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [AUDIENCE]},
    }
    status = (await server.request("POST", TOKEN_REVIEWS, body=review)).get("status") or {}
    # An authenticator that knows no audiences would leave them out: such a token could be anybody's.
    if status.get("authenticated") is not True or AUDIENCE not in (status.get("audiences") or ()):
        raise _refused("the token is not accepted")
    return status.get("user") or {}


def _pod_of(user: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return namespace, name and UID of the pod that the token is bound to."""
    account = str(user.get("username") or "")
    extra: Mapping[str, list[str]] = user.get("extra") or {}
    pods = [*zip(extra.get(POD_NAME, []), extra.get(POD_UID, []), strict=False)]
    if not account.startswith(ACCOUNT) or len(pods) != 1:
        raise _refused("the token is not bound to a pod")
    name, uid = pods[0]
    return account.removeprefix(ACCOUNT).partition(":")[0], name, uid


async def _get(server: ApiServer, key: ObjectKey) -> Object:
    """Return the object that `key` names with its UID."""
    try:
        found = await server.request("GET", path_of(key))
    except NotFound:
        raise _refused(f"{key.kind} {key.name} is gone") from None
    if found["metadata"]["uid"] != key.uid:
        raise _refused(f"{key.kind} {key.name} is another one by now")
    return found


def _controller(obj: Object, api_version: str, kind: str) -> ObjectKey:
    meta = obj["metadata"]
    for owner in meta.get("ownerReferences") or ():
        if owner.get("controller") is True and (owner.get("apiVersion"), owner.get("kind")) == (api_version, kind):
            return ObjectKey(api_version, kind, meta["namespace"], owner["name"], owner["uid"])
    raise _refused(f"{meta['name']} belongs to no {kind}")


def _in_role(found: Object, key: ObjectKey, role: str, pod_uid: str) -> Caller:
    try:
        job = parse_stored(FederatedTrainingJob, found)
    except InvalidInput as error:
        raise _refused(f"{key.kind} {key.name} cannot be read: {error.what}") from None
    if role == names.coordinator(key.name):
        return Caller(pod_uid, key, role, names.COORDINATOR_ROLE)
    for client in job.spec.clients:
        if role == names.client(key.name, client.name):
            budget = BudgetKey(key.namespace, client.budget_ref.name)
            return Caller(pod_uid, key, role, names.CLIENT_ROLE, client.name, budget)
    raise _refused(f"{key.kind} {key.name} has no role {role}")


def _refused(what: str) -> Refused:
    cure = "only a pod that Foedus has made for a role of a job may ask, with the token made for the ledger service"
    return Refused(what, where="ledger service", cure=cure, code=ExitCode.IDENTITY_REFUSED)

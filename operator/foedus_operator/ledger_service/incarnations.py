"""Which start of its role a pod is: the `leaseTransitions` of a Lease of the role's name, held by the pod's UID.

1. Read the role's Lease.
2. Held by this pod: that is the answer. Otherwise write it with this holder and one transition more, over the version
   that was read; so of two pods each gets a number of its own.
3. After a lost race begin anew with who asks: a pod that has ended meanwhile must not overtake the one after it.

The Lease belongs to the training job and goes with it; should it be deleted earlier, numbers begin at 0 again, and
peers refuse them.
"""

from __future__ import annotations

from typing import Any

from foedus_contract.errors import Unavailable
from foedus_engine import names
from foedus_engine.build.metadata import Owner, build_metadata
from foedus_engine.cluster.protocol import AlreadyExists, Conflict, NotFound, Object
from foedus_engine.decide.plan import ObjectKey
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import STRICT, collection, path_of
from foedus_operator.ledger_service.identity import Caller
from foedus_operator.ledgers import WRITER

LEASES = ("coordination.k8s.io/v1", "Lease")


async def try_to_claim(server: ApiServer, caller: Caller) -> int | None:
    """Return the caller's incarnation, None when another writer was first; raises Unavailable's kin."""
    try:
        held = await server.request("GET", path_of(ObjectKey(*LEASES, caller.job.namespace, caller.role)))
    except NotFound:
        held = None
    if held is not None and _owner(held) != caller.job_uid:
        where = f"Lease {caller.job.namespace}/{caller.role}"
        raise Unavailable("it belongs to another job", where=where, cure="delete it unless it goes by itself")
    if held is not None and _holder(held) == caller.pod_uid:
        return _transitions(held)
    number = 0 if held is None else _transitions(held) + 1
    try:
        await _write(server, caller, number, held)
    except (Conflict, AlreadyExists, NotFound):
        return None
    return number


async def _write(server: ApiServer, caller: Caller, number: int, held: Object | None) -> None:
    body = build_lease(caller, number)
    query = {"fieldManager": WRITER, **STRICT}
    if held is None:
        await server.request("POST", collection(*LEASES, caller.job.namespace), query=query, body=body)
        return
    body["metadata"] |= {"resourceVersion": held["metadata"]["resourceVersion"], "uid": held["metadata"]["uid"]}
    path = path_of(ObjectKey(*LEASES, caller.job.namespace, caller.role))
    await server.request("PUT", path, query=query, body=body)


def build_lease(caller: Caller, number: int) -> dict[str, Any]:
    """Return the Lease of the caller's role, held by it."""
    owner = Owner(names.TRAINING_KIND, caller.job.namespace, caller.job.name, caller.job_uid)
    return {
        "apiVersion": LEASES[0],
        "kind": LEASES[1],
        "metadata": build_metadata(owner, caller.role, caller.component, caller.silo),
        "spec": {"holderIdentity": caller.pod_uid, "leaseTransitions": number},
    }


def _owner(lease: Object) -> str:
    owners = lease["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller") is True), "")


def _holder(lease: Object) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _transitions(lease: Object) -> int:
    return int((lease.get("spec") or {}).get("leaseTransitions") or 0)

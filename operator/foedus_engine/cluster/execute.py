"""Carries out a plan, in the one order in which a crash between two steps is harmless.

1. ledger: reservations stand before the first pod, so no child exists without one
2. ensure, apply, update, delete, hasten
3. status, once, also when a step before failed, and only when it differs; what the cluster refused to make is said
4. events
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_engine.api.training_status import TrainingReason as Reason
from foedus_engine.cluster.pods import decode_content
from foedus_engine.cluster.protocol import (
    AlreadyExists,
    Busy,
    Cluster,
    ClusterFault,
    Conflict,
    Forbidden,
    Ledgers,
    NameTaken,
    NotFound,
    Object,
    find,
)
from foedus_engine.decide.conditions import blocked
from foedus_engine.decide.plan import (
    BUDGET_REFUSED,
    LEDGER_UNAVAILABLE,
    Close,
    ContentFactory,
    Ensure,
    Event,
    KeepHead,
    Manifest,
    ObjectKey,
    Plan,
    Reserve,
    key_of,
)

AGAIN_SECONDS = 1.0  # after a refusal: the next decision reads the closed accounts and says why


async def execute(
    plan: Plan, *, obj: Object, cluster: Cluster, ledgers: Ledgers, factory: ContentFactory
) -> float | None:
    """Carry out the plan about `obj` and return in how many seconds to decide again (None: when something changes).

    A reservation that is refused, lost to another writer or left without an answer ends the pass before anything
    starts; the last two raise. What the plan says about the object is then not true, so its status is left to the
    next decision.
    """
    key = key_of(obj)
    try:
        stopped = await _settle(plan, ledgers)
    except (Unavailable, Busy, Conflict) as error:
        # Unknown counts as reserved: nothing is given back, nothing starts, the next pass reads what is true.
        # Nor is anything given back after a conflict: closing is final, and the next pass completes the set.
        await cluster.publish(key, Event("Warning", LEDGER_UNAVAILABLE, str(error)))
        raise
    if stopped is not None:
        await cluster.publish(key, Event("Warning", BUDGET_REFUSED, str(stopped)))
        return AGAIN_SECONDS
    try:
        await _change(plan, cluster, factory)
    except (Forbidden, InvalidInput) as error:
        await _report(replace(plan, status=blocked(plan.status, _reason(error), str(error))), obj, cluster)
        raise
    except BaseException:
        await _report(plan, obj, cluster)
        raise
    await _report(plan, obj, cluster)
    for event in plan.events:
        await cluster.publish(key, event)
    return plan.requeue_seconds


async def _settle(plan: Plan, ledgers: Ledgers) -> Refused | None:
    """Reserve and close; when one reservation is refused, close those of this plan and return the refusal."""
    reserved: list[Reserve] = []
    for operation in plan.ledger:
        if isinstance(operation, Close):
            await ledgers.close(operation.budget, job_uid=operation.job_uid)
            continue
        if isinstance(operation, KeepHead):
            await ledgers.keep_head(operation.budget, operation.head)
            continue
        try:
            await ledgers.reserve(
                operation.budget,
                job_uid=operation.job_uid,
                mechanism=operation.mechanism,
                count=operation.count,
                claimant=operation.claimant,
            )
        except Refused as refusal:
            for done in reversed(reserved):
                await ledgers.close(done.budget, job_uid=done.job_uid)
            return refusal
        reserved.append(operation)
    return None


async def _change(plan: Plan, cluster: Cluster, factory: ContentFactory) -> None:
    for ensure in plan.ensure:
        await _ensure(ensure, cluster, factory)
    for manifest in plan.apply:
        await _apply(manifest, cluster)
    for obj in plan.update:
        await cluster.update(obj)
    for key in plan.delete:
        await _delete(key, cluster)
    for obj in plan.hasten:
        with suppress(ClusterFault, InvalidInput):
            await cluster.update(obj)


async def _ensure(ensure: Ensure, cluster: Cluster, factory: ContentFactory) -> None:
    """Create the object unless it is there, or renew its content; else the factory does not run."""
    manifest: Mapping[str, Any] = ensure.manifest
    if not ensure.renew and (found := await find(cluster, key_of(manifest))) is not None:
        if not ensure.anybodys:
            _check_same_owner(manifest, found)
        return
    if ensure.content is not None:
        issuer = None if ensure.content.issuer is None else decode_content(await cluster.get(ensure.content.issuer))
        content = factory(ensure.content, issuer)
        data = {name: base64.b64encode(value).decode("ascii") for name, value in content.items()}
        manifest = {**manifest, "data": data}
    await _apply(manifest, cluster)


async def _apply(manifest: Manifest, cluster: Cluster) -> None:
    """Change the object that was seen, in the very version that was decided on; make one that was not there.

    What is there after all was made by a pass whose answer was lost, or is somebody's and stays as it is.
    """
    if "uid" in manifest["metadata"]:
        await cluster.apply(manifest)
        return
    try:
        await cluster.create(manifest)
    except AlreadyExists:
        _check_same_owner(manifest, await cluster.get(key_of(manifest)))


def _check_same_owner(manifest: Manifest, found: Object) -> None:
    """Raise NameTaken unless what was found has the controller that the manifest names."""
    if _controller(found) == _controller(manifest):
        return
    owner = _controller(found)
    whose = f"{owner[0]} {owner[1]}" if owner else "nobody that Foedus knows"
    cure = "delete it if it is not needed, or create this object again under another name"
    raise NameTaken(f"is there already and belongs to {whose}", where=str(key_of(manifest)), cure=cure)


def _controller(obj: Object) -> tuple[str, str, str] | None:
    for reference in obj["metadata"].get("ownerReferences", ()):
        if reference.get("controller", False):
            return reference["kind"], reference["name"], reference["uid"]
    return None


def _reason(error: Forbidden | InvalidInput) -> Reason:
    """Return why the cluster refused to make something, in a word."""
    if isinstance(error, InvalidInput):
        return Reason.INVALID_SPEC
    if isinstance(error, NameTaken):
        return Reason.NAME_TAKEN
    return Reason.QUOTA_EXCEEDED if "exceeded quota" in error.what else Reason.FORBIDDEN


async def _delete(key: ObjectKey, cluster: Cluster) -> None:
    try:
        await cluster.delete(key)
    except NotFound:
        return  # that is what was asked for


async def _report(plan: Plan, obj: Object, cluster: Cluster) -> None:
    """Write the status if it differs from the one that the plan was decided on.

    The write bears the version that was read: when the object changed meanwhile, the Conflict decides it again.
    """
    if plan.status is None or dict(plan.status) == dict(obj.get("status", {})):
        return
    try:
        await cluster.update_status({**obj, "status": dict(plan.status)})
    except NotFound:
        return  # deleted meanwhile: nobody is left to tell


def is_transient(error: FoedusError) -> bool:
    """Say whether trying again may help; the error's class is the rule."""
    return isinstance(error, Unavailable | Busy | Conflict | Forbidden | NotFound | AlreadyExists)

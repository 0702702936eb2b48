"""Conditions as Kubernetes keeps them: a closed list of types and reasons, times that move only when a status does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from foedus_engine.api.budget import BudgetConditionType, BudgetReason
from foedus_engine.api.training_status import TrainingConditionType as ConditionType
from foedus_engine.api.training_status import TrainingReason as Reason

MAX_MESSAGE = 1024  # the CRDs bound a condition's message


@dataclass(frozen=True)
class Condition:
    """What is to be said about one aspect now."""

    type: ConditionType | BudgetConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Reason | BudgetReason
    message: str = ""


def merge_conditions(
    old: Sequence[Mapping[str, Any]], new: Sequence[Condition], *, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Return `old` with `new` said over it, in the order of first appearance.

    A condition that is not mentioned stays. lastTransitionTime is kept while the status stays the same.
    """
    kept = {str(condition["type"]): dict(condition) for condition in old}
    for condition in new:
        before = kept.get(str(condition.type), {})
        moved = before.get("status") != condition.status or "lastTransitionTime" not in before
        kept[str(condition.type)] = {
            "type": str(condition.type),
            "status": condition.status,
            "reason": str(condition.reason),
            "message": condition.message[:MAX_MESSAGE],
            "observedGeneration": generation,
            "lastTransitionTime": timestamp(now) if moved else before["lastTransitionTime"],
        }
    return list(kept.values())


def blocked(status: Mapping[str, Any] | None, reason: Reason, message: str) -> dict[str, Any] | None:
    """Return the status with why the cluster refused to make what the object needs, as the reason why it is not ready.

    An object that is ready needs nothing more.
    """
    not_ready = (str(ConditionType.READY), "False")
    if status is None or not_ready not in {(each["type"], each["status"]) for each in status.get("conditions", ())}:
        return None if status is None else dict(status)
    said = {"reason": str(reason), "message": message[:MAX_MESSAGE]}
    conditions = [
        {**each, **said} if (each["type"], each["status"]) == not_ready else each
        for each in status.get("conditions", ())
    ]
    return {**status, "conditions": conditions, "message": said["message"]}


def is_true(status: Mapping[str, Any], kind: ConditionType) -> bool:
    """Return whether a stored status says that `kind` holds."""
    return any(
        condition.get("type") == str(kind) and condition.get("status") == "True"
        for condition in status.get("conditions", ())
    )


def timestamp(moment: datetime) -> str:
    """Return `moment` (in UTC) as metav1.Time writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """Return the moment that metav1.Time text names."""
    return datetime.fromisoformat(text)

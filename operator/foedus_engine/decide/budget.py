"""What should happen to a PrivacyBudget now: pure, from the object, what is used of it, and whose jobs are gone.

An account whose job is gone is closed: what was charged stays charged, what was only reserved is given back. No
finalizer on the job is needed for that, so a job can be deleted while nothing of Foedus runs, and whatever way it went.
It is safe while a process of the job still runs: a closed account is final, and charges nothing any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from foedus_engine.api.budget import BudgetConditionType, BudgetReason
from foedus_engine.build.storage import build_ledger_claim
from foedus_engine.decide.conditions import Condition, merge_conditions
from foedus_engine.decide.observed import ObjectMeta
from foedus_engine.decide.plan import BudgetKey, Close, Ensure, Plan

RETRY_SECONDS = 60.0  # a ledger that is damaged or behind is looked at again; its holder mends it


@dataclass(frozen=True)
class Used:
    """What is used of a budget, in ε at its δ. ε does not add up: `reserved` includes what is spent."""

    spent: float
    reserved: float
    exhausted: bool


@dataclass(frozen=True)
class LedgerProblem:
    """Why a budget's ledger cannot be used."""

    reason: BudgetReason
    message: str


def decide_problem(obj: Mapping[str, Any], problem: LedgerProblem, *, now: datetime) -> Plan:
    """Return what is to be done about a budget whose ledger cannot be used: say so."""
    condition = _ready(False, problem.reason, problem.message)
    return Plan(status=_status(ObjectMeta.from_document(obj), {}, condition, now), requeue_seconds=RETRY_SECONDS)


def decide_budget(obj: Mapping[str, Any], used: Used | None, orphans: Collection[str], *, now: datetime) -> Plan:
    """Return what is to be done: close the accounts of the jobs `orphans`, or say what is used, where that is known.

    A budget has a claim of its own for what its silo keeps of it; a job's pod mounts it. Its holder may have made it.
    """
    meta = ObjectMeta.from_document(obj)
    if orphans:
        # The write changes the object, and its next pass says what is left.
        key = BudgetKey(meta.namespace, meta.name)
        return Plan(ledger=tuple(Close(key, uid) for uid in sorted(orphans)))
    claim = Ensure(build_ledger_claim(meta.namespace, meta.name, meta.uid), anybodys=True)
    if used is None:
        return Plan(ensure=(claim,))
    fields = {"epsilonSpent": used.spent, "epsilonReserved": used.reserved}
    return Plan(ensure=(claim,), status=_status(meta, fields, _condition(used), now))


def _condition(used: Used) -> Condition:
    if used.exhausted:
        message = "all of it is spent or set aside; what open jobs do not use comes back when they end"
        return _ready(False, BudgetReason.EXHAUSTED, message)
    return _ready(True, BudgetReason.AVAILABLE, "")


def _ready(holds: bool, reason: BudgetReason, message: str) -> Condition:
    return Condition(BudgetConditionType.READY, "True" if holds else "False", reason, message)


def _status(meta: ObjectMeta, fields: Mapping[str, Any], condition: Condition, now: datetime) -> dict[str, Any]:
    """Return the stored status, accounts included, with what is new said over it."""
    old = meta.status
    conditions = merge_conditions(old.get("conditions", ()), [condition], generation=meta.generation, now=now)
    return {**old, **fields, "observedGeneration": meta.generation, "conditions": conditions}

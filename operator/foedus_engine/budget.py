"""How the loop handles a PrivacyBudget, and the pods that a training job's finalizer holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from foedus_contract.errors import Refused
from foedus_engine import names
from foedus_engine.accounting import Accounting, Later
from foedus_engine.api.budget import BudgetReason
from foedus_engine.cluster.protocol import Cluster, Ledgers, Object, find
from foedus_engine.decide.budget import LedgerProblem, decide_budget, decide_problem
from foedus_engine.decide.ending import is_terminal
from foedus_engine.decide.plan import BudgetKey, ObjectKey, Plan
from foedus_engine.decide.pods import decide_pod
from foedus_engine.reconcile import Kinds
from foedus_ledger.charges import LedgerBehind
from foedus_ledger.records import BudgetRecord


def budget_kinds(cluster: Cluster, ledgers: Ledgers, accounting: Accounting, *, clock: Callable[[], datetime]) -> Kinds:
    """Return the table that a Reconciler needs for budgets that are objects of the cluster."""

    async def decide(obj: Object) -> Plan:
        meta = obj["metadata"]
        key = BudgetKey(meta["namespace"], meta["name"])
        ledger = await _read(ledgers, key)
        if ledger is None:
            return Plan()
        if isinstance(ledger, LedgerProblem):
            return decide_problem(obj, ledger, now=clock())
        orphans = await _orphans(cluster, meta["namespace"], ledger)  # after the ledger
        used = None if orphans else await accounting.used(key, ledger)
        if isinstance(used, Later):
            return replace(decide_budget(obj, None, orphans, now=clock()), requeue_seconds=used.seconds)
        return decide_budget(obj, used, orphans, now=clock())

    return {(names.API_VERSION, names.BUDGET_KIND): decide}


async def _orphans(cluster: Cluster, namespace: str, ledger: BudgetRecord) -> set[str]:
    """Return the open accounts whose jobs are gone, are over, or have given way to others of their name.

    An account was opened for a job that was there, so one that is not there after the ledger was read is gone for good.
    What names no job of the namespace is left alone.
    """
    orphans = set()
    for uid, account in ledger.accounts.items():
        place, _, name = account.claimant.partition("/")
        if account.state != "Open" or place != namespace or not name:
            continue
        job = await find(cluster, ObjectKey(names.API_VERSION, names.TRAINING_KIND, namespace, name))
        if job is None or job["metadata"]["uid"] != uid or is_terminal(job.get("status") or {}):
            orphans.add(uid)
    return orphans


async def _read(ledgers: Ledgers, key: BudgetKey) -> BudgetRecord | LedgerProblem | None:
    try:
        return await ledgers.read(key)
    except LedgerBehind as error:
        return LedgerProblem(BudgetReason.LEDGER_BEHIND, str(error))
    except Refused as error:
        return LedgerProblem(BudgetReason.LEDGER_DAMAGED, str(error))


def pod_kinds(cluster: Cluster, *, clock: Callable[[], datetime]) -> Kinds:
    """Return the table that a Reconciler needs for the pods that wait until their result has been read."""

    async def decide(pod: Object) -> Plan:
        meta = pod["metadata"]
        if names.RESULT_FINALIZER not in meta.get("finalizers", ()):
            return Plan()
        name = meta.get("labels", {}).get(names.JOB_LABEL, "")
        job = ObjectKey(names.API_VERSION, names.TRAINING_KIND, meta["namespace"], name)
        return decide_pod(pod, await find(cluster, job) if name else None, now=clock())

    return {("v1", "Pod"): decide}

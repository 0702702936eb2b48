"""The state folder: where the budgets' ledgers lie beside the embedded engine's objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from foedus.options import command
from foedus_contract.errors import InvalidInput, Unavailable
from foedus_engine.api.budget import PrivacyBudget
from foedus_engine.cluster.embedded import claim_path, make_private
from foedus_engine.cluster.embedded_ledgers import ledger_path
from foedus_engine.cluster.processes import try_lock
from foedus_engine.decide.plan import BudgetKey
from foedus_engine.names import LEDGER_FILE, ledger_claim
from foedus_ledger.ledger import BudgetRecord
from foedus_ledger.records import BudgetSpec
from foedus_ledger.sqlite import SqliteLedger

EVERY_NAMESPACE = "*"  # no name of a namespace


@dataclass(frozen=True)
class StoredBudget:
    """A budget of the state folder, with its ledger as last committed."""

    key: BudgetKey
    record: BudgetRecord


@contextmanager
def making_budgets(state: Path) -> Iterator[None]:
    """Make the state folder if need be, and let no other command make budgets there meanwhile; raises Unavailable.

    Two at once would not see that they are for the same records.
    """
    make_private(state)
    lock = try_lock(state / "budgets.lock")
    if lock is None:
        cure = "try again when it has ended"
        raise Unavailable("another command makes budgets here", where=str(state), cure=cure)
    try:
        yield
    finally:
        os.close(lock)


def create_budget(state: Path, budget: PrivacyBudget) -> None:
    """Write the ledger of a new budget; raises Refused (BUDGET_EXISTS) when there is one."""
    spec = budget.spec
    SqliteLedger(ledger_path(state, BudgetKey(budget.metadata.namespace, budget.metadata.name))).create(
        BudgetSpec(
            digest=spec.dataset.digest,
            records=spec.dataset.records,
            epsilon=spec.epsilon,
            delta=spec.delta,
            owner=spec.owner,
            labels=spec.labels,
            least_colluders=spec.least_colluders,
        )
    )


def find_budget(state: Path, namespace: str, name: str) -> StoredBudget | None:
    """Return the budget, or None when its holder has not made it; raises Refused when its ledger is damaged."""
    key = BudgetKey(namespace, name)
    path = ledger_path(state, key)
    return StoredBudget(key, SqliteLedger(path).read()) if path.exists() else None


def require_budget(state: Path, namespace: str, name: str) -> StoredBudget:
    """Return the budget; raises InvalidInput that says how to make it."""
    found = find_budget(state, namespace, name)
    if found is None:
        words = f"budget create {name} --data FILE --epsilon EPSILON --delta DELTA"
        cure = f"make it with: {command(words, state, namespace)}"
        raise InvalidInput("does not exist", where=f"budget {namespace}/{name}", cure=cure)
    return found


def list_budgets(state: Path, namespace: str) -> list[StoredBudget]:
    """Return the budgets of a namespace in name order."""
    keys = list_budget_keys(state, namespace)
    return [StoredBudget(key, SqliteLedger(ledger_path(state, key)).read()) for key in keys]


def list_budget_keys(state: Path, namespace: str) -> list[BudgetKey]:
    """Return the keys of a namespace's budgets, or of all budgets, in name order."""
    found = claim_path(state, namespace, "").parent.glob(f"{namespace}/{ledger_claim('*')}/{LEDGER_FILE}")
    return sorted(BudgetKey(path.parents[1].name, path.parent.name.removesuffix(ledger_claim(""))) for path in found)

"""The state folder: where the budgets' ledgers lie beside the embedded engine's objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foedus_engine.api.budget import PrivacyBudget
from foedus_engine.cluster.embedded import claim_path
from foedus_engine.cluster.embedded_ledgers import ledger_path
from foedus_engine.decide.plan import BudgetKey
from foedus_engine.names import LEDGER_FILE, ledger_claim
from foedus_ledger.ledger import BudgetRecord
from foedus_ledger.records import BudgetSpec
from foedus_ledger.sqlite import SqliteLedger


@dataclass(frozen=True)
class StoredBudget:
    """A budget of the state folder, with its ledger as last committed."""

    name: str
    record: BudgetRecord


def create_budget(state: Path, budget: PrivacyBudget) -> None:
    """Write the ledger of a new budget; raises Refused (BUDGET_EXISTS) when there is one."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    spec = budget.spec
    SqliteLedger(ledger_path(state, BudgetKey(budget.metadata.namespace, budget.metadata.name))).create(
        BudgetSpec(
            digest=spec.dataset.digest,
            records=spec.dataset.records,
            epsilon=spec.epsilon,
            delta=spec.delta,
            owner=spec.owner,
        )
    )


def find_budget(state: Path, namespace: str, name: str) -> StoredBudget | None:
    """Return the budget, or None when its holder has not made it; raises Refused when its ledger is damaged."""
    path = ledger_path(state, BudgetKey(namespace, name))
    return StoredBudget(name, SqliteLedger(path).read()) if path.exists() else None


def list_budgets(state: Path, namespace: str) -> list[StoredBudget]:
    """Return the budgets of a namespace in name order."""
    pattern = f"{ledger_claim('*')}/{LEDGER_FILE}"
    folder = claim_path(state, namespace, "")
    names = sorted(path.parent.name.removesuffix(ledger_claim("")) for path in folder.glob(pattern))
    return [StoredBudget(name, SqliteLedger(ledger_path(state, BudgetKey(namespace, name))).read()) for name in names]

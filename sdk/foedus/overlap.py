"""Which records have a budget already: their hashes, in the holder's own state folder.

A data set with one record more has another digest, but all the others would get their ε a second time. Hashes of
records are as private as the records; they lie in files for this user alone and go nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foedus.options import command
from foedus.state import EVERY_NAMESPACE, list_budgets
from foedus_contract import limits
from foedus_contract.durable import read_at_most, unwritable, write_durably
from foedus_contract.errors import Refused
from foedus_contract.exit_codes import ExitCode
from foedus_engine.api.budget import PrivacyBudget
from foedus_engine.decide.plan import BudgetKey

HASH_BYTES = 32


@dataclass(frozen=True)
class Draft:
    """A budget that is about to be made, and the hashes of the records that it is for."""

    budget: PrivacyBudget
    hashes: frozenset[bytes]

    @property
    def key(self) -> BudgetKey:
        """Return the budget's key."""
        return BudgetKey(self.budget.metadata.namespace, self.budget.metadata.name)


@dataclass(frozen=True)
class _Held:
    key: BudgetKey
    digest: str
    hashes: frozenset[bytes]


def check_overlap(state: Path, drafts: Sequence[Draft]) -> None:
    """Raise Refused when records have a budget under another name: their holder would promise less than it spends.

    Of a budget that was made without its records at hand, only the digest is known.
    """
    held = [
        _Held(item.key, item.record.spec.digest, read_hashes(state, item.key))
        for item in list_budgets(state, EVERY_NAMESPACE)
    ]
    for draft in drafts:
        for other in held:
            if other.key != draft.key:
                _check_pair(state, draft, other)
        held.append(_Held(draft.key, draft.budget.spec.dataset.digest, draft.hashes))


def keep_hashes(state: Path, draft: Draft) -> None:
    """Keep the hashes beside the budget that is about to be made; raises Unavailable."""
    path = hashes_path(state, draft.key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, b"".join(sorted(draft.hashes)))
    except OSError as error:
        raise unwritable(path, error) from error


def read_hashes(state: Path, key: BudgetKey) -> frozenset[bytes]:
    """Return the hashes of a budget's records, none when they were never kept; raises Refused for a damaged file."""
    path = hashes_path(state, key)
    most = limits.MAX_RECORDS * HASH_BYTES
    try:
        content = read_at_most(path, most)
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise unwritable(path, error) from error
    if len(content) > most or len(content) % HASH_BYTES:
        cure = "restore it; without it nobody sees that records get a second budget"
        raise Refused("the hashes of the budget's records are damaged", where=str(path), cure=cure)
    return frozenset(content[start : start + HASH_BYTES] for start in range(0, len(content), HASH_BYTES))


def hashes_path(state: Path, key: BudgetKey) -> Path:
    """Return where the hashes of a budget's records lie: no volume of a silo's or a coordinator's process."""
    return state / "records" / key.namespace / f"{key.name}.sha256"


def _check_pair(state: Path, draft: Draft, other: _Held) -> None:
    same = draft.budget.spec.dataset.digest == other.digest
    common = len(draft.hashes & other.hashes)
    if not same and not common:
        return
    what = "the same records have" if same else f"{common} of its records have"
    raise Refused(
        f"{what} the budget {other.key.name} already, and the ε of both would add up",
        where=f"budget {draft.key.name}",
        cure=f"show it with: {command(f'budget {other.key.name}', state, other.key.namespace)}; "
        "if both may be spent, say so with --additional",
        code=ExitCode.BUDGET_EXISTS,
    )

"""The silos' ledgers as the embedded engine keeps them: one SQLite file in the claim `<budget>-ledger`.

A ledger is compared with its silo's log of charges in the same claim, which the identity key there must have signed,
and with the head of that log as the engine saw it when it last reserved or closed, which lies elsewhere:
`<state>/heads/<namespace>/<budget>.json`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from foedus_contract.durable import write_durably
from foedus_contract.errors import InvalidInput, Unavailable
from foedus_contract.wire import LedgerHead
from foedus_engine.cluster.embedded import claim_path
from foedus_engine.decide.plan import BudgetKey
from foedus_engine.names import LEDGER_FILE, ledger_claim
from foedus_ledger.charge_log import log_path, own_identity, read_charges, read_own_charges
from foedus_ledger.charges import Charges, check_not_behind, check_reaches, damaged
from foedus_ledger.ledger import BudgetRecord
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.sqlite import LedgerMissing, SqliteLedger

MAX_HEAD_BYTES = 4096


def ledger_path(state: Path, budget: BudgetKey) -> Path:
    """Return the ledger file of a budget below a state folder."""
    return claim_path(state, budget.namespace, ledger_claim(budget.name)) / LEDGER_FILE


def head_path(state: Path, budget: BudgetKey) -> Path:
    """Return where the engine of a state folder keeps the head that it saw last."""
    return state / "heads" / budget.namespace / f"{budget.name}.json"


def read_checked(
    state: Path, budget: BudgetKey, read_log: Callable[[Path], Charges] = read_own_charges
) -> BudgetRecord:
    """Return the budget's record; raises LedgerBehind, LogDamaged, or what SqliteLedger.read raises."""
    path = ledger_path(state, budget)
    charges = read_log(log_path(path))  # first: the silo charges its ledger before it writes its log
    record = SqliteLedger(path).read()
    check_not_behind(record, charges, str(path))
    seen = read_head(head_path(state, budget))
    if seen is not None:
        check_reaches(record, seen, str(path))
    return record


def read_head(path: Path) -> LedgerHead | None:
    """Return the head that was kept, None when none was."""
    try:
        with path.open("rb") as file:
            return LedgerHead.from_json(file.read(MAX_HEAD_BYTES))
    except FileNotFoundError:
        return None
    except InvalidInput as error:
        raise damaged(f"the head that was kept is damaged ({error.what})", str(path)) from None


class EmbeddedLedgers:
    """The ledgers below one state folder. Files are read and written in threads: a commit waits for the disk."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._logs: dict[Path, tuple[tuple[int | bytes, ...], Charges]] = {}  # by file: what it and its key were then

    async def read(self, budget: BudgetKey) -> BudgetRecord | None:
        """Return the budget with all its accounts; None when its holder has not created it.

        Raises LedgerBehind for an old copy, Refused for a ledger or log that cannot be trusted, Unavailable.
        """
        try:
            return await asyncio.to_thread(read_checked, self._state, budget, self._read_log)
        except LedgerMissing:
            return None
        except OSError as error:
            cure = "check the folder's permissions"
            where = str(ledger_path(self._state, budget))
            raise Unavailable(f"the ledger cannot be read ({error.strerror})", where=where, cure=cure) from None

    async def reserve(
        self, budget: BudgetKey, *, job_uid: str, mechanism: Mechanism, count: int, claimant: str
    ) -> None:
        """Set aside `count` releases; raises Refused when they do not fit, Unavailable when the answer is unknown."""
        await asyncio.to_thread(self._keep_head, budget)
        await asyncio.to_thread(self._ledger(budget).reserve, job_uid, mechanism, count, claimant)

    async def keep_head(self, budget: BudgetKey, head: LedgerHead) -> None:
        """Keep the end of the silo's log unless a later one is kept; from then on an older ledger is behind."""
        await asyncio.to_thread(_keep, head_path(self._state, budget), head)

    async def close(self, budget: BudgetKey, *, job_uid: str) -> None:
        """Give back what was reserved and not charged; an absent or closed account is left as it is."""
        await asyncio.to_thread(self._keep_head, budget)
        await asyncio.to_thread(self._ledger(budget).close, job_uid)

    def _ledger(self, budget: BudgetKey) -> SqliteLedger:
        return SqliteLedger(ledger_path(self._state, budget))

    def _read_log(self, path: Path) -> Charges:
        """Read the log when its file has changed: every pass asks, and a long log takes a while to check."""
        try:
            now = path.stat()
        except FileNotFoundError:
            return Charges()
        identity = own_identity(path)
        file = (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns, identity)
        known = self._logs.get(path)
        if known is not None and known[0] == file:
            return known[1]
        charges = read_charges(path, identity=identity)
        self._logs[path] = (file, charges)  # of what was there before it was read: a later change is read again
        return charges

    def _keep_head(self, budget: BudgetKey) -> None:
        """Keep the end of the log that lies beside the ledger; raises Unavailable."""
        path = head_path(self._state, budget)
        try:
            head = self._read_log(log_path(ledger_path(self._state, budget))).head
        except OSError as error:
            raise _not_kept(path, error) from None
        if head is not None:
            _keep(path, head)


def _keep(path: Path, head: LedgerHead) -> None:
    try:
        seen = read_head(path)
        if seen is None or seen.count < head.count:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(path, head.to_json())
    except OSError as error:
        raise _not_kept(path, error) from None


def _not_kept(path: Path, error: OSError) -> Unavailable:
    reason = error.strerror or type(error).__name__
    cure = "free space on the volume, or check the folder's permissions"
    return Unavailable(f"the head cannot be kept ({reason})", where=str(path), cure=cure)

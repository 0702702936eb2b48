"""The ledger's transitions, pure: an old record in, a new record out, or a refusal.

A backend (SQLite, a Kubernetes object) reads a record, applies one of these, and writes the result by compare-and-swap
on `version`; a conflict is decided again from a fresh read. `check_transition` states what every write must satisfy,
whoever made it; `check_import` does so for charges that are taken over from the silo's own log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from foedus_contract import limits
from foedus_contract.errors import InvalidInput, Refused
from foedus_ledger.accountants import composed_gaussian_epsilon, composed_pld_epsilon
from foedus_ledger.filters import GdpFilter, admits, committed, settled_order
from foedus_ledger.mechanisms import Mechanism, total
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec

__all__ = [
    "Account",
    "BudgetRecord",
    "BudgetSpec",
    "Ledger",
    "charge",
    "check_import",
    "check_transition",
    "close",
    "epsilon_reserved",
    "epsilon_spent",
    "import_charges",
    "reserve",
]


class Ledger(Protocol):
    """One silo dataset's budget in some store. Every method raises Unavailable when the store does not answer."""

    def read(self) -> BudgetRecord:
        """Return the record as last committed."""
        ...

    def reserve(self, job_uid: str, mechanism: Mechanism, count: int, claimant: str) -> BudgetRecord:
        """Set aside `count` releases for a job; raises Refused when they do not fit."""
        ...

    def charge(self, job_uid: str, attempt: int, *, noise_multiplier: float | None = None) -> BudgetRecord:
        """Charge one release; returns only once that is durable. After any error the attempt counts as charged."""
        ...

    def close(self, job_uid: str) -> BudgetRecord:
        """Give back what a job reserved and did not charge; final."""
        ...


def reserve(record: BudgetRecord, job_uid: str, mechanism: Mechanism, count: int, claimant: str) -> BudgetRecord:
    """Open an account of `count` releases; the same reservation again changes nothing.

    Raises Refused when it does not fit beside what is committed, or when the job has a different or closed account.
    """
    if not 1 <= count <= limits.MAX_ATTEMPTS:
        raise InvalidInput(f"{count} releases cannot be reserved", cure=f"reserve 1 to {limits.MAX_ATTEMPTS}")
    account = Account(mechanism=mechanism, reserved=count, claimant=claimant)
    existing = record.accounts.get(job_uid)
    if existing is not None:
        return _again(record, job_uid, existing, account)
    if len(record.accounts) >= limits.MAX_ACCOUNTS:
        # None is dropped to make room: that a closed account is there keeps its job from charging once more.
        cure = "ask its holder for a new budget"
        raise Refused(f"the ledger holds {limits.MAX_ACCOUNTS} accounts and has no room for another", cure=cure)
    if not admits(record.spec, record.accounts.values(), (account,)):
        raise Refused(_does_not_fit(record, account), cure="ask for less, or let open jobs end")
    return _with_account(record, job_uid, account)


def charge(
    record: BudgetRecord,
    job_uid: str,
    attempt: int,
    *,
    noise_multiplier: float | None = None,
    sampling_rate: float = 1.0,
) -> BudgetRecord:
    """Charge one release to the job's account. Every call is one charge; no attempt is charged twice.

    `noise_multiplier` is the one that the caller is about to draw with, `sampling_rate` the one at which it draws
    records; an account that counted on more noise or fewer records is refused.
    """
    account = record.accounts.get(job_uid)
    if account is None:
        raise Refused(f"job {job_uid} has reserved nothing in this budget", cure="let the engine reserve first")
    if account.state == "Closed":
        raise Refused(f"the account of job {job_uid} is closed", cure="start a new job")
    if account.charged >= account.reserved:
        raise Refused(f"all {account.reserved} reserved releases of job {job_uid} are charged", cure="start a new job")
    if attempt <= account.last_attempt:
        raise Refused(
            f"attempt {attempt} of job {job_uid} is not above the last charged one, {account.last_attempt}",
            cure="start a new attempt",
        )
    if noise_multiplier is not None and not noise_multiplier >= account.mechanism.noise_multiplier:  # NaN is refused
        raise Refused(
            f"noise multiplier {noise_multiplier:g} is below {account.mechanism.noise_multiplier:g}, which job"
            f" {job_uid} has reserved for",
            cure="run the plan that was reserved",
        )
    if not sampling_rate <= account.mechanism.sampling_rate:  # NaN is refused
        raise Refused(
            f"sampling rate {sampling_rate:g} is above {account.mechanism.sampling_rate:g}, which job {job_uid} has"
            " reserved for",
            cure="run the plan that was reserved",
        )
    return _with_account(record, job_uid, _changed(account, charged=account.charged + 1, last_attempt=attempt))


def close(record: BudgetRecord, job_uid: str) -> BudgetRecord:
    """Close the job's account, so that only what was charged counts; an absent or closed account is left as it is."""
    account = record.accounts.get(job_uid)
    if account is None or account.state == "Closed":
        return record
    return _with_account(record, job_uid, _changed(account, state="Closed"))


def import_charges(record: BudgetRecord, logged: Mapping[str, Account]) -> BudgetRecord:
    """Take over what a silo's log has and the ledger lacks; the same log again changes nothing.

    Charges only rise. An account that the ledger lacks comes back closed: what of it was not charged is not held again.
    """
    accounts = {job: _merged(record.accounts.get(job), account) for job, account in logged.items()}
    if all(record.accounts.get(job) == account for job, account in accounts.items()):
        return record
    return BudgetRecord(spec=record.spec, accounts={**record.accounts, **accounts}, version=record.version + 1)


def check_import(old: BudgetRecord, new: BudgetRecord) -> None:
    """Raise Refused unless `new` is `old` with charges taken over; they are spent, whatever the budget's limit."""
    _check_same_budget(old, new)
    for job_uid, after in new.accounts.items():
        before = old.accounts.get(job_uid)
        if before is None:
            if after.state != "Closed":
                raise Refused(f"the account of job {job_uid} is taken over closed")
            continue
        _check_fixed(job_uid, before, after)
        if after.state != before.state:
            raise Refused(f"taking charges over neither closes nor opens the account of job {job_uid}")
        if after.charged < before.charged or after.last_attempt < before.last_attempt:
            raise Refused(f"charges of job {job_uid} never fall")


def check_transition(old: BudgetRecord, new: BudgetRecord) -> None:
    """Raise Refused unless `new` may follow `old`: nothing spent is ever given back, and the limit holds."""
    _check_same_budget(old, new)
    for job_uid, before in old.accounts.items():
        _check_account(job_uid, before, new.accounts[job_uid])
    opened = [account for uid, account in new.accounts.items() if uid not in old.accounts]
    held = [account for uid, account in new.accounts.items() if uid in old.accounts]
    if any(account.charged or account.state == "Closed" for account in opened):
        raise Refused("a new account starts open and uncharged")
    if opened and not admits(new.spec, held, opened):
        raise Refused("the accounts exceed the budget", cure="reserve less")


def epsilon_spent(record: BudgetRecord) -> float:
    """Return ε of everything charged so far, at the budget's δ, by privacy loss distribution."""
    return composed_pld_epsilon(
        [(account.mechanism, account.charged) for account in record.accounts.values()], record.spec.delta
    )


def epsilon_reserved(record: BudgetRecord) -> float:
    """Return ε at the budget's δ of all that is charged and all that open jobs may still charge.

    ε does not add up: what is reserved but not charged is no difference of two ε.
    """
    return composed_pld_epsilon(
        [(account.mechanism, account.committed) for account in record.accounts.values()], record.spec.delta
    )


def _merged(held: Account | None, logged: Account) -> Account:
    if held is None:
        return _changed(logged, state="Closed")
    charged, last = max(held.charged, logged.charged), max(held.last_attempt, logged.last_attempt)
    return _changed(held, charged=charged, last_attempt=last)


def _check_same_budget(old: BudgetRecord, new: BudgetRecord) -> None:
    if new.spec != old.spec:
        raise Refused("a budget's spec never changes", cure="make a new budget")
    if new.version != old.version + 1:
        raise Refused(f"version {new.version} does not follow {old.version}", cure="read again")
    for job_uid in old.accounts:
        if job_uid not in new.accounts:
            raise Refused(f"the account of job {job_uid} is missing", cure="accounts are kept for ever")


def _check_fixed(job_uid: str, before: Account, after: Account) -> None:
    fixed = (before.mechanism, before.reserved, before.claimant) == (after.mechanism, after.reserved, after.claimant)
    if not fixed:
        raise Refused(f"mechanism, reservation and claimant of job {job_uid} never change")


def _check_account(job_uid: str, before: Account, after: Account) -> None:
    _check_fixed(job_uid, before, after)
    if before.state == "Closed" and after != before:
        raise Refused(f"the account of job {job_uid} is closed for good")
    step = (after.charged - before.charged, after.last_attempt > before.last_attempt)
    if step not in {(0, False), (1, True)} or after.last_attempt < before.last_attempt:
        raise Refused(f"charges of job {job_uid} rise one at a time, each with a higher attempt number")


def _again(record: BudgetRecord, job_uid: str, existing: Account, wanted: Account) -> BudgetRecord:
    same = (existing.mechanism, existing.reserved) == (wanted.mechanism, wanted.reserved)
    if same and existing.claimant == wanted.claimant and existing.state == "Open":
        return record
    state = "closed" if existing.state == "Closed" else "different"
    raise Refused(f"job {job_uid} already has a {state} account", cure="start a new job")


def _does_not_fit(record: BudgetRecord, account: Account) -> str:
    order = settled_order(record.spec, (*record.accounts.values(), account))
    if order is not None:
        return (
            f"{account.reserved} releases at noise multiplier {account.mechanism.noise_multiplier:g} and sampling rate"
            f" {account.mechanism.sampling_rate:g} exceed what the Rényi filter of order {order:g} has left of the"
            f" limit {record.spec.epsilon:g} (δ = {record.spec.delta:g})"
        )
    budget = GdpFilter.of(record.spec.epsilon, record.spec.delta)
    held = committed(record.accounts.values())
    left, wanted = budget.remaining(held), total([(account.mechanism, account.reserved)])
    if wanted.mu_squared <= left.mu_squared:
        return "the noise is too coarse for this budget: the discretisation gap does not fit"
    releases = [(each.mechanism, each.committed) for each in record.accounts.values()]
    before = composed_gaussian_epsilon(releases, record.spec.delta)
    after = composed_gaussian_epsilon([*releases, (account.mechanism, account.reserved)], record.spec.delta)
    return (
        f"{account.reserved} releases at noise multiplier {account.mechanism.noise_multiplier:g} would bring ε from"
        f" {before:.4f} to {after:.4f}, above the limit {record.spec.epsilon:g} (δ = {record.spec.delta:g})"
    )


def _with_account(record: BudgetRecord, job_uid: str, account: Account) -> BudgetRecord:
    return BudgetRecord(spec=record.spec, accounts=record.accounts | {job_uid: account}, version=record.version + 1)


def _changed(account: Account, **changes: Any) -> Account:
    # Built anew, so that the model's own checks run again; model_copy would skip them.
    return Account(**(dict(account) | changes))

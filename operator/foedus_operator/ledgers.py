"""The ledgers on a cluster: `PrivacyBudget.status.accounts`, changed by compare-and-swap alone.

1. a quorum read of the one object
2. the transition, pure, from what was read
3. PUT of its status with the resourceVersion (and UID) that was read, unknown fields refused

A conflict is decided again from a fresh read. When no answer comes, the write may have happened or not: Unavailable
says so, and whoever charged counts the attempt as charged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_contract.models import first_problem
from foedus_contract.wire import LedgerHead
from foedus_engine import names
from foedus_engine.api.budget import PrivacyBudget
from foedus_engine.api.parse import parse_stored
from foedus_engine.cluster.protocol import Busy, Conflict, Forbidden, NotFound, Object
from foedus_engine.decide.plan import BudgetKey, ObjectKey
from foedus_ledger import ledger
from foedus_ledger.charges import check_reaches
from foedus_ledger.mechanisms import Mechanism
from foedus_ledger.records import Account, BudgetRecord, BudgetSpec, JobUid
from foedus_operator.api_server import ApiServer
from foedus_operator.kube import STRICT, path_of, without_owners

MAX_CONFLICTS = 32  # each lost race means that another writer got on
WRITER = "foedus-ledger"  # the field manager of every ledger write

_ACCOUNTS: TypeAdapter[dict[str, Account]] = TypeAdapter(dict[JobUid, Account])


class KubeLedgers:
    """Every silo's ledger in the cluster."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def read(self, budget: BudgetKey) -> BudgetRecord | None:
        """Return the budget with all its accounts; None when its holder has not created it.

        Raises Refused for a ledger that cannot be trusted, LedgerBehind for an old copy, Unavailable for one that does
        not answer.
        """
        try:
            obj = await self._get(budget)
        except NotFound:
            return None
        record = read_record(obj)
        check_kept_head(obj, record)
        return record

    async def reserve(
        self, budget: BudgetKey, *, job_uid: str, mechanism: Mechanism, count: int, claimant: str
    ) -> None:
        """Set aside `count` releases; raises Refused when they do not fit, Unavailable when the answer is unknown."""
        await self._change(
            budget, lambda record: ledger.reserve(record, job_uid, mechanism, count, claimant), whole=True
        )

    async def charge(self, budget: BudgetKey, *, job_uid: str, attempt: int, noise_multiplier: float) -> BudgetRecord:
        """Charge one release; returns only once that is durable. After any error the attempt counts as charged."""
        return await self._change(
            budget,
            lambda record: ledger.charge(record, job_uid, attempt, noise_multiplier=noise_multiplier),
            whole=True,
        )

    async def close(self, budget: BudgetKey, *, job_uid: str) -> None:
        """Give back what was reserved and not charged; an absent or closed account is left as it is."""
        try:
            await self._get(budget)
        except NotFound:
            return  # nothing was charged that anybody could still know of
        await self._change(budget, lambda record: ledger.close(record, job_uid))

    async def keep_head(self, budget: BudgetKey, head: LedgerHead) -> None:
        """Keep the end of the silo's log unless a later one is kept; from then on an older ledger is behind."""
        obj = await self._get(budget)
        kept = (obj.get("status") or {}).get("head")
        if kept is None or kept["count"] < head.count:
            # A conflict ends the pass, and the next one finds what is still to be kept.
            await self._put_status(obj, {"head": head.model_dump(mode="json", exclude={"dataset"})})

    async def take_over(self, budget: BudgetKey, logged: Mapping[str, Account]) -> BudgetRecord:
        """Take over charges of the silo's log that are missing here, as spent; the same log again changes nothing.

        It needs the verb `reconcile` on the budget.
        """
        return await self._change(budget, lambda record: ledger.import_charges(record, logged), ledger.check_import)

    async def _change(
        self,
        budget: BudgetKey,
        decide: Callable[[BudgetRecord], BudgetRecord],
        check: Callable[[BudgetRecord, BudgetRecord], None] = ledger.check_transition,
        *,
        whole: bool = False,
    ) -> BudgetRecord:
        """Change the ledger; one that is an old copy is not changed where it must be `whole`."""
        for _ in range(MAX_CONFLICTS):
            try:
                obj = await self._get(budget)
                old = read_record(obj)
                if whole:
                    check_kept_head(obj, old)
                new = _decide(decide, old, budget)
                if new is not old:
                    check(old, new)
                    await self._put_status(obj, {"accounts": write_accounts(new.accounts)})
            except Conflict:
                continue
            except NotFound:
                cure = "its holder runs `foedus budget create`"
                raise Refused("there is no budget here", where=f"PrivacyBudget {budget}", cure=cure) from None
            else:
                return new
        raise Unavailable("other writers keep changing the ledger", where=f"PrivacyBudget {budget}", cure="try again")

    async def _get(self, budget: BudgetKey) -> Object:
        try:
            return await self._server.request("GET", _path(budget))
        except (Busy, Forbidden) as error:
            raise _unavailable(budget, error) from None

    async def _put_status(self, obj: Object, fields: Mapping[str, Any]) -> None:
        meta = obj["metadata"]
        budget = BudgetKey(meta["namespace"], meta["name"])
        status = {**(obj.get("status") or {}), **fields}
        query = {"fieldManager": WRITER, **STRICT}
        try:
            body = {**without_owners(obj), "status": status}
            await self._server.request("PUT", f"{_path(budget)}/status", query=query, body=body)
        except (Busy, Forbidden) as error:
            raise _unavailable(budget, error) from None
        except InvalidInput as error:
            # The server's own rules: what must never happen is refused there, too.
            raise Refused(error.what, where=f"PrivacyBudget {budget}", cure="see the rule that it names") from None


def read_record(obj: Object) -> BudgetRecord:
    """Return the ledger that an object holds; raises Refused when it cannot be trusted.

    The version is the number of transitions that led here: each account's opening, its charges and its closing.
    """
    try:
        spec = parse_stored(PrivacyBudget, obj).spec
        accounts = _read_accounts((obj.get("status") or {}).get("accounts") or {})
        return BudgetRecord(
            spec=BudgetSpec(
                digest=spec.dataset.digest,
                records=spec.dataset.records,
                epsilon=spec.epsilon,
                delta=spec.delta,
                owner=spec.owner,
                labels=spec.labels,
                least_colluders=spec.least_colluders,
            ),
            accounts=accounts,
            version=sum(1 + each.charged + (each.state == "Closed") for each in accounts.values()),
        )
    except (InvalidInput, ValidationError) as error:
        what = str(error) if isinstance(error, InvalidInput) else f"account {first_problem(error)}"
        cure = "its holder looks at it; nothing is charged on it before"
        raise Refused(f"the ledger cannot be trusted: {what}", where=_name(obj), cure=cure) from None


def _read_accounts(stored: Mapping[str, Any]) -> dict[str, Account]:
    """Return the accounts, all in one walk: a ledger of hundreds is read for every charge.

    It is strict JSON, where nothing is converted; a field that this version does not know is ignored.
    """
    return _ACCOUNTS.validate_json(json.dumps(stored), strict=True, extra="ignore", by_alias=True, by_name=False)


def check_kept_head(obj: Object, record: BudgetRecord) -> None:
    """Raise LedgerBehind when the ledger holds less than its silo's log has once shown."""
    head = kept_head(obj, record)
    if head is not None:
        check_reaches(record, head, _name(obj))


def kept_head(obj: Object, record: BudgetRecord) -> LedgerHead | None:
    """Return the end of the silo's log that the object keeps, None when none was ever beyond the ledger.

    Raises Refused for one that cannot be read: somebody else has written it.
    """
    head = (obj.get("status") or {}).get("head")
    if head is None:
        return None
    try:
        return LedgerHead.model_validate({**head, "dataset": record.spec.digest})
    except ValidationError:
        raise Refused(
            "status.head cannot be read",
            where=_name(obj),
            cure="see in the audit log who wrote it; whoever holds the budget may ask for it as it was",
        ) from None


def _name(obj: Object) -> str:
    """Return how errors name the budget, also one whose object is not as it should be."""
    meta = obj.get("metadata", {})
    return f"PrivacyBudget {meta.get('namespace')}/{meta.get('name')}"


def write_accounts(accounts: Mapping[str, Account]) -> dict[str, Any]:
    """Return the accounts as the object's status has them."""
    return {uid: _account(account) for uid, account in accounts.items()}


def _account(account: Account) -> dict[str, Any]:
    mechanism = account.mechanism
    return {
        "mechanism": {
            "kind": mechanism.kind,
            "noiseMultiplier": mechanism.noise_multiplier,
            "samplingRate": mechanism.sampling_rate,
            "gapEpsilon": mechanism.gap_epsilon,
            "gapDelta": mechanism.gap_delta,
        },
        "reserved": account.reserved,
        "charged": account.charged,
        "lastAttempt": account.last_attempt,
        "claimant": account.claimant,
        "state": account.state,
    }


def _decide(decide: Callable[[BudgetRecord], BudgetRecord], old: BudgetRecord, budget: BudgetKey) -> BudgetRecord:
    try:
        return decide(old)
    except FoedusError as error:
        raise type(error)(error.what, where=f"PrivacyBudget {budget}", cure=error.cure, code=error.code) from None


def _path(budget: BudgetKey) -> str:
    return path_of(ObjectKey(names.API_VERSION, names.BUDGET_KIND, budget.namespace, budget.name))


def _unavailable(budget: BudgetKey, error: FoedusError) -> Unavailable:
    return Unavailable(error.what, where=f"PrivacyBudget {budget}", cure=error.cure or "try again")

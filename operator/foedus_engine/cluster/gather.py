"""Reads everything that one training job depends on, in the order that makes the reading safe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from foedus_contract.errors import Refused, Unavailable
from foedus_contract.progress import IdentityReady, ProcessFailed, TrainingResult, TrainingStarted
from foedus_contract.wire import LedgerHead
from foedus_engine import names
from foedus_engine.accounting import Accounting
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.cluster.pods import decode_content
from foedus_engine.cluster.protocol import Cluster, Ledgers, Object
from foedus_engine.decide.children import child_keys
from foedus_engine.decide.ending import is_idle, is_terminal
from foedus_engine.decide.inspection import inspected_model, model_in_status
from foedus_engine.decide.observed import (
    AccountView,
    BudgetView,
    ChildView,
    LedgerFault,
    ModelView,
    ObjectMeta,
    Observed,
    PodsView,
)
from foedus_engine.decide.plan import BudgetKey, KeepHead, ObjectKey
from foedus_engine.pki import certificate_end, certificate_problem
from foedus_ledger.charges import LedgerBehind, check_reaches, is_signed
from foedus_ledger.records import BudgetRecord

COMPARED = frozenset(
    {"Job", "ConfigMap", "Service", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget"}
)  # what is repaired; Secrets and claims are made once

Children = dict[tuple[str, str], ChildView]
Records = dict[str, tuple[BudgetKey, BudgetRecord | None]]


async def gather_training(
    cluster: Cluster, ledgers: Ledgers, accounting: Accounting, job: FederatedTrainingJob, meta: ObjectMeta
) -> Observed:
    """Return what there is to know now about `job`, whose server's side is `meta`.

    Jobs are read before their pods: a Job that is seen to have ended has left its result already. Budgets are read
    before the calibration that depends on them; a reservation that has become too large meanwhile is refused. Heads
    of the silos' logs are read before the ledgers, which silos charge first.
    Nothing is read for a job that is suspended and never was anything else.
    """
    if is_idle(job, meta.status):
        return Observed(meta)
    found, foreign = await _children(cluster, job, meta)
    authority = found.get(("Secret", names.ca_secret(meta.name)))
    children = {key: _child(each, authority) for key, each in found.items()}
    jobs = [each for (kind, _), each in found.items() if kind == "Job"]
    # What the pods of a job that is over would say has been heard.
    pods: Mapping[str, PodsView] = {} if is_terminal(meta.status) else await cluster.pods(jobs)
    identities, failures = _silo_reports(job, meta, pods)
    coordinator = pods.get(names.coordinator(meta.name), PodsView())
    records, faults = await _budgets(ledgers, job, meta, _heads(coordinator, identities))
    silos = {name: _view(key, record, meta.uid) for name, (key, record) in records.items()}
    observed = Observed(meta, budgets=silos, ledger_faults=faults, children=children, foreign=foreign)
    if is_terminal(meta.status):
        return observed
    model = await accounting.model(job.spec.model.source) or _model(meta, children, pods)
    known = {key: record for key, record in records.values() if record is not None}
    calibration = None
    if len(known) == len(records) and model is not None and not model.problem:
        calibration = await accounting.calibration(job, meta.uid, known, model)
    return replace(
        observed,
        model=model,
        calibration=calibration,
        identities=identities,
        failures=failures,
        started=frozenset(name for name, view in pods.items() if view.started),
        troubles={name: view.trouble for name, view in pods.items() if view.trouble is not None},
        silo_pods=_silo_pods(job, meta, pods),
        progress=coordinator.progress,
        result=_result(coordinator),
    )


def _model(meta: ObjectMeta, children: Children, pods: Mapping[str, PodsView]) -> ModelView | None:
    """Return the base model as a pod has found it, now or for an earlier pass."""
    inspector = names.inspector(meta.name)
    child = children.get(("Job", inspector))
    return model_in_status(meta.status) or inspected_model(child, pods.get(inspector, PodsView()))


def _result(coordinator: PodsView) -> TrainingResult | None:
    try:
        return TrainingResult.model_validate_json(coordinator.result, extra="ignore") if coordinator.result else None
    except ValidationError:
        return None


async def _children(
    cluster: Cluster, job: FederatedTrainingJob, meta: ObjectMeta
) -> tuple[dict[tuple[str, str], Object], tuple[ObjectKey, ...]]:
    """Return the children that are there, and what bears a child's name and our label without being one."""
    ours: dict[tuple[str, str], Object] = {}
    foreign: list[ObjectKey] = []
    listed = await _list_labelled(cluster, meta)
    for key in child_keys(job, meta.namespace):
        found = listed.get((key.kind, key.name))
        if found is None:
            continue
        if _is_owned(found, meta.uid):
            ours[key.kind, key.name] = found
        else:
            foreign.append(key)
    return ours, tuple(foreign)


async def _list_labelled(cluster: Cluster, meta: ObjectMeta) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return what bears the job's label: one request a kind instead of one for every child."""
    labels = {names.JOB_LABEL: meta.name}
    return {
        (kind, found["metadata"]["name"]): found
        for kind, version in names.CHILD_API_VERSIONS.items()
        for found in await cluster.list(version, kind, meta.namespace, labels)
    }


def _is_owned(found: Mapping[str, Any], uid: str) -> bool:
    references = found["metadata"].get("ownerReferences", ())
    return any(reference.get("controller") and reference.get("uid") == uid for reference in references)


def _child(found: Mapping[str, Any], authority: Mapping[str, Any] | None) -> ChildView:
    status = found.get("status") or {}
    finished: Literal["", "Complete", "Failed"] = ""
    message, ended = "", None
    for condition in status.get("conditions", ()):
        if condition.get("type") in {"Complete", "Failed"} and condition.get("status") == "True":
            finished, message = condition["type"], condition.get("message", "")
            ended = condition.get("lastTransitionTime")
    secret = decode_content(found) if found["kind"] == "Secret" else None
    return ChildView(
        uid=found["metadata"]["uid"],
        version=found["metadata"].get("resourceVersion", ""),
        content=found if found["kind"] in COMPARED else {},
        active=status.get("active", 0),
        succeeded=status.get("succeeded", 0),
        failed=status.get("failed", 0),
        finished=finished,
        message=message,
        ended=datetime.fromisoformat(ended) if ended else None,
        valid_until=None if secret is None else certificate_end(secret),
        problem="" if secret is None else _certificate_problem(found, secret, authority),
    )


def _certificate_problem(
    found: Mapping[str, Any], secret: Mapping[str, bytes], authority: Mapping[str, Any] | None
) -> str:
    if authority is found:
        return certificate_problem(secret, None)
    if authority is None:
        return "was signed by a certificate authority whose Secret is gone"
    return certificate_problem(secret, decode_content(authority))


def _heads(coordinator: PodsView, identities: Mapping[str, bytes]) -> dict[str, LedgerHead]:
    """Return where the silos' charge logs ended when they joined; the coordinator passed on what they had signed."""
    told = [event.heads for event in coordinator.progress if isinstance(event, TrainingStarted)]
    return {
        silo: head
        for heads in told
        for silo, head in heads.items()
        if silo in identities and is_signed(head, identities[silo])
    }


async def _budgets(
    ledgers: Ledgers, job: FederatedTrainingJob, meta: ObjectMeta, heads: Mapping[str, LedgerHead]
) -> tuple[Records, dict[str, LedgerFault]]:
    """Return each silo's budget, and why one cannot be used: that is the job's news, not the end of the pass."""
    records: Records = {}
    faults: dict[str, LedgerFault] = {}
    for client in job.spec.clients:
        key = BudgetKey(meta.namespace, client.budget_ref.name)
        records[client.name] = (key, None)
        record, head = None, heads.get(client.name)
        try:
            record = await ledgers.read(key)
            if record is not None and head is not None:
                check_reaches(record, head)
            records[client.name] = (key, record)
        except (Refused, Unavailable) as error:
            faults[client.name] = _fault(client.name, key, error, None if record is None else head)
    return records, faults


def _fault(silo: str, key: BudgetKey, error: Refused | Unavailable, head: LedgerHead | None) -> LedgerFault:
    reason: Literal["Unavailable", "Damaged", "Behind"] = "Unavailable"
    if isinstance(error, Refused):
        reason = "Behind" if isinstance(error, LedgerBehind) else "Damaged"
    keep = KeepHead(key, head) if head is not None and reason == "Behind" else None
    return LedgerFault(f"silo {silo}: PrivacyBudget {key}: {error}", reason, keep)


def _view(key: BudgetKey, record: BudgetRecord | None, uid: str) -> BudgetView | None:
    if record is None:
        return None
    account = record.accounts.get(uid)
    view = (
        None
        if account is None
        else AccountView(
            noise_multiplier=account.mechanism.noise_multiplier,
            gap_epsilon=account.mechanism.gap_epsilon,
            gap_delta=account.mechanism.gap_delta,
            reserved=account.reserved,
            charged=account.charged,
            state=account.state,
        )
    )
    spec = record.spec
    others = {held.claimant for other, held in record.accounts.items() if other != uid and held.state == "Open"}
    return BudgetView(
        key,
        spec.digest,
        spec.records,
        spec.epsilon,
        spec.delta,
        account=view,
        holders=tuple(sorted(others)),
        labels=spec.labels,
        least_colluders=spec.least_colluders,
        accounts=len(record.accounts),
    )


def _silo_pods(job: FederatedTrainingJob, meta: ObjectMeta, pods: Mapping[str, PodsView]) -> tuple[Object, ...]:
    found = (pods.get(names.client(meta.name, client.name), PodsView()).live for client in job.spec.clients)
    return tuple(pod for pod in found if pod is not None)


def _silo_reports(
    job: FederatedTrainingJob, meta: ObjectMeta, pods: Mapping[str, PodsView]
) -> tuple[dict[str, bytes], dict[str, ProcessFailed]]:
    """Return the silos' identity keys and last words. A silo can speak for itself only."""
    identities: dict[str, bytes] = {}
    failures: dict[str, ProcessFailed] = {}
    for client in job.spec.clients:
        for event in pods.get(names.client(meta.name, client.name), PodsView()).progress:
            if isinstance(event, IdentityReady) and event.silo == client.name:
                identities[client.name] = event.public_key
            elif isinstance(event, ProcessFailed):
                failures[client.name] = event
    return identities, failures

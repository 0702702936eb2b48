"""Collects a run's record from what the engine has stored: plan, progress of its processes, ledgers."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foedus.report.record import Ending, PreparationStep, RunRecord, SiloAccount
from foedus_contract.errors import FoedusError
from foedus_contract.paths import RUN_SPEC_KEY
from foedus_contract.progress import CACHING, Preparing, RoundFinished, TrainingStarted
from foedus_contract.run_spec import CoordinatorRunSpec, parse_run_spec
from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.cluster.protocol import Object
from foedus_engine.decide.conditions import parse_timestamp
from foedus_engine.decide.observed import Progress
from foedus_engine.decide.plan import BudgetKey, ObjectKey
from foedus_ledger.accountants import composed_gaussian_epsilon, composed_rdp_epsilon
from foedus_ledger.records import Account, BudgetRecord

ASSUMED = "Foedus started the silos itself and collected their identity keys, so it is trusted not to exchange them."


@dataclass(frozen=True)
class Source:
    """Where a record is gathered: what finds an object, all events of a Job's pods by its name, and a budget's ledger.

    `notes` are what a reader must know of the place.
    """

    find: Callable[[ObjectKey], Awaitable[Object | None]]
    progress: Callable[[str, str], Awaitable[tuple[Progress, ...]]]
    ledger: Callable[[BudgetKey], Awaitable[BudgetRecord | None]]
    notes: tuple[str, ...] = ()


async def gather_record(
    source: Source, job: FederatedTrainingJob, status: Mapping[str, Any], ending: Ending
) -> RunRecord | None:
    """Return the job's record so far; None when its training never began."""
    namespace, name = job.metadata.namespace, job.metadata.name
    spec = await _coordinator_spec(source, namespace, name)
    events = await source.progress(namespace, names.coordinator(name))
    started = next((event for event in events if isinstance(event, TrainingStarted)), None)
    if spec is None or started is None:
        return None
    clients = [await source.progress(namespace, names.client(name, silo.name)) for silo in spec.plan.silos]
    attempts = {event.attempt: event for event in events if isinstance(event, RoundFinished)}
    began = status.get("startTime")
    return RunRecord(
        foedus=importlib.metadata.version("foedus"),
        plan=spec.plan.public(),
        plan_digest=spec.plan.digest(),
        code_digest=started.code_digest,
        base_model=_model_name(spec),
        began_at=parse_timestamp(began).timestamp() if began else started.at,
        preparation=preparation(clients, started),
        trainable_parameters=started.trainable_parameters,
        kappa=started.kappa,
        attempts=tuple(attempts[number] for number in sorted(attempts)),
        accounts=(),
        epsilon_spent=max((event.epsilon_spent for event in attempts.values()), default=0.0),
        epsilon_spent_rdp=None,
        ending=ending,
        notes=(ASSUMED, *source.notes),
    )


async def with_accounts(source: Source, job: FederatedTrainingJob, record: RunRecord) -> RunRecord:
    """Return the record with what the silos' ledgers say; call it when no process can charge any more."""
    held: dict[str, Account] = {}
    for client in job.spec.clients:
        account = await _account(source, BudgetKey(job.metadata.namespace, client.budget_ref.name), record.plan.uid)
        if account is not None:
            held[client.name] = account
    if not held:
        return record
    most = max(held.values(), key=lambda account: account.charged)
    releases, delta = [(most.mechanism, most.charged)], record.plan.privacy.delta
    # The ledger's word counts where it is the higher one: an attempt may have been cut off between charge and report.
    exact = composed_gaussian_epsilon(releases, delta) if most.charged else 0.0
    rdp = await asyncio.to_thread(composed_rdp_epsilon, releases, delta) if most.charged else 0.0
    accounts = tuple(
        SiloAccount(silo=silo, reserved=account.reserved, charged=account.charged)
        for silo, account in sorted(held.items())
    )
    changes = {"accounts": accounts, "epsilon_spent": max(record.epsilon_spent, exact), "epsilon_spent_rdp": rdp}
    return record.model_copy(update=changes)


def preparation(clients: Iterable[Sequence[Progress]], started: TrainingStarted) -> tuple[PreparationStep, ...]:
    """Return the steps before the first round, each until the last silo had done it; one not reported is left out."""
    cached = [
        [event for event in events if isinstance(event, Preparing) and event.what == CACHING] for events in clients
    ]
    first = [events[0].at for events in cached if events]
    last = [events[-1].at for events in cached if events and events[-1].done >= events[-1].total]
    steps = {
        "starting, loading the model": _latest(first),
        "caching activations": _latest(last) if len(last) == len(cached) else None,
        "joining": started.at,
    }
    return tuple(PreparationStep(what=what, until=until) for what, until in steps.items() if until is not None)


def _latest(moments: Sequence[float | None]) -> float | None:
    known = [moment for moment in moments if moment is not None]
    return max(known) if known and len(known) == len(moments) else None


async def _coordinator_spec(source: Source, namespace: str, name: str) -> CoordinatorRunSpec | None:
    config = await source.find(ObjectKey("v1", "ConfigMap", namespace, names.coordinator(name)))
    if config is None:
        return None
    spec = parse_run_spec(config["data"][RUN_SPEC_KEY].encode("utf-8"))
    return spec if isinstance(spec, CoordinatorRunSpec) else None


def _model_name(spec: CoordinatorRunSpec) -> str:
    return spec.model.package or spec.plan.model.digest


async def _account(source: Source, budget: BudgetKey, uid: str) -> Account | None:
    try:
        record = await source.ledger(budget)
    except FoedusError:  # a damaged ledger; the run itself has said so
        return None
    return None if record is None else record.accounts.get(uid)

"""Follows one training job from outside: reads its status and its processes' reports, shows them, and finds its end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from foedus.announce import REGIONS, announce
from foedus.base_model import claim_folders, read_model
from foedus.deaths import Death, deaths
from foedus.display import Display, Event, Standing, advance
from foedus.lifecycle import job_key
from foedus_contract.errors import FoedusError, InvalidInput, JobFailed, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.paths import RUN_SPEC_KEY
from foedus_contract.plan import TrainingPlan
from foedus_contract.progress import CACHING, IdentityReady, Preparing, ProcessFailed
from foedus_contract.run_spec import CoordinatorRunSpec
from foedus_contract.size import training_size
from foedus_engine import names
from foedus_engine.api.training import FederatedTrainingJob
from foedus_engine.cluster.embedded import EmbeddedCluster
from foedus_engine.cluster.fields import ISOLATION, Treatment, classify, field_paths
from foedus_engine.cluster.jobs import is_finished
from foedus_engine.cluster.protocol import Object, find
from foedus_engine.decide.children import child_keys
from foedus_engine.decide.plan import ObjectKey

BELOW = re.compile(r"(?<=securityContext)\..*|(?<=resources)\..*")  # one context or list of resources is said once
LOOK_SECONDS = 0.25  # between two looks; a person sees no difference below it
# A ledger is locked for milliseconds by us and for seconds by a back-up; three of the engine's tries fit.
LEDGER_SECONDS = 60.0

# What a job that is not accepted, or that failed, ends the command with.
CODES: Mapping[str, ExitCode] = MappingProxyType(
    {
        "InvalidSpec": ExitCode.INVALID_SPEC,
        "DeltaTooLarge": ExitCode.INVALID_SPEC,
        "InvalidModel": ExitCode.INVALID_MODEL,
        "InvalidData": ExitCode.INVALID_DATA,
        "Unplannable": ExitCode.UNPLANNABLE,
        "BudgetNotFound": ExitCode.BUDGET_REFUSED,
        "BudgetInsufficient": ExitCode.BUDGET_REFUSED,
        "BudgetRefused": ExitCode.BUDGET_REFUSED,
        "LedgerBehind": ExitCode.LEDGER_BEHIND,
        "IdentityRefused": ExitCode.IDENTITY_REFUSED,
        "QuorumLost": ExitCode.QUORUM_LOST,
        "DeadlineExceeded": ExitCode.DEADLINE_EXCEEDED,
    }
)


@dataclass(frozen=True)
class Waiting:
    """A ledger that does not answer keeps the job from starting: what was said of it, and since when."""

    message: str
    since: float


@dataclass(frozen=True)
class Followed:
    """What has been shown so far: how many events of each Job, and where the run stands."""

    standing: Standing
    announced: bool = False
    shown: Mapping[str, int] = field(default_factory=dict)
    deaths: frozenset[Death] = frozenset()
    waiting: Waiting | None = None
    records: int = 0  # of all silos
    cached: Mapping[str, int] = field(default_factory=dict)  # how many of them each silo has cached
    tenths: int = 0  # of them, that were said to be cached


async def follow(
    cluster: EmbeddedCluster,
    job: FederatedTrainingJob,
    display: Display,
    state: Path,
    faults: Sequence[FoedusError] = (),
) -> dict[str, Any]:
    """Show the job until it ends, and return its last status; raises when it is refused or fails.

    `faults` is what the engine itself could not get over, such as a full disk; no status would ever say so. Raises
    Unavailable when a ledger keeps the job from starting for longer than LEDGER_SECONDS.
    """
    key = job_key(job.metadata.namespace, job.metadata.name)
    followed = Followed(Standing(rounds=job.spec.training.rounds))
    loop = asyncio.get_running_loop()
    while True:
        status = dict((await cluster.get(key)).get("status", {}))
        if not followed.announced and status.get("phase") not in {None, "Pending"}:
            records = await _announce(cluster, job, display, state)
            followed = replace(followed, announced=True, records=records)
        if followed.announced:
            followed = await _show_events(cluster, job, display, followed)
            followed = await _show_deaths(cluster, job, display, followed)
        failure = find_failure(status)
        if failure is not None:
            raise failure
        if faults:
            raise faults[0]
        followed = replace(followed, waiting=_show_waiting(status, display, followed.waiting, loop.time()))
        if status.get("phase") == "Complete":
            return status
        await asyncio.sleep(LOOK_SECONDS)


def find_failure(status: Mapping[str, Any]) -> FoedusError | None:
    """Return why the job was refused or failed, with the exit code that fits; None while nothing stands against it."""
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    failed = conditions.get("Failed", {})
    if failed.get("status") == "True":
        code = CODES.get(failed["reason"], ExitCode.INTERNAL)
        return JobFailed(failed["message"], where=failed["reason"], code=code)
    for kind in ("Accepted", "BudgetAvailable"):
        condition = conditions.get(kind, {})
        reason = str(condition.get("reason", ""))
        if condition.get("status") == "False" and reason in CODES:
            error = Refused if CODES[reason] in {ExitCode.BUDGET_REFUSED, ExitCode.LEDGER_BEHIND} else InvalidInput
            return error(condition["message"], where=reason, code=CODES[reason])
    return None


def _show_waiting(status: Mapping[str, Any], display: Display, waiting: Waiting | None, now: float) -> Waiting | None:
    """Say once that a ledger does not answer, and give up in the end; a running job's silos do without it."""
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    budget = conditions.get("BudgetAvailable", {})
    if status.get("phase") != "Pending" or budget.get("reason") != "LedgerUnavailable":
        return None
    message = str(budget["message"])
    if waiting is None:
        display.note("Waiting", f"waiting: {message}")
        return Waiting(message, now)
    if now - waiting.since > LEDGER_SECONDS:
        raise Unavailable(message, where="LedgerUnavailable")
    return waiting


async def _announce(cluster: EmbeddedCluster, job: FederatedTrainingJob, display: Display, state: Path) -> int:
    """Say what the job is about to do, and return on how many records; nothing when it ended before it was planned."""
    children = await _children(cluster, job)
    plan = read_plan(children, job)
    if plan is None:
        return 0
    model = read_model(job.spec.model.source, claim_folders(cluster, job.metadata.namespace))
    size = training_size(plan.model.lora, len(plan.model.labels), model.hidden_size, model.modules)
    display.announce(announce(plan, size, str(state), limitations(job), not_enforced(children)))
    return plan.total_records


async def _children(cluster: EmbeddedCluster, job: FederatedTrainingJob) -> list[Object]:
    """Return the objects that the job consists of."""
    found = [await find(cluster, key) for key in child_keys(job, job.metadata.namespace)]
    return [child for child in found if child is not None]


def read_plan(children: Sequence[Object], job: FederatedTrainingJob) -> TrainingPlan | None:
    """Return the plan as the coordinator is told it."""
    name = names.coordinator(job.metadata.name)
    configs = [child for child in children if child["kind"] == "ConfigMap" and child["metadata"]["name"] == name]
    return CoordinatorRunSpec.from_json(configs[0]["data"][RUN_SPEC_KEY]).plan if configs else None


def limitations(job: FederatedTrainingJob) -> tuple[str, ...]:
    """Return what the job's reader must know of this machine, and of fields that nothing looks at."""
    names_regions = any(client.region_ref is not None for client in job.spec.clients)
    return (ISOLATION, *((REGIONS,) if names_regions else ()))


def not_enforced(children: Sequence[Object]) -> tuple[str, ...]:
    """Return the fields of the job's own objects that this machine does not enforce, each as `Kind path`."""
    found = {
        f"{child['kind']} {_shown(child, path)}"
        for child in children
        for path, _ in field_paths({"spec": child.get("spec", {})})
        if classify(child, path) is Treatment.NOT_ENFORCED
    }
    return tuple(sorted(found))


def _shown(child: Object, path: str) -> str:
    # Of a NetworkPolicy, say, nothing at all is enforced.
    return "spec" if classify(child, "spec") is Treatment.NOT_ENFORCED else BELOW.sub("", path)


async def _show_events(
    cluster: EmbeddedCluster, job: FederatedTrainingJob, display: Display, followed: Followed
) -> Followed:
    """Show what is new: everything of the coordinator, and of a silo its identity and its failure."""
    name = job.metadata.name
    clients = [names.client(name, client.name) for client in job.spec.clients]
    for pod in (*clients, names.coordinator(name)):
        events = await cluster.pod_progress(job.metadata.namespace, pod)
        seen = followed.shown.get(pod, 0)
        for event in events[seen:]:
            if pod in clients and isinstance(event, Preparing) and event.what == CACHING:
                followed = show_caching(pod, event, display, followed)
            elif pod not in clients or isinstance(event, IdentityReady | ProcessFailed):
                followed = _show(event, display, followed)
        followed = replace(followed, shown={**followed.shown, pod: len(events)})
    return followed


async def _show_deaths(
    cluster: EmbeddedCluster, job: FederatedTrainingJob, display: Display, followed: Followed
) -> Followed:
    """Say once of each process that died that it did, and whether it was started again."""
    namespace, name = job.metadata.namespace, job.metadata.name
    roles = {names.client(name, client.name): client.name for client in job.spec.clients}
    for child, role in (roles | {names.coordinator(name): names.COORDINATOR_ROLE}).items():
        found = await find(cluster, ObjectKey("batch/v1", "Job", namespace, child))
        over = found is None or is_finished(found.get("status", {}))
        for death in deaths(role, cluster.pod_views(namespace, child), over=over):
            if death not in followed.deaths:
                display.note("ProcessDied", death.line, role=role, exitCode=death.exit_code, startedAgain=death.again)
                followed = replace(followed, deaths=followed.deaths | {death})
    return followed


def show_caching(pod: str, event: Preparing, display: Display, followed: Followed) -> Followed:
    """Show how far all silos are together, a tenth at a time, until training begins."""
    followed = replace(followed, cached={**followed.cached, pod: event.done})
    done = sum(followed.cached.values())
    tenths = done * 10 // max(1, followed.records)
    if followed.standing.silos_in or tenths <= followed.tenths:
        return followed
    together = Preparing(at=event.at, what=f"silos: {CACHING}", done=done, total=followed.records)
    return _show(together, display, replace(followed, tenths=tenths))


def _show(event: Event, display: Display, followed: Followed) -> Followed:
    standing = advance(followed.standing, event)
    display.event(event, standing)
    return replace(followed, standing=standing)

"""A job's way into the state folder and out of it: what stands in its way, what of it is given back.

Accounts are closed before the object goes, so a clean-up that is cut off leaves the object, and the next one goes on
from there. An account whose object is gone all the same is found by its claimant.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foedus.display import Display
from foedus.engine import Engine
from foedus.options import command
from foedus.state import list_budget_keys
from foedus_contract.errors import FoedusError, InvalidInput
from foedus_contract.exit_codes import ExitCode
from foedus_engine import names
from foedus_engine.api.training import DataSource, FederatedTrainingJob
from foedus_engine.api.training_status import TrainingConditionType
from foedus_engine.cluster.jobs import is_finished
from foedus_engine.cluster.protocol import NotFound, Object, find
from foedus_engine.decide.conditions import is_true
from foedus_engine.decide.ending import is_terminal
from foedus_engine.decide.plan import BudgetKey, ObjectKey, key_of
from foedus_ledger.records import Account

LEAVE_SECONDS = 10.0  # silos that were told that the job is over need about a second
LOOK_SECONDS = 0.1
LOGS_FOLDER = "logs"


def job_key(namespace: str, name: str) -> ObjectKey:
    """Return the key of a training job."""
    return ObjectKey(names.API_VERSION, names.TRAINING_KIND, namespace, name)


def is_complete(status: Mapping[str, Any]) -> bool:
    """Return whether a stored status says that the job has its adapter."""
    return is_true(status, TrainingConditionType.COMPLETE)


@dataclass(frozen=True)
class HeldAccount:
    """An account: in which budget, of which object, made for whom."""

    budget: BudgetKey
    uid: str
    account: Account

    @property
    def is_open(self) -> bool:
        """Return whether it holds what was reserved and not charged."""
        return self.account.state == "Open"


async def admit(engine: Engine, job: FederatedTrainingJob, state: Path, display: Display) -> Object:
    """Return the job's stored object, created if need be; nothing runs yet.

    A job that a killed engine left unfinished goes on, a complete one is returned as it stands, one that failed or was
    being removed is removed for good and made anew. Raises InvalidInput when the name stands for another job, when
    another job has not ended, or when a silo's data is not there.
    """
    key = job_key(job.metadata.namespace, job.metadata.name)
    stored = await find(engine.cluster, key)
    spec = job.to_document()["spec"]
    if stored is not None and is_complete(stored.get("status", {})) and stored["spec"] == spec:
        text = f"the job {key.name} is complete already: its result is delivered again, nothing is trained or charged"
        display.note("Delivering", text, job=key.name)
        return stored
    await _check_alone(engine, key, state)
    if stored is not None and await _is_dead(engine, stored):
        await remove(engine, key, display)
        stored = None
    if stored is not None and stored["spec"] != spec:
        raise _name_taken(stored, key, state)
    check_data(engine, job)
    await _end_leftovers(engine)
    if stored is None:
        await _close_accounts(engine, key, None, display)  # of an object that is gone
        return await engine.cluster.create(job.to_document())
    display.note("Resuming", f"resuming the job {key.name}, which an earlier run left unfinished", job=key.name)
    return stored


def _name_taken(stored: Object, key: ObjectKey, state: Path) -> InvalidInput:
    delete = command(f"delete {key.name}", state, key.namespace)
    if is_complete(stored.get("status", {})):
        what = f"the job {key.name} has run in this state folder already, with another spec"
        cure = f"give this one another name, or remove the old one and its result with: {delete}"
    else:
        what = f"an unfinished job {key.name} with another spec is stored in this state folder"
        cure = f"run its old manifest to go on with it, or give back what it has not spent with: {delete}"
    return InvalidInput(what, where="metadata.name", cure=cure)


async def _check_alone(engine: Engine, key: ObjectKey, state: Path) -> None:
    """Refuse when another job has not ended: it would run again beside this one, and holds its budgets."""
    for other in await engine.cluster.list(key.api_version, key.kind):
        if key_of(other) != key and not is_terminal(other.get("status", {})):
            name, namespace = other["metadata"]["name"], other["metadata"]["namespace"]
            raise InvalidInput(
                f"the job {namespace}/{name}, which an earlier run left there, has not ended",
                where=f"state folder {state}",
                cure="run its manifest to go on with it, or give back what it has not spent with: "
                + command(f"delete {name}", state, namespace),
            )


async def _is_dead(engine: Engine, stored: Object) -> bool:
    """Return whether a clean-up of the job was cut off: it failed, or some account of it is closed already."""
    status, meta = stored.get("status", {}), stored["metadata"]
    if is_terminal(status):
        return not is_complete(status)
    for client in stored["spec"]["clients"]:
        record = await engine.ledgers.read(BudgetKey(meta["namespace"], client["budgetRef"]["name"]))
        account = None if record is None else record.accounts.get(meta["uid"])
        if account is not None and account.state == "Closed":
            return True
    return False


async def _end_leftovers(engine: Engine) -> None:
    """Delete what would start again although its training job is over: the engine was killed before silos left."""
    jobs = await engine.cluster.list(names.API_VERSION, names.TRAINING_KIND)
    ended = {job["metadata"]["uid"] for job in jobs if is_terminal(job.get("status", {}))}
    for child in await engine.cluster.list("batch/v1", "Job"):
        owners = {owner["uid"] for owner in child["metadata"].get("ownerReferences", ())}
        if owners & ended and not is_finished(child.get("status", {})):
            await engine.cluster.delete(key_of(child))


def check_data(engine: Engine, job: FederatedTrainingJob) -> None:
    """Raise InvalidInput naming the first data file that is not where the manifest says."""
    sources = [(f"spec.clients[{index}].data", client.data) for index, client in enumerate(job.spec.clients)]
    if job.spec.evaluation is not None:
        sources.append(("spec.evaluation.data", job.spec.evaluation.data))
    for where, source in sources:
        if problem := _data_problem(engine, job.metadata.namespace, source):
            what, cure = problem
            raise InvalidInput(what, where=f"{where}.persistentVolumeClaim", cure=cure, code=ExitCode.INVALID_DATA)


def _data_problem(engine: Engine, namespace: str, source: DataSource) -> tuple[str, str] | None:
    claim = source.persistent_volume_claim
    folder = engine.cluster.present_folder(namespace, claim.claim_name)
    if folder is None:
        return f"no volume {claim.claim_name}", "make a folder of that name below --volumes"
    file = folder / claim.path
    return None if file.is_file() else (f"no file {file}", "put the records there, or correct path")


Problems = Mapping[BudgetKey, FoedusError]


async def accounts(engine: Engine, namespace: str) -> tuple[list[HeldAccount], Problems]:
    """Return all accounts in a namespace's budgets, in the order of the budgets' names, and which cannot be read."""
    found: list[HeldAccount] = []
    problems = {}
    for key in list_budget_keys(engine.state, namespace):
        try:
            record = await engine.ledgers.read(key)
        except FoedusError as error:
            problems[key] = error
            continue
        held = {} if record is None else record.accounts
        found += [HeldAccount(key, uid, account) for uid, account in held.items()]
    return found, problems


@dataclass(frozen=True)
class Removed:
    """What went with a job: how many accounts it had, and in which budgets what it has reserved stays so, and why."""

    accounts: int
    left: Problems


async def remove(engine: Engine, key: ObjectKey, display: Display) -> Removed:
    """Close the job's accounts, then delete it, so that its processes stop.

    What was charged stays charged, what was only reserved is given back. A process that charges later is refused.
    An account that cannot be closed is said and left for the next time.
    """
    stored = await find(engine.cluster, key)
    removed = await _close_accounts(engine, key, stored, display)
    for budget, error in removed.left.items():
        again = command(f"delete {key.name}", engine.state, key.namespace)
        text = f"budget {budget.name}: what the job has reserved stays reserved: {error}; then: {again}"
        display.note("NotClosed", text, budget=budget.name)
    with suppress(NotFound):
        await engine.cluster.delete(key)
    return removed


async def _close_accounts(engine: Engine, key: ObjectKey, stored: Object | None, display: Display) -> Removed:
    """Close the job's accounts. Without an object any budget may hold one, with one those that it names, once planned.

    A plan is told in the status by the pass that reserves.
    """
    claimant = names.object_key(key.namespace, key.name)
    uid = "" if stored is None else stored["metadata"]["uid"]
    known, problems = await accounts(engine, key.namespace)
    held = [item for item in known if item.account.claimant == claimant and (item.is_open or item.uid == uid)]
    left = {budget: error for budget, error in problems.items() if stored is None or _may_hold(stored, budget)}
    for item in held:
        try:
            await _close(engine, item, display)
        except FoedusError as error:
            left[item.budget] = error
    return Removed(len(held), left)


def _may_hold(stored: Object, budget: BudgetKey) -> bool:
    planned = "plan" in stored.get("status", {})
    return planned and budget.name in {client["budgetRef"]["name"] for client in stored["spec"]["clients"]}


async def _close(engine: Engine, item: HeldAccount, display: Display) -> None:
    await engine.ledgers.close(item.budget, job_uid=item.uid)
    record = await engine.ledgers.read(item.budget)
    assert record is not None
    account = record.accounts[item.uid]
    display.note(
        "Charged",
        f"budget {item.budget.name}: {account.charged} of {account.reserved} reserved releases are charged for good",
        budget=item.budget.name,
        charged=account.charged,
        reserved=account.reserved,
    )


async def all_left(engine: Engine, job: FederatedTrainingJob) -> None:
    """Wait a little until the silos' processes have ended by themselves."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_SECONDS):
            while await _running(engine, job):
                await asyncio.sleep(LOOK_SECONDS)


async def _running(engine: Engine, job: FederatedTrainingJob) -> bool:
    labels = {names.JOB_LABEL: job.metadata.name}
    jobs = await engine.cluster.list("batch/v1", "Job", job.metadata.namespace, labels)
    return any(not is_finished(item.get("status", {})) for item in jobs)


def keep_logs(engine: Engine, job: FederatedTrainingJob) -> Path | None:
    """Copy what the job's processes wrote out of the folders that go with it; return where to, None if no word."""
    namespace, name = job.metadata.namespace, job.metadata.name
    folder = engine.state / LOGS_FOLDER / namespace / name
    shutil.rmtree(folder, ignore_errors=True)
    pods = [names.coordinator(name), *(names.client(name, client.name) for client in job.spec.clients)]
    logs = {f"{pod}.{log.parent.name}.log": log for pod in pods for log in engine.cluster.pod_logs(namespace, pod)}
    with suppress(OSError):  # a full disk must not hide why the job failed
        for kept, log in logs.items():
            if log.is_file() and log.stat().st_size > 0:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                shutil.copyfile(log, folder / kept)
    return folder if folder.is_dir() else None

"""One silo's process: prepares its data and model, joins, and answers the attempts it is invited to.

It drives the state machine of `silo_job` and does what that asks for, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import SiloPlan
from foedus_contract.progress import CACHING, IdentityReady, Preparing
from foedus_contract.run_spec import ClientRunSpec
from foedus_contract.wire import AttemptId, JobOver, Join, LedgerHead, Refuse
from foedus_workloads.secagg.effects import Send, SiloIdentity
from foedus_workloads.training.broadcast import BroadcastChecker
from foedus_workloads.training.identity import load_identity, read_policy
from foedus_workloads.training.job_effects import (
    ChargeLedger,
    ComputeSum,
    DrawNoise,
    Heard,
    JournalSilo,
    KeepBroadcast,
    Leave,
    LedgerAnswered,
    LoadAdapter,
    NobodyNewer,
    NoiseDrawn,
    Overdue,
    RoundVectors,
    SeekNewer,
    SessionRenewed,
    SiloEffect,
    SiloEvent,
    Stop,
    SumComputed,
)
from foedus_workloads.training.journal import Journal, open_journal
from foedus_workloads.training.kept import KeptBroadcast
from foedus_workloads.training.progress import ProgressWriter
from foedus_workloads.training.silo_job import SiloRules, awaited_stage, patience_seconds, silo_job_step, start_silo_job
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.training.threads import in_thread
from foedus_workloads.transport.client import CoordinatorLink, Incoming, LinkSettings, Rejoined, connect
from foedus_workloads.transport.tls import check_dates, client_context

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from foedus_workloads.privacy.noise import Sampler
    from foedus_workloads.training.data import Records
    from foedus_workloads.training.local_step import LocalStep
    from foedus_workloads.training.model import AdaptedModel
    from foedus_workloads.training.silo_ledger import SiloLedger

POLICY_SECONDS = 0.5  # between looks for the policy file

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What a silo needs to answer: its model, its records' local step, its ledger, its key and its pinned peers."""

    model: AdaptedModel
    local: LocalStep
    ledger: SiloLedger
    signing_key: Ed25519PrivateKey
    pinned: dict[str, bytes]


async def run_client(spec: ClientRunSpec, around: Surroundings, sampler: Sampler) -> JobOver:
    """Take part in the job until the coordinator says that it is over; raises FoedusError when this silo must stop."""
    progress = around.progress(spec.progress)
    state = around.path(spec.state)
    tls = around.tls(spec.tls)
    context = client_context(tls)
    check_dates(tls, around.wall_clock())
    hostname = spec.coordinator_service.partition(".")[0]  # the Service's own name, in every certificate of it
    policy_deadline = around.clock() + spec.plan.deadlines.join_seconds
    # Beside the ledger: that folder is the silo's own and outlives jobs, as the key must.
    signing_key = load_identity(around.path(spec.ledger).parent, around.entropy)
    public_key = signing_key.public_key().public_bytes_raw()
    with open_journal(state, spec.plan.uid) as journal:
        progress.write(IdentityReady(silo=spec.silo, public_key=public_key))
        model, local, ledger, head = await asyncio.to_thread(prepare, spec, around, progress, signing_key)
        pinned = await _wait_for_policy(spec, around, public_key, policy_deadline)
        prepared = Prepared(model, local, ledger, signing_key, pinned)
        join = Join(
            silo=spec.silo,
            incarnation=spec.incarnation,
            identity=public_key,
            plan_digest=spec.plan.digest(),
            code_digest=around.code_digest(),
            head=head,
        )
        async with connect(
            lambda: around.address(spec.coordinator_service, spec.coordinator_port),
            join,
            hostname=hostname,
            context=context,
            entropy=around.entropy,
            # As long as a coordinator that starts (again) waits for its silos: neither side gives the other up first.
            settings=LinkSettings(patience_seconds=spec.plan.deadlines.join_seconds),
        ) as link:
            kept = KeptBroadcast(state, spec.plan.uid)
            checker = BroadcastChecker.load(tls, hostname)
            return await Participant(spec, prepared, link, journal, kept, checker, sampler, around).take_part()


def prepare(
    spec: ClientRunSpec, around: Surroundings, progress: ProgressWriter, signing_key: Ed25519PrivateKey
) -> tuple[AdaptedModel, LocalStep, SiloLedger, LedgerHead]:
    """Check ledger, its log and the data against the plan, load the model, and cache what the rounds do not change."""
    from foedus_ledger.charge_log import log_path
    from foedus_workloads.training.held_ledgers import held_ledger
    from foedus_workloads.training.silo_ledger import SiloLedger

    ledger = SiloLedger(held_ledger(spec, around), log_path(around.path(spec.ledger)), signing_key)
    head = ledger.open()
    check_account(spec, ledger)
    records = read_data(spec, around.path(spec.data), ledger.read().spec.labels)
    progress.write(Preparing(at=around.wall_clock(), what="loading the model"))

    import torch

    from foedus_workloads.training.base import resolve
    from foedus_workloads.training.local_step import LocalStep
    from foedus_workloads.training.model import AdaptedModel

    torch.set_num_threads(spec.threads)  # sums of floats depend on it, so a restart must use the same number
    model = AdaptedModel.load(resolve(spec.model, around.root), spec.plan.model, spec.plan.seed)
    check_gap(spec, ledger, max(model.coordinates(factor) for factor in model.factors))
    local = LocalStep(
        model,
        records,
        spec.plan,
        report=lambda done, total: progress.write(
            Preparing(at=around.wall_clock(), what=CACHING, done=done, total=total)
        ),
    )
    return model, local, ledger, head


def read_data(spec: ClientRunSpec, path: Path, labels: Sequence[str]) -> Records:
    """Return the records; raises InvalidInput, for the silo's own log, unless they are those of the plan.

    `labels` are their holder's own. Compared with a list of the job's author, records would answer one question a job.
    """
    from foedus_workloads.training.data import read_records

    records = read_records(path, labels)
    expected = _silo_plan(spec)
    if (expected.data_digest, expected.records) != (records.digest, records.count):
        raise InvalidInput(
            "the data is not what the plan was made for",
            where=str(path),
            cure="make a budget for this very data, or put the old data back",
            code=ExitCode.INVALID_DATA,
        )
    return records


def check_gap(spec: ClientRunSpec, ledger: SiloLedger, coordinates: int) -> None:
    """Raise Refused when the plan's grid is coarser than the reservation allows for: σ alone does not say that."""
    from foedus_workloads.training.spending import Spending

    mechanism = Spending.of(spec.plan, coordinates).mechanism
    reserved = ledger.read().accounts[spec.plan.uid].mechanism
    if mechanism.gap_epsilon > reserved.gap_epsilon or mechanism.gap_delta > reserved.gap_delta:
        raise Refused(
            "the plan's grid is coarser than was reserved for",
            where=spec.budget,
            cure="start the job through the engine, which reserves",
        )


def check_account(spec: ClientRunSpec, ledger: SiloLedger) -> None:
    """Raise Refused unless the silo's ledger holds this data and an open reservation of the job with enough noise."""
    record, expected = ledger.read(), _silo_plan(spec)
    account = record.accounts.get(spec.plan.uid)
    problem = ""
    if (record.spec.digest, record.spec.records) != (expected.data_digest, expected.records):
        problem = "the budget is for other data"
    elif not record.spec.labels or not set(record.spec.labels) <= set(spec.plan.model.labels):
        problem = "the plan does not have all labels that the budget declares"
    elif spec.plan.privacy.noise != "Local" and spec.plan.privacy.colluders < record.spec.least_colluders:
        problem = "the plan assumes fewer colluders than the budget asks for"
    elif account is None or account.state != "Open":
        problem = "the budget holds no open reservation of this job"
    elif spec.plan.privacy.noise_multiplier < account.mechanism.noise_multiplier:
        problem = "the plan draws less noise than was reserved for"
    if problem:
        raise Refused(problem, where=spec.budget, cure="start the job through the engine, which reserves")


def _silo_plan(spec: ClientRunSpec) -> SiloPlan:
    expected = next((silo for silo in spec.plan.silos if silo.name == spec.silo), None)
    if expected is None:
        raise Refused("the plan does not name this silo", where=spec.silo, cure="start the job through the engine")
    return expected


async def _wait_for_policy(
    spec: ClientRunSpec, around: Surroundings, public_key: bytes, deadline: float
) -> dict[str, bytes]:
    path = around.path(spec.policy)
    while (pinned := read_policy(path, silo=spec.silo, own_key=public_key)) is None:
        if around.clock() > deadline:
            cure = "see whether every silo has started; raise spec.aggregation.joinTimeout"
            raise Unavailable("no policy names this silo's peers", where=str(path), cure=cure)
        await asyncio.sleep(POLICY_SECONDS)
    return pinned


class Participant:
    """A joined silo: feeds what happens into the state machine and does what comes out."""

    def __init__(
        self,
        spec: ClientRunSpec,
        prepared: Prepared,
        link: CoordinatorLink,
        journal: Journal,
        kept: KeptBroadcast,
        checker: BroadcastChecker,
        sampler: Sampler,
        around: Surroundings,
    ) -> None:
        self._spec = spec
        self._prepared = prepared
        self._link = link
        self._journal = journal
        self._kept = kept
        self._checker = checker
        self._sampler = sampler
        self._entropy = around.entropy
        self._watch = around.watch
        self._clock = around.clock
        self._awaited: tuple[AttemptId, object] | None = None  # in which attempt, and what, the coordinator owes
        self._overdue_at = 0.0
        self._answers: deque[SiloEvent] = deque()
        self._over: JobOver | None = None

    async def take_part(self) -> JobOver:
        """Answer attempts until the job is over; raises FoedusError when this silo must stop."""
        state = start_silo_job(self._rules(), self._journal.last, await in_thread(self._kept.read))
        while self._over is None:
            event = await self._next_event()
            step = await in_thread(silo_job_step, state, event, self._entropy)
            self._log_refusals(step.effects)
            for effect in step.effects:
                await self._execute(effect)
            state = step.state
            self._note_awaited(awaited_stage(state))
        return self._over

    def _note_awaited(self, awaited: tuple[AttemptId, object] | None) -> None:
        """Count the coordinator's time from the moment in which it became its turn."""
        if awaited != self._awaited:
            self._awaited, self._overdue_at = awaited, self._clock() + patience_seconds(self._spec.plan)

    def _log_refusals(self, effects: Sequence[SiloEffect]) -> None:
        """Tell this silo's holder what it refuses; a refusal that ends the process is told at its end."""
        if any(isinstance(effect, Stop) for effect in effects):
            return
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Refuse):
                refusal = effect.message
                where = (refusal.silo, refusal.id.round + 1, refusal.id.attempt)
                _logger.warning("silo %s: round %d, attempt %d refused: %s", *where, refusal.reason)

    def _rules(self) -> SiloRules:
        spec, prepared, model = self._spec, self._prepared, self._prepared.model
        return SiloRules(
            plan=spec.plan,
            plan_digest=spec.plan.digest(),
            identity=SiloIdentity(spec.silo, prepared.signing_key),
            pinned=prepared.pinned,
            vectors=RoundVectors(model.factors, {factor: model.coordinates(factor) for factor in model.factors}),
            checker=self._checker,
        )

    async def _next_event(self) -> SiloEvent:
        """Return what happens next: what arrived while an effect was executed, then its answer, else what comes."""
        if self._answers:
            arrived = self._link.receive_now()
            return self._answers.popleft() if arrived is None else _heard(arrived)
        if self._awaited is None:
            return _heard(await self._link.receive())
        try:
            async with asyncio.timeout(max(0.0, self._overdue_at - self._clock())):
                return _heard(await self._link.receive())
        except TimeoutError:
            return Overdue(self._awaited[0])

    async def _execute(self, effect: SiloEffect) -> None:
        self._watch(effect)
        match effect:
            case Send(message, payload):
                await self._link.send(message, payload)
            case SeekNewer(coordinator):
                if not await self._link.meets_newer(coordinator):
                    self._answers.append(NobodyNewer())
            case Leave(over):
                self._over = over
            case Stop(error):
                raise error
            case _:
                answer = await in_thread(self._work, effect)
                if answer is not None:
                    self._answers.append(answer)

    def _work(self, effect: SiloEffect) -> SiloEvent | None:
        """Do what takes long."""
        from foedus_workloads.training.local_step import noised

        match effect:
            case JournalSilo(entry, payload):
                self._journal.write(entry, payload)
            case KeepBroadcast(start, payload):
                self._kept.write(start, payload)
            case LoadAdapter(payload):
                self._prepared.model.load_adapter_bytes(payload)
            case ComputeSum(attempt, factor):
                return SumComputed(attempt, self._prepared.local.integer_sum(factor))
            case ChargeLedger(attempt):
                return LedgerAnswered(attempt, self._charge(attempt))
            case DrawNoise(attempt, total):
                return NoiseDrawn(attempt, noised(total, self._spec.plan, self._sampler))
            case _:
                raise TypeError(type(effect).__name__)
        return None

    def _charge(self, attempt: AttemptId) -> FoedusError | None:
        plan = self._spec.plan
        try:
            self._prepared.ledger.charge(plan.uid, attempt.attempt, noise_multiplier=plan.privacy.noise_multiplier)
        except FoedusError as problem:
            where = (self._spec.silo, attempt.round + 1, attempt.attempt)
            _logger.warning("silo %s: round %d, attempt %d is not charged: %s", *where, problem)
            return problem
        return None


def _heard(item: Incoming) -> SiloEvent:
    return SessionRenewed() if isinstance(item, Rejoined) else Heard(*item)

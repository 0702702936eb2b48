"""One silo's process: prepares its data and model, joins, and answers the attempts it is invited to.

It drives the state machine of `secagg.silo` and does what that asks for, in order. A contribution is:

1. compute the integer sum of clipped gradients (a crash up to here costs no budget);
2. note Charging in the journal, charge the silo's own ledger, and only then
3. draw noise, mask, note Uploaded, send.

Whatever the coordinator says, an attempt is answered at most once, at the adapter whose digest was signed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foedus_contract.errors import FoedusError, InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.progress import CACHING, IdentityReady, Preparing
from foedus_contract.run_spec import ClientRunSpec
from foedus_contract.wire import (
    AttemptId,
    AttemptOver,
    CoordinatorMessage,
    JobOver,
    Join,
    Refuse,
    StartAttempt,
    Welcome,
)
from foedus_workloads.training.identity import load_identity, read_policy
from foedus_workloads.training.journal import Journal, open_journal
from foedus_workloads.training.progress import ProgressWriter
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.transport.client import CoordinatorLink, Incoming, LinkSettings, Rejoined, connect
from foedus_workloads.transport.tls import client_context

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from foedus_ledger.sqlite import SqliteLedger
    from foedus_workloads.privacy.noise import Sampler
    from foedus_workloads.secagg.effects import Step
    from foedus_workloads.secagg.silo import SiloAttempt
    from foedus_workloads.training.local_step import LocalStep
    from foedus_workloads.training.model import AdaptedModel

POLICY_SECONDS = 0.5  # between looks for the policy file


@dataclass(frozen=True)
class Prepared:
    """What a silo needs to answer: its model, its records' local step, its ledger, its key and its pinned peers."""

    model: AdaptedModel
    local: LocalStep
    ledger: SqliteLedger
    signing_key: Ed25519PrivateKey
    pinned: dict[str, bytes]


async def run_client(spec: ClientRunSpec, around: Surroundings, sampler: Sampler) -> JobOver:
    """Take part in the job until the coordinator says that it is over; raises FoedusError when this silo must stop."""
    progress = ProgressWriter(around.path(spec.progress))
    state = around.path(spec.state)
    context = client_context(around.tls(spec.tls))
    policy_deadline = around.clock() + spec.plan.deadlines.join_seconds
    # Beside the ledger: that folder is the silo's own and outlives jobs, as the key must.
    signing_key = load_identity(around.path(spec.ledger).parent, around.entropy)
    public_key = signing_key.public_key().public_bytes_raw()
    with open_journal(state, spec.plan.uid) as journal:
        progress.write(IdentityReady(silo=spec.silo, public_key=public_key))
        model, local, ledger = await asyncio.to_thread(prepare, spec, around, progress)
        pinned = await _wait_for_policy(spec, around, public_key, policy_deadline)
        prepared = Prepared(model, local, ledger, signing_key, pinned)
        join = Join(silo=spec.silo, incarnation=spec.incarnation, identity=public_key, plan_digest=spec.plan.digest())
        deadlines = spec.plan.deadlines
        async with connect(
            lambda: around.address(spec.coordinator_service, spec.coordinator_port),
            join,
            hostname=spec.coordinator_service.partition(".")[0],  # the Service's own name, in every certificate of it
            context=context,
            entropy=around.entropy,
            settings=LinkSettings(join_seconds=deadlines.join_seconds, patience_seconds=deadlines.stage_seconds),
        ) as link:
            return await Participant(spec, prepared, link, journal, sampler, around).take_part()


def prepare(
    spec: ClientRunSpec, around: Surroundings, progress: ProgressWriter
) -> tuple[AdaptedModel, LocalStep, SqliteLedger]:
    """Check data and ledger against the plan, load the model, and cache what the rounds do not change."""
    from foedus_ledger.sqlite import SqliteLedger
    from foedus_workloads.training.data import read_records

    path = around.path(spec.data)
    records = read_records(path, spec.plan.model.labels)
    expected = next((silo for silo in spec.plan.silos if silo.name == spec.silo), None)
    if expected is None or (expected.data_digest, expected.records) != (records.digest, records.count):
        raise InvalidInput(
            "the data is not what the plan was made for",
            where=str(path),
            cure="make a budget for this very data, or put the old data back",
            code=ExitCode.INVALID_DATA,
        )
    ledger = SqliteLedger(around.path(spec.ledger))
    check_account(spec, ledger)
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
    return model, local, ledger


def check_gap(spec: ClientRunSpec, ledger: SqliteLedger, coordinates: int) -> None:
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


def check_account(spec: ClientRunSpec, ledger: SqliteLedger) -> None:
    """Raise Refused unless the silo's ledger holds this data and an open reservation of the job with enough noise."""
    record = ledger.read()
    expected = next(silo for silo in spec.plan.silos if silo.name == spec.silo)
    account = record.accounts.get(spec.plan.uid)
    problem = ""
    if (record.spec.digest, record.spec.records) != (expected.data_digest, expected.records):
        problem = "the budget is for other data"
    elif account is None or account.state != "Open":
        problem = "the budget holds no open reservation of this job"
    elif spec.plan.privacy.noise_multiplier < account.mechanism.noise_multiplier:
        problem = "the plan draws less noise than was reserved for"
    if problem:
        raise Refused(problem, where=spec.budget, cure="start the job through the engine, which reserves")


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
    """A joined silo: feeds what arrives into the state machine and does what comes out."""

    def __init__(
        self,
        spec: ClientRunSpec,
        prepared: Prepared,
        link: CoordinatorLink,
        journal: Journal,
        sampler: Sampler,
        around: Surroundings,
    ) -> None:
        self._spec = spec
        self._plan_digest = spec.plan.digest()
        self._prepared = prepared
        self._link = link
        self._journal = journal
        self._sampler = sampler
        self._entropy = around.entropy
        self._waiting: deque[Incoming] = deque()
        self._attempt: SiloAttempt | None = None
        self._factor = "None"
        self._coordinator = 0  # the highest incarnation that has welcomed this silo

    async def take_part(self) -> JobOver:
        """Answer attempts until the job is over."""
        while True:
            item = self._waiting.popleft() if self._waiting else await self._link.receive()
            if isinstance(item, Rejoined):
                self._attempt = None
                continue
            message, payload = item
            if isinstance(message, JobOver):
                return message
            await self._take(message, payload)

    async def _take(self, message: CoordinatorMessage, payload: bytes) -> None:
        if isinstance(message, Welcome):
            if message.incarnation < self._coordinator:
                where = self._spec.coordinator_service
                raise Refused("an older coordinator answers", where=where, code=ExitCode.SUPERSEDED)
            self._coordinator = message.incarnation
        elif isinstance(message, StartAttempt):
            await self._begin(message, payload)
        elif self._attempt is not None:
            from foedus_workloads.secagg.silo import silo_receives

            await self._execute(await asyncio.to_thread(silo_receives, self._attempt, message, self._entropy))

    async def _begin(self, message: StartAttempt, payload: bytes) -> None:
        """Enter an attempt, or say why not; an attempt that is under way is abandoned."""
        self._attempt = None
        try:
            step = await asyncio.to_thread(self._start, message, payload)
        except (InvalidInput, Refused) as problem:
            await self._refuse(message.id, problem.what)
            return
        await self._execute(step)

    def _start(self, message: StartAttempt, payload: bytes) -> Step[SiloAttempt]:
        from foedus_workloads.secagg.effects import AttemptContext, SiloIdentity
        from foedus_workloads.secagg.silo import start_silo
        from foedus_workloads.training.model import adapter_digest

        plan, model = self._spec.plan, self._prepared.model
        attempt = message.id
        if attempt.round >= plan.rounds or not attempt.round <= attempt.attempt < plan.attempts:
            raise InvalidInput("the plan has no such attempt", where="StartAttempt")
        if message.factor != model.factor_of_round(attempt.round):
            raise InvalidInput("another factor is active in this round", where="StartAttempt")
        if adapter_digest(payload) != message.adapter_digest:
            raise InvalidInput("the adapter is not the one that is named", where="StartAttempt")
        model.load_adapter_bytes(payload)
        self._factor = message.factor
        context = AttemptContext(
            id=attempt,
            job_uid=plan.uid,
            plan_digest=self._plan_digest,
            adapter_digest=message.adapter_digest,
            threshold=plan.privacy.threshold,
            coordinates=model.coordinates(message.factor),
        )
        identity = SiloIdentity(self._spec.silo, self._prepared.signing_key)
        step = start_silo(context, identity, self._prepared.pinned, self._entropy)
        self._journal.opened(attempt)
        return step

    async def _execute(self, step: Step[SiloAttempt]) -> None:
        from foedus_workloads.secagg.effects import Contribute, JournalUnmask, JournalUpload, Send

        self._attempt = step.state
        for effect in step.effects:
            match effect:
                case Send(message, payload):
                    await self._link.send(message, payload)
                case JournalUpload(attempt, payload):
                    await asyncio.to_thread(self._journal.uploaded, attempt, payload)
                case JournalUnmask(attempt, answer):
                    await asyncio.to_thread(self._journal.unmasked, attempt, answer)
                case Contribute():
                    await self._contribute(step.state)

    async def _contribute(self, attempt: SiloAttempt) -> None:
        from foedus_workloads.secagg.silo import silo_contributes
        from foedus_workloads.training.local_step import noised

        total = await asyncio.to_thread(self._prepared.local.integer_sum, self._factor)
        if self._overtaken(attempt.context.id):  # nobody waits for it any more: it would cost budget for nothing
            self._attempt = None
            return
        if not await self._charge(attempt.context.id):
            self._attempt = None
            return
        vector = await asyncio.to_thread(noised, total, self._spec.plan, self._sampler)
        await self._execute(await asyncio.to_thread(silo_contributes, attempt, vector))

    async def _charge(self, attempt: AttemptId) -> bool:
        """Charge the silo's ledger for the attempt; False when it could not be, after telling the coordinator."""
        sigma = self._spec.plan.privacy.noise_multiplier
        try:
            await asyncio.to_thread(self._journal.charging, attempt)
            await asyncio.to_thread(
                lambda: self._prepared.ledger.charge(self._spec.plan.uid, attempt.attempt, noise_multiplier=sigma)
            )
        except FoedusError as problem:
            await self._refuse(attempt, problem.what)
            if not problem.code.retryable:
                raise
            return False
        return True

    async def _refuse(self, attempt: AttemptId, reason: str) -> None:
        await self._link.send(Refuse(id=attempt, silo=self._spec.silo, reason=reason[:512]))

    def _overtaken(self, attempt: AttemptId) -> bool:
        while (item := self._link.receive_now()) is not None:
            self._waiting.append(item)
        return any(_ends(item, attempt) for item in self._waiting)


def _ends(item: Incoming, attempt: AttemptId) -> bool:
    if isinstance(item, Rejoined):
        return True
    message, _ = item
    return isinstance(message, StartAttempt | JobOver) or (isinstance(message, AttemptOver) and message.id == attempt)

"""The coordinator's process: drives the state machine of `coordinator_job` and does what that asks for, in order.

State lies on its output volume: a journal, and a checkpoint that the journal names. A new process of the same job goes
on from there, or, with the volume lost, from the silos' last signed broadcast.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from foedus_contract.errors import FoedusError
from foedus_contract.pages import PROBE_PORT
from foedus_contract.progress import Preparing, RoundFinished, TrainingResult, TrainingStarted
from foedus_contract.run_spec import CoordinatorRunSpec
from foedus_contract.wire import JobOver, Welcome
from foedus_workloads.secagg.effects import SendTo, SetDeadline
from foedus_workloads.training.broadcast import BroadcastChecker, BroadcastSigner
from foedus_workloads.training.checkpoint import CheckpointStore
from foedus_workloads.training.coordinator_entries import Closed, Restored
from foedus_workloads.training.coordinator_job import coordinator_job_step, start_coordinator_job
from foedus_workloads.training.coordinator_journal import CoordinatorJournal, open_coordinator_journal
from foedus_workloads.training.coordinator_state import CoordinatorRules
from foedus_workloads.training.job_effects import (
    ApplySum,
    CheckpointSaved,
    CoordinatorEffect,
    CoordinatorEvent,
    Fail,
    Finish,
    JournalCoordinator,
    ModelMoved,
    ReportAttempt,
    ReportStarted,
    ReportWaiting,
    RestoreAdapter,
    SaveCheckpoint,
    TimedOut,
)
from foedus_workloads.training.journal import name_of
from foedus_workloads.training.progress import ProgressWriter
from foedus_workloads.training.spending import Spending
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.training.threads import in_thread
from foedus_workloads.training.vitals import Vitals
from foedus_workloads.transport.events import Joined
from foedus_workloads.transport.probes import answering_probes
from foedus_workloads.transport.server import ServerSettings, SiloServer
from foedus_workloads.transport.sessions import Sessions
from foedus_workloads.transport.tls import TlsPaths, check_dates, probe_context, server_context

if TYPE_CHECKING:
    from foedus_workloads.training.trainer import Trainer

MAX_WHY = 512  # characters of a reason that are kept
STATE_FOLDER = "state"  # inside the output volume, beside the adapter


async def run_coordinator(
    spec: CoordinatorRunSpec, around: Surroundings, settings: ServerSettings | None = None
) -> TrainingResult:
    """Run the job to its end and return the result; raises FoedusError when it fails."""
    plan = spec.plan
    progress = around.progress(spec.progress)
    tls = around.tls(spec.tls)
    context = server_context(tls)
    check_dates(tls, around.wall_clock())
    sessions = Sessions(
        [silo.name for silo in plan.silos],
        plan_digest=plan.digest(),
        code_digest=around.code_digest(),
        clock=around.clock,
    )
    vitals = Vitals(spec, around)
    vitals.works()
    server = SiloServer(
        sessions,
        namespace=plan.namespace,
        job=plan.job,
        incarnation=spec.incarnation,
        settings=settings,
        pages=vitals.pages(lambda: sessions.present, lambda: progress.latest),
    )
    host, port = listen_address(spec, around)
    async with server.listening(host, port, context), _probed(around, tls, vitals):
        awaited: frozenset[str] = frozenset()
        try:
            with open_coordinator_journal(_state_file(spec, around, ".jsonl")) as journal:
                if journal.recovered is not None:  # silos of the process before this one are on their way back
                    awaited = frozenset(silo.name for silo in plan.silos)
                trainer = await asyncio.to_thread(_load_trainer, spec, around, progress)
                result = await Driver(spec, around, progress, server, journal, trainer, vitals).run()
        except FoedusError as error:
            # A process that may be started again is not the job's end.
            if not error.code.retryable:
                vitals.waits()
                over = JobOver(outcome="Failed", reason=str(error)[:512])
                await say_goodbye(server, around, spec, over, awaited)
            raise
        vitals.waits()
        over = JobOver(outcome=result.outcome, reason=result.reason)
        await say_goodbye(server, around, spec, over, awaited)
        return result


def listen_address(spec: CoordinatorRunSpec, around: Surroundings) -> tuple[str, int]:
    """Return the address to bind: what the endpoints file says, in a pod every address of it."""
    if around.endpoints is None:
        return "0.0.0.0", spec.listen_port  # noqa: S104 - a pod's network is its own, and TLS asks for a certificate
    return around.address(spec.listen_service, spec.listen_port)


def _probed(around: Surroundings, tls: TlsPaths, vitals: Vitals) -> AbstractAsyncContextManager[object]:
    """Answer a kubelet's probes meanwhile; on one machine nobody asks."""
    if around.endpoints is not None:
        return nullcontext()
    return answering_probes("0.0.0.0", PROBE_PORT, probe_context(tls), vitals.is_well)  # noqa: S104 - the node asks


async def say_goodbye(
    server: SiloServer, around: Surroundings, spec: CoordinatorRunSpec, over: JobOver, awaited: frozenset[str]
) -> None:
    """Tell every silo who says it and that the job is over, and wait up to `stage_seconds` until they have left.

    `awaited` silos are told even when they have not come yet: a restarted coordinator may have nothing left to do.
    """
    missing = awaited - server.present
    deadline = around.clock() + spec.plan.deadlines.stage_seconds

    def tell(silo: str) -> None:
        server.send(silo, Welcome(incarnation=spec.incarnation))
        server.send(silo, over)

    for silo in sorted(server.present):
        tell(silo)
    while (server.present or missing) and around.clock() < deadline:
        event = await server.next_event(max(0.0, deadline - around.clock()))
        if isinstance(event, Joined):
            tell(event.silo)
            missing -= {event.silo}


class Driver:
    """One job's machine, between transport, journal, model and progress file."""

    def __init__(
        self,
        spec: CoordinatorRunSpec,
        around: Surroundings,
        progress: ProgressWriter,
        server: SiloServer,
        journal: CoordinatorJournal,
        trainer: Trainer,
        vitals: Vitals,
    ) -> None:
        self._spec = spec
        self._plan = spec.plan
        self._around = around
        self._watch = around.watch
        self._progress = progress
        self._server = server
        self._journal = journal
        self._trainer = trainer
        self._vitals = vitals
        self._store = CheckpointStore(around.path(spec.output) / STATE_FOLDER, name_of(spec.plan.uid))
        self._spending = Spending.of(spec.plan, trainer.most_coordinates)
        self._answers: deque[CoordinatorEvent] = deque()
        self._deadline = 0.0
        self._result: TrainingResult | None = None

    async def run(self) -> TrainingResult:
        """Feed events into the machine until it ends."""
        recovered, clock = self._journal.recovered, self._around.clock
        if recovered is not None:
            self._vitals.note(recovered.standing, self._spending.epsilon(recovered.standing.charged))
        if recovered is not None and recovered.checkpoint is not None:
            await in_thread(lambda digest: self._trainer.resume(self._store.load(digest)), recovered.checkpoint)
        adapter = await in_thread(self._trainer.adapter_bytes)
        # Masked vectors, and adapters that silos offer: all adapters of a plan are of one length.
        self._server.expect_payloads(max(4 * self._trainer.most_coordinates, len(adapter)))
        step = start_coordinator_job(self._rules(), recovered, adapter, clock())
        while True:
            for effect in step.effects:
                await self._execute(effect)
            if self._result is not None:
                return self._result
            self._vitals.waits()
            event = await self._next_event()
            self._vitals.works()
            # In a thread: taking the masks off is a long computation, and silos must be answered meanwhile.
            step = await in_thread(coordinator_job_step, step.state, event, clock())

    def _rules(self) -> CoordinatorRules:
        files, service = self._around.tls(self._spec.tls), self._spec.listen_service
        return CoordinatorRules(
            plan=self._plan,
            plan_digest=self._plan.digest(),
            vectors=self._trainer.vectors,
            signer=BroadcastSigner.load(files),
            checker=BroadcastChecker.load(files, service.partition(".")[0]),
            incarnation=self._spec.incarnation,
        )

    async def _next_event(self) -> CoordinatorEvent:
        if self._answers:
            arrived = await self._server.next_event(0.0)
            return self._answers.popleft() if arrived is None else arrived
        arrived = await self._server.next_event(max(0.0, self._deadline - self._around.clock()))
        return TimedOut() if arrived is None else arrived

    async def _execute(self, effect: CoordinatorEffect) -> None:
        self._watch(effect)
        match effect:
            case SendTo(silo, message, payload):
                self._server.send(silo, message, payload)
            case SetDeadline(at):
                self._deadline = at
            case ReportWaiting() | ReportStarted() | ReportAttempt():
                self._report(effect)
            case Finish():
                self._result = await in_thread(self._finish, effect)
            case Fail(error):
                raise error
            case _:
                answer = await in_thread(self._work, effect)
                if answer is not None:
                    self._answers.append(answer)

    def _work(self, effect: CoordinatorEffect) -> CoordinatorEvent | None:
        """Do what takes long."""
        trainer = self._trainer
        match effect:
            case RestoreAdapter(payload):
                accuracy = trainer.take_over(payload)
                return ModelMoved(trainer.adapter_bytes(), accuracy)
            case ApplySum(number, total):
                accuracy = trainer.apply(number, total)
                return ModelMoved(trainer.adapter_bytes(), accuracy)
            case SaveCheckpoint():
                return CheckpointSaved(self._store.save(trainer.checkpoint()))
            case JournalCoordinator(entry):
                self._journal.write(entry)
                if isinstance(entry, Closed | Restored) and entry.checkpoint is not None:
                    self._store.keep_only(entry.checkpoint)
            case _:
                raise TypeError(type(effect).__name__)
        return None

    def _report(self, effect: ReportWaiting | ReportStarted | ReportAttempt) -> None:
        at = self._around.wall_clock()
        match effect:
            case ReportWaiting(here, total):
                self._progress.write(Preparing(at=at, what="waiting for silos", done=here, total=total))
            case ReportStarted(joined, heads):
                parameters, kappa = self._trainer.trainable_parameters, self._trainer.kappa
                self._progress.write(
                    TrainingStarted(
                        at=at,
                        joined=joined,
                        trainable_parameters=parameters,
                        kappa=kappa,
                        heads=dict(heads),
                        code_digest=self._around.code_digest(),
                    )
                )
            case ReportAttempt(attempt):
                epsilon = self._spending.epsilon(effect.standing.charged)
                self._vitals.note(effect.standing, epsilon)
                self._progress.write(
                    RoundFinished(
                        at=at,
                        round=attempt.round,
                        attempt=attempt.attempt,
                        applied=effect.applied,
                        survivors=effect.survivors,
                        dropped=effect.dropped,
                        epsilon_spent=epsilon,
                        accuracy=effect.standing.accuracy,
                        seconds=effect.phases.total,
                        phases=effect.phases,
                        reason=effect.reason,
                        why={silo: shown(why) for silo, why in effect.why.items()},
                    )
                )

    def _finish(self, end: Finish) -> TrainingResult:
        standing = end.standing
        epsilon = self._spending.epsilon(standing.charged)
        metrics = {
            "accuracy": standing.accuracy,
            "epsilon": epsilon,
            "delta": self._plan.privacy.delta,
            "rounds": standing.rounds,
            "attempts": standing.attempts,
        }
        output, code = self._around.path(self._spec.output), self._around.code_digest()
        digest = self._trainer.export(output, metrics, self._spec.model, code)
        return TrainingResult(
            outcome="EndedEarly" if end.reason else "Complete",
            reason=end.reason,
            message=end.message,
            rounds=standing.rounds,
            attempts=standing.attempts,
            epsilon_spent=epsilon,
            accuracy=standing.accuracy,
            adapter_digest=digest,
        )


def shown(reason: str) -> str:
    """Return a reason as one line for people: silos wrote parts of it, and a terminal obeys what does not print."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())[:MAX_WHY]


def _state_file(spec: CoordinatorRunSpec, around: Surroundings, ending: str) -> Path:
    return around.path(spec.output) / STATE_FOLDER / (name_of(spec.plan.uid) + ending)


def _load_trainer(spec: CoordinatorRunSpec, around: Surroundings, progress: ProgressWriter) -> Trainer:
    # Imported here, with the port open: torch takes seconds, and silos may connect meanwhile.
    from foedus_workloads.training.trainer import Trainer

    return Trainer.load(spec, around, progress)

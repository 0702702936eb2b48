"""The coordinator's process: waits for silos, runs rounds until done or until attempts run out, leaves an adapter.

1. Listen; load the model meanwhile. Wait until all silos have joined, or t of them at the join deadline.
2. An attempt a round: broadcast the adapter, aggregate, take a step. An attempt that fails repeats its round under a
   new number; every number is used once. The plan's attempts are all there are.
3. End: write the adapter, tell the silos, report. With at least one round done a job that cannot go on ends early
   with its adapter (it is paid for); without any it fails.

A coordinator that stopped after step 1 does not resume: a mark on its volume makes a new process fail with a reason.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from foedus_contract.canonical import canonical_json
from foedus_contract.errors import FoedusError, JobFailed
from foedus_contract.exit_codes import ExitCode
from foedus_contract.progress import PhaseSeconds, Preparing, RoundFinished, TrainingResult, TrainingStarted
from foedus_contract.run_spec import CoordinatorRunSpec
from foedus_contract.wire import AttemptId, JobOver, StartAttempt
from foedus_workloads.secagg.effects import AttemptContext, Released
from foedus_workloads.training.attempt import Attendance, Outcome, run_attempt
from foedus_workloads.training.phases import phase_seconds
from foedus_workloads.training.progress import ProgressWriter
from foedus_workloads.training.spending import Spending
from foedus_workloads.training.surroundings import Surroundings
from foedus_workloads.transport.events import Joined
from foedus_workloads.transport.server import ServerSettings, SiloServer
from foedus_workloads.transport.sessions import Sessions
from foedus_workloads.transport.tls import server_context

if TYPE_CHECKING:
    from foedus_workloads.training.trainer import Trainer

GOODBYE_SECONDS = 10.0  # silos that are there fetch their last message within a round trip
STARTED_FILE = "started.json"


@dataclass(frozen=True)
class Standing:
    """How far the job is."""

    rounds: int = 0
    attempts: int = 0
    charged: int = 0
    accuracy: float | None = None


async def run_coordinator(
    spec: CoordinatorRunSpec, around: Surroundings, settings: ServerSettings | None = None
) -> TrainingResult:
    """Run the job to its end and return the result; raises FoedusError when it fails."""
    plan = spec.plan
    progress = ProgressWriter(around.path(spec.progress))
    context = server_context(around.tls(spec.tls))
    sessions = Sessions([silo.name for silo in plan.silos], plan_digest=plan.digest(), clock=around.clock)
    server = SiloServer(sessions, namespace=plan.namespace, job=plan.job, settings=settings)
    host, port = listen_address(spec, around)
    async with server.listening(host, port, context):
        attendance = Attendance(server, spec.incarnation)
        try:
            check_not_resumed(around.path(spec.output), plan.uid)
            trainer = await asyncio.to_thread(_load_trainer, spec, around, progress)
            server.expect_vectors(trainer.most_coordinates)
            result = await Job(spec, around, progress, attendance, trainer).run()
        except FoedusError as error:
            await say_goodbye(attendance, around, JobOver(outcome="Failed", reason=str(error)[:512]))
            raise
        await say_goodbye(attendance, around, JobOver(outcome=result.outcome, reason=result.reason))
        return result


def listen_address(spec: CoordinatorRunSpec, around: Surroundings) -> tuple[str, int]:
    """Return the address to bind: what the endpoints file says, in a pod every address of it."""
    if around.endpoints is None:
        return "0.0.0.0", spec.listen_port  # noqa: S104 - a pod's network is its own, and TLS asks for a certificate
    return around.address(spec.listen_service, spec.listen_port)


def check_not_resumed(output: Path, uid: str) -> None:
    """Raise JobFailed when an earlier process of this job's coordinator had begun to train."""
    mark = output / STARTED_FILE
    if mark.is_file() and mark.read_bytes() == _mark(uid):
        raise JobFailed(
            "the coordinator stopped during the training and cannot resume",
            where=uid,
            cure="start a new job; what was charged stays charged",
        )


async def say_goodbye(attendance: Attendance, around: Surroundings, message: JobOver) -> None:
    """Tell every silo that the job is over, and wait a moment until they have left."""
    deadline = around.clock() + GOODBYE_SECONDS
    for silo in sorted(attendance.present):
        attendance.server.send(silo, message)
    while attendance.present and around.clock() < deadline:
        event = await attendance.next_event(deadline - around.clock())
        if isinstance(event, Joined):
            attendance.server.send(event.silo, message)


class Job:
    """One job's rounds."""

    def __init__(
        self,
        spec: CoordinatorRunSpec,
        around: Surroundings,
        progress: ProgressWriter,
        attendance: Attendance,
        trainer: Trainer,
    ) -> None:
        self._spec = spec
        self._plan = spec.plan
        self._plan_digest = spec.plan.digest()
        self._around = around
        self._progress = progress
        self._attendance = attendance
        self._trainer = trainer
        self._spending = Spending.of(spec.plan, trainer.most_coordinates)

    async def run(self) -> TrainingResult:
        """Train until all rounds are done, or attempts or silos run out."""
        deadlines, standing = self._plan.deadlines, Standing()
        await self._wait_for(len(self._plan.silos), deadlines.join_seconds)
        self._check_quorum("the silos did not join in time")
        self._start()
        while standing.rounds < self._plan.rounds and standing.attempts < self._plan.attempts:
            if not await self._wait_for(self._plan.privacy.threshold, deadlines.join_seconds):
                break
            standing = await self._attempt(standing)
        return await self._finish(standing)

    async def _wait_for(self, count: int, seconds: float) -> bool:
        """Wait until `count` silos are there; False when they are not after `seconds`."""
        deadline = self._around.clock() + seconds
        while len(self._attendance.present) < count:
            left = deadline - self._around.clock()
            if left <= 0:
                return False
            if isinstance(await self._attendance.next_event(left), Joined):
                joined = len(self._attendance.present)
                at, total = self._around.wall_clock(), len(self._plan.silos)
                self._progress.write(Preparing(at=at, what="waiting for silos", done=joined, total=total))
        return True

    def _check_quorum(self, what: str) -> None:
        present, needed = self._attendance.present, self._plan.privacy.threshold
        if len(present) < needed:
            missing = sorted({silo.name for silo in self._plan.silos} - present)
            raise JobFailed(
                f"{what}: {len(present)} are there, {needed} are needed; missing: {', '.join(missing)}",
                where=self._plan.job,
                cure="see why they stopped; raise spec.aggregation.joinTimeout if they are slow to start",
                code=ExitCode.QUORUM_LOST,
            )

    def _start(self) -> None:
        output = self._around.path(self._spec.output)
        output.mkdir(parents=True, exist_ok=True)
        (output / STARTED_FILE).write_bytes(_mark(self._plan.uid))
        self._progress.write(
            TrainingStarted(
                at=self._around.wall_clock(),
                joined=tuple(sorted(self._attendance.present)),
                trainable_parameters=self._trainer.trainable_parameters,
                kappa=self._trainer.kappa,
            )
        )

    async def _attempt(self, standing: Standing) -> Standing:
        started, plan = self._around.clock(), self._plan
        present = self._attendance.present
        attempt = AttemptId(round=standing.rounds, attempt=standing.attempts)
        factor = self._trainer.factor(attempt.round)
        broadcast = await asyncio.to_thread(self._trainer.broadcast)
        context = AttemptContext(
            id=attempt,
            job_uid=plan.uid,
            plan_digest=self._plan_digest,
            adapter_digest=broadcast.digest,
            threshold=plan.privacy.threshold,
            coordinates=self._trainer.coordinates(factor),
        )
        start = StartAttempt(id=attempt, factor=factor, adapter_digest=broadcast.digest)
        outcome = await run_attempt(
            self._attendance,
            context,
            start,
            broadcast.payload,
            deadlines=plan.deadlines,
            clock=self._around.clock,
        )
        aggregated = self._around.clock()
        standing = replace(standing, attempts=standing.attempts + 1, charged=standing.charged + outcome.charged)
        if isinstance(outcome.end, Released):
            accuracy = await asyncio.to_thread(self._trainer.apply, attempt.round, outcome.end.total)
            standing = replace(standing, rounds=standing.rounds + 1, accuracy=accuracy)
        finished = self._around.clock()
        phases = phase_seconds(outcome.began, started=started, aggregated=aggregated, finished=finished)
        self._report(attempt, outcome, standing, present, phases)
        return standing

    def _report(
        self, attempt: AttemptId, outcome: Outcome, standing: Standing, present: frozenset[str], phases: PhaseSeconds
    ) -> None:
        applied = isinstance(outcome.end, Released)
        survivors = outcome.end.survivors if isinstance(outcome.end, Released) else ()
        dropped = tuple(sorted(present - set(survivors))) if applied else getattr(outcome.end, "dropped", ())
        self._progress.write(
            RoundFinished(
                at=self._around.wall_clock(),
                round=attempt.round,
                attempt=attempt.attempt,
                applied=applied,
                survivors=survivors,
                dropped=dropped,
                epsilon_spent=self._spending.epsilon(standing.charged),
                accuracy=standing.accuracy,
                seconds=phases.total,
                phases=phases,
                reason=getattr(outcome.end, "reason", ""),
            )
        )

    async def _finish(self, standing: Standing) -> TrainingResult:
        plan = self._plan
        complete = standing.rounds == plan.rounds
        ran_out = standing.attempts == plan.attempts
        why = "all attempts are used" if ran_out else "too few silos are left"
        if not complete and standing.rounds == 0:
            self._check_quorum(why)
            raise JobFailed(f"{why}, and no round was finished", where=plan.job, cure="see why silos dropped out")
        epsilon = self._spending.epsilon(standing.charged)
        metrics = {
            "accuracy": standing.accuracy,
            "epsilon": epsilon,
            "delta": plan.privacy.delta,
            "rounds": standing.rounds,
            "attempts": standing.attempts,
        }
        base_name = self._spec.model.package or ""
        digest = await asyncio.to_thread(self._trainer.export, self._around.path(self._spec.output), metrics, base_name)
        return TrainingResult(
            outcome="Complete" if complete else "EndedEarly",
            reason="" if complete else ("AttemptsExhausted" if ran_out else "QuorumLost"),
            message="" if complete else f"{why}: {standing.rounds} of {plan.rounds} rounds are done",
            rounds=standing.rounds,
            attempts=standing.attempts,
            epsilon_spent=epsilon,
            accuracy=standing.accuracy,
            adapter_digest=digest,
        )


def _load_trainer(spec: CoordinatorRunSpec, around: Surroundings, progress: ProgressWriter) -> Trainer:
    # Imported here, with the port open: torch takes seconds, and silos may connect meanwhile.
    from foedus_workloads.training.trainer import Trainer

    return Trainer.load(spec, around, progress)


def _mark(uid: str) -> bytes:
    return canonical_json({"job": uid})

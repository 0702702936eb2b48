"""A silo's part in a whole job, from joining to the end: pure (state, event, entropy) -> (state, effects).

It judges each broadcast, takes the attempt of `secagg.silo` through its steps, and asks for what must be done between:

1. A broadcast that is the plan's, signed, and of a new highest attempt is kept, then loaded; Opened is journalled, and
   only then the silo answers.
2. When a vector is due: compute the sum (a crash up to here costs no budget), journal Charging, charge the ledger.
3. Only when it is charged: draw noise, mask, journal Uploaded with the masked bytes, send.
4. Journal Unmasked, send the one unmasking answer.

The job is over when a coordinator says so and none with a higher incarnation is there: one that was given up for lost
may still run and end, and its successor needs the silos.

In an attempt a silo holds masking keys in memory. When the coordinator lets it wait beyond the plan's time, it says so
and drops the attempt with its secrets: no later message of that attempt is answered.

An attempt that ended meanwhile is not paid for: answers to effects of an attempt that is no longer under way are
passed over. Adversary: the coordinator. Whatever it says, an attempt is answered at most once, at the adapter whose
digest was signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from foedus_contract.canonical import bytes_digest
from foedus_contract.errors import InvalidInput, Refused, Unavailable
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import TrainingPlan
from foedus_contract.wire import AttemptId, JobOver, Offer, Refuse, StartAttempt, Welcome
from foedus_workloads.secagg.effects import (
    AttemptContext,
    Contribute,
    Entropy,
    JournalUnmask,
    JournalUpload,
    Send,
    SiloIdentity,
    Step,
)
from foedus_workloads.secagg.silo import SiloAttempt, SiloStage, silo_contributes, silo_receives, start_silo
from foedus_workloads.training.broadcast import BroadcastChecker
from foedus_workloads.training.job_effects import (
    ChargeLedger,
    ComputeSum,
    DrawNoise,
    Heard,
    Integers,
    JobStep,
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
from foedus_workloads.training.silo_entries import Entry, Stage, check_follows

Kept = tuple[StartAttempt, bytes]

# All that a coordinator is told of a charge that was not made: the ledger serves other jobs, too, and what it holds is
# no business of this one's. The silo's own log says the whole.
CHARGE_REASONS: Mapping[ExitCode, str] = {
    ExitCode.BUDGET_REFUSED: "the ledger refuses the charge",
    ExitCode.LEDGER_BEHIND: "the ledger is an old copy",
    ExitCode.UNAVAILABLE: "the ledger does not answer",
}


@dataclass(frozen=True)
class SiloRules:
    """What does not change during a job: the plan, who this silo and its peers are, whose broadcasts count."""

    plan: TrainingPlan
    plan_digest: str
    identity: SiloIdentity
    pinned: Mapping[str, bytes]
    vectors: RoundVectors
    checker: BroadcastChecker


@dataclass(frozen=True)
class SiloJob:
    """One silo's state in one job: its journal's last entry, the broadcast it keeps, the attempt under way."""

    rules: SiloRules
    last: Entry | None = None
    kept: Kept | None = field(default=None, repr=False)
    coordinator: int = 0  # the highest incarnation that has welcomed this silo
    attempt: SiloAttempt | None = None
    total: Integers | None = field(default=None, repr=False)
    told: JobOver | None = None  # the job's end, as the coordinator of this session says
    over: bool = False


SiloStep = JobStep[SiloJob, SiloEffect]


def start_silo_job(rules: SiloRules, last: Entry | None, kept: Kept | None) -> SiloJob:
    """Return the state of a process that starts: what an earlier one journalled and kept, and no attempt."""
    return SiloJob(rules, last, kept)


def silo_job_step(state: SiloJob, event: SiloEvent, entropy: Entropy) -> SiloStep:
    """Take one event."""
    if state.over:
        return JobStep(state)
    match event:
        case SessionRenewed():
            return JobStep(replace(_idle(state), told=None))
        case Heard(message, payload):
            return _hear(state, message, payload, entropy)
        case SumComputed(attempt, total) if _is_due(state, attempt):
            return _journalled(replace(state, total=total), attempt, "Charging", ChargeLedger(attempt))
        case LedgerAnswered(attempt) if _is_due(state, attempt):
            return _charged(state, event)
        case NoiseDrawn(attempt) if _is_due(state, attempt):
            return _contribute(state, event)
        case NobodyNewer() | Overdue():
            return _unheard(state, event)
        case _:
            return JobStep(state)  # the answer to an effect of an attempt that has ended


def awaited_stage(state: SiloJob) -> tuple[AttemptId, SiloStage] | None:
    """Return the attempt in which the coordinator is to say something, and what; None when it is not its turn."""
    current = state.attempt
    if current is None or current.stage in {SiloStage.VECTOR, SiloStage.ENDED}:
        return None
    return current.context.id, current.stage


def patience_seconds(plan: TrainingPlan) -> int:
    """Return how long a silo waits for the coordinator in one stage: for the other silos' slowest, with all they do."""
    return plan.deadlines.stage_seconds + plan.deadlines.compute_seconds


def _unheard(state: SiloJob, event: NobodyNewer | Overdue) -> SiloStep:
    """End the job when no newer coordinator is there, or the attempt in which this one says nothing."""
    if isinstance(event, NobodyNewer):
        told = state.told
        return JobStep(state) if told is None else JobStep(replace(_idle(state), over=True), (Leave(told),))
    awaited = awaited_stage(state)
    if awaited is None or awaited[0] != event.id:
        return JobStep(state)  # it has gone on
    return JobStep(_idle(state), (_refusal(state, event.id, "the attempt takes longer than the plan allows"),))


def _contribute(state: SiloJob, drawn: NoiseDrawn) -> SiloStep:
    assert state.attempt is not None
    return _take(replace(state, total=None), silo_contributes(state.attempt, drawn.vector))


def _hear(state: SiloJob, message: object, payload: bytes, entropy: Entropy) -> SiloStep:
    match message:
        case JobOver():
            return JobStep(replace(_idle(state), told=message), (SeekNewer(state.coordinator),))
        case Welcome():
            return _welcomed(state, message)
        case StartAttempt():
            return _begin(state, message, payload, entropy)
        case _ if state.attempt is not None:
            return _take(state, silo_receives(state.attempt, message, entropy))  # type: ignore[arg-type]
        case _:
            return JobStep(state)


def _welcomed(state: SiloJob, message: Welcome) -> SiloStep:
    if message.incarnation < state.coordinator:
        # The transport passes older ones over; a coordinator that calls itself both is no reason to stop for good.
        cure = "see why an older process of the coordinator still runs"
        error = Unavailable("an older coordinator answers", where=state.rules.plan.job, cure=cure)
        return JobStep(replace(_idle(state), over=True), (Stop(error),))
    state = replace(state, coordinator=message.incarnation)
    if not message.resume:
        return JobStep(state)
    start, payload = state.kept or (None, b"")
    return JobStep(state, (Send(Offer(silo=state.rules.identity.name, broadcast=start), payload),))


def _begin(state: SiloJob, message: StartAttempt, payload: bytes, entropy: Entropy) -> SiloStep:
    """Enter an attempt, or say why not; one that is under way is abandoned, whatever the broadcast is worth."""
    state, rules = _idle(state), state.rules
    try:
        _check_start(state, message, payload)
        context = AttemptContext(
            id=message.id,
            job_uid=rules.plan.uid,
            plan_digest=rules.plan_digest,
            adapter_digest=message.adapter_digest,
            threshold=rules.plan.privacy.threshold,
            coordinates=rules.vectors.coordinates[message.factor],
        )
        started = start_silo(context, rules.identity, rules.pinned, entropy)
    except (InvalidInput, Refused) as problem:
        return JobStep(state, (_refusal(state, message.id, problem.what),))
    entry = _entry(message.id, "Opened")
    step = _take(replace(state, last=entry, kept=(message, payload)), started)
    before = (KeepBroadcast(message, payload), LoadAdapter(payload), JournalSilo(entry))
    return replace(step, effects=(*before, *step.effects))


def _check_start(state: SiloJob, message: StartAttempt, payload: bytes) -> None:
    rules, plan, attempt = state.rules, state.rules.plan, message.id
    if attempt.round >= plan.rounds or not attempt.round <= attempt.attempt < plan.attempts:
        raise InvalidInput("the plan has no such attempt", where="StartAttempt")
    if message.factor != rules.vectors.factor(attempt.round):
        raise InvalidInput("another factor is active in this round", where="StartAttempt")
    if not attempt.round <= message.charged <= attempt.attempt:
        raise InvalidInput("so many attempts cannot have been charged before it", where="StartAttempt")
    rules.checker.check(message, payload, plan, rules.plan_digest)
    check_follows(state.last, _entry(attempt, "Opened"))


def _charged(state: SiloJob, answer: LedgerAnswered) -> SiloStep:
    if answer.problem is None:
        assert state.total is not None
        return JobStep(state, (DrawNoise(answer.id, state.total),))
    reason = CHARGE_REASONS.get(answer.problem.code, "the charge cannot be made")
    refusal = _refusal(state, answer.id, reason)
    if answer.problem.code.retryable:  # unknown: it counts as charged, and nothing is drawn
        return JobStep(_idle(state), (refusal,))
    return JobStep(replace(_idle(state), over=True), (refusal, Stop(answer.problem)))


def _take(state: SiloJob, step: Step[SiloAttempt]) -> SiloStep:
    """Turn an attempt's effects into the job's."""
    effects: list[SiloEffect] = []
    state = replace(state, attempt=step.state)
    for effect in step.effects:
        match effect:
            case Send():
                effects.append(effect)
            case JournalUpload(attempt, payload):
                state = replace(state, last=_entry(attempt, "Uploaded", payload))
                effects.append(JournalSilo(_entry(attempt, "Uploaded", payload), payload))
            case JournalUnmask(attempt, answer):
                state = replace(state, last=_entry(attempt, "Unmasked", answer.to_json()))
                effects.append(JournalSilo(_entry(attempt, "Unmasked", answer.to_json())))
            case Contribute():
                context = step.state.context
                effects.append(ComputeSum(context.id, state.rules.vectors.factor(context.id.round)))
            case _:
                pass  # Refused: the coordinator has been told by the Send before it
    return JobStep(state, tuple(effects))


def _journalled(state: SiloJob, attempt: AttemptId, stage: Stage, then: SiloEffect) -> SiloStep:
    entry = _entry(attempt, stage)
    return JobStep(replace(state, last=entry), (JournalSilo(entry), then))


def _is_due(state: SiloJob, attempt: AttemptId) -> bool:
    """Tell whether this attempt is the one under way and waits for its vector."""
    current = state.attempt
    return current is not None and current.context.id == attempt and current.stage is SiloStage.VECTOR


def _idle(state: SiloJob) -> SiloJob:
    return replace(state, attempt=None, total=None)


def _refusal(state: SiloJob, attempt: AttemptId, reason: str) -> Send:
    return Send(Refuse(id=attempt, silo=state.rules.identity.name, reason=reason[:512]))


def _entry(attempt: AttemptId, stage: Stage, sent: bytes | None = None) -> Entry:
    digest = "" if sent is None else bytes_digest(sent)
    return Entry(round=attempt.round, attempt=attempt.attempt, stage=stage, digest=digest)

"""The coordinator's part in a whole job: pure (state, event, now) -> (state, effects).

1. Wait until all silos have joined, or t of them at the join deadline. Without a journal of its own the coordinator
   asks each silo for the last broadcast it keeps, and goes on from the newest: a first start finds none, a
   coordinator that lost its volume finds where it was. Its optimiser then starts without momentum.
2. An attempt a round: journal Opened, broadcast the signed adapter, aggregate, apply the sum, save a checkpoint,
   journal Closed. An attempt that fails, or was cut off by the process's end, repeats its round under a new number;
   every number is used once. The plan's attempts are all there are.
3. End. With at least one round done a job that cannot go on ends early with its adapter (it is paid for); without any
   it fails.

Of t silos that answer in step 1 at least one took part in the last release, since two sets of t overlap; so at most
the last round is lost with the volume.
"""

from __future__ import annotations

from dataclasses import replace

from foedus_contract.canonical import bytes_digest
from foedus_contract.errors import InvalidInput
from foedus_contract.wire import AttemptId, AttemptOver, DeliverShares, Offer, StartAttempt, Welcome
from foedus_workloads.secagg.coordinator import (
    CoordinatorAttempt,
    coordinator_loses,
    coordinator_receives,
    coordinator_times_out,
    start_coordinator,
)
from foedus_workloads.secagg.effects import Aborted, AttemptContext, Released, SendTo, SetDeadline, Step
from foedus_workloads.training.coordinator_entries import Began, Closed, Opened, Recovered, Restored, Standing
from foedus_workloads.training.coordinator_state import (
    CoordinatorJob,
    CoordinatorRules,
    CoordinatorStep,
    Stage,
    failed,
    finish,
    is_done,
)
from foedus_workloads.training.job_effects import (
    ApplySum,
    CheckpointSaved,
    CoordinatorEffect,
    CoordinatorEvent,
    JobStep,
    JournalCoordinator,
    ModelMoved,
    ReportAttempt,
    ReportStarted,
    ReportWaiting,
    RestoreAdapter,
    SaveCheckpoint,
    TimedOut,
)
from foedus_workloads.training.phases import phase_seconds
from foedus_workloads.transport.events import Joined, Lost, Received


def start_coordinator_job(
    rules: CoordinatorRules, recovered: Recovered | None, adapter: bytes, now: float
) -> CoordinatorStep:
    """Begin, or go on from what the journal says; `adapter` is the model's as it is then."""
    standing = Standing() if recovered is None else recovered.standing
    deadline = now + rules.plan.deadlines.join_seconds
    state = CoordinatorJob(rules, Stage.JOINING, standing, adapter, deadline, asking=recovered is None)
    if is_done(state):
        return finish(state)
    return JobStep(state, (SetDeadline(deadline),))


def coordinator_job_step(state: CoordinatorJob, event: CoordinatorEvent, now: float) -> CoordinatorStep:
    """Take one event."""
    if state.stage is Stage.OVER:
        return JobStep(state)
    match event:
        case Joined():
            return _joined(state, event, now)
        case Lost(silo):
            return _lost(state, silo, now)
        case Received():
            return _received(state, event, now)
        case TimedOut():
            return _timed_out(state, now)
        case ModelMoved():
            return _moved(state, event)
        case CheckpointSaved(digest):
            return _saved(state, digest, now)


def _received(state: CoordinatorJob, event: Received, now: float) -> CoordinatorStep:
    if isinstance(event.message, Offer):
        return _offered(state, event.message, event.payload, now)
    if state.attempt is None:
        return JobStep(state)
    return _aggregated(state, coordinator_receives(state.attempt, event.message, event.payload, now), now)


# Before the first attempt


def _joined(state: CoordinatorJob, event: Joined, now: float) -> CoordinatorStep:
    silo = event.silo
    state = replace(
        state,
        present=state.present | {silo},
        ready=state.ready if state.asking else state.ready | {silo},
        identities={**state.identities, silo: event.join.identity},
        heads={**state.heads, silo: event.join.head},
    )
    welcome = SendTo(silo, Welcome(incarnation=state.rules.incarnation, resume=state.asking))
    step = _gathered(state, now)
    return replace(step, effects=(welcome, *step.effects))


def _offered(state: CoordinatorJob, offer: Offer, payload: bytes, now: float) -> CoordinatorStep:
    """Keep the newest broadcast that this job's coordinator signed; anything else counts as none."""
    if not state.asking or offer.silo not in state.present:
        return JobStep(state)
    best = state.offered
    if offer.broadcast is not None and _is_newer(state, offer.broadcast, payload):
        best = (offer.broadcast, payload)
    return _gathered(replace(state, ready=state.ready | {offer.silo}, offered=best), now)


def _is_newer(state: CoordinatorJob, start: StartAttempt, payload: bytes) -> bool:
    if state.offered is not None and start.id.attempt <= state.offered[0].id.attempt:
        return False
    try:
        state.rules.checker.check(start, payload, state.rules.plan, state.rules.plan_digest)
    except InvalidInput:
        return False
    return True


def _gathered(state: CoordinatorJob, now: float) -> CoordinatorStep:
    silos, waits = len(state.rules.plan.silos), {Stage.JOINING, Stage.WAITING}
    if state.stage not in waits:
        return JobStep(state)
    report = ReportWaiting(len(state.ready), silos)
    needed = silos if state.stage is Stage.JOINING else state.rules.plan.privacy.threshold
    if len(state.ready) < needed:
        return JobStep(state, (report,))
    step = _begin(state, now) if state.stage is Stage.JOINING else _next(state, now)
    return replace(step, effects=(report, *step.effects))


def _begin(state: CoordinatorJob, now: float) -> CoordinatorStep:
    if state.offered is not None:
        _, payload = state.offered
        return JobStep(replace(state, stage=Stage.RESTORING), (RestoreAdapter(payload),))
    noted = (JournalCoordinator(Began()),) if state.asking else ()
    return _go_on(state, noted, now)


def _go_on(state: CoordinatorJob, noted: tuple[CoordinatorEffect, ...], now: float) -> CoordinatorStep:
    state = replace(state, asking=False, offered=None, ready=state.present)
    step = _next(state, now)
    started = ReportStarted(tuple(sorted(state.present)), state.heads)
    return replace(step, effects=(*noted, started, *step.effects))


# Attempts


def _next(state: CoordinatorJob, now: float) -> CoordinatorStep:
    """Start the next attempt, wait for a quorum, or end."""
    if is_done(state):
        return finish(state)
    if len(state.present) < state.rules.plan.privacy.threshold:
        deadline = now + state.rules.plan.deadlines.join_seconds
        return JobStep(replace(state, stage=Stage.WAITING, deadline=deadline), (SetDeadline(deadline),))
    return _open(state, now)


def _open(state: CoordinatorJob, now: float) -> CoordinatorStep:
    rules, plan, standing = state.rules, state.rules.plan, state.standing
    attempt = AttemptId(round=standing.rounds, attempt=standing.attempts)
    factor, digest = rules.vectors.factor(attempt.round), bytes_digest(state.adapter)
    start = StartAttempt(id=attempt, factor=factor, adapter_digest=digest, charged=standing.charged)
    start = rules.signer.sign(start, plan, rules.plan_digest)
    context = AttemptContext(
        id=attempt,
        job_uid=plan.uid,
        plan_digest=rules.plan_digest,
        adapter_digest=digest,
        threshold=plan.privacy.threshold,
        coordinates=rules.vectors.coordinates[factor],
    )
    seconds = plan.deadlines
    step = start_coordinator(
        context, state.present, seconds.stage_seconds, seconds.compute_seconds, now, identities=state.identities
    )
    entry = Opened(round=attempt.round, attempt=attempt.attempt, adapter_digest=digest)
    state = replace(state, stage=Stage.ATTEMPT, invited=state.present, charging=False, released=None, started=now)
    sends = tuple(SendTo(silo, start, state.adapter) for silo in sorted(state.present))
    rest = _aggregated(state, step, now)
    return replace(rest, effects=(JournalCoordinator(entry), *sends, *rest.effects))


def _aggregated(state: CoordinatorJob, step: Step[CoordinatorAttempt], now: float) -> CoordinatorStep:
    """Turn an attempt's effects into the job's."""
    attempt = step.state
    state = replace(state, attempt=attempt, deadline=attempt.deadline, began=attempt.began, why=attempt.dropped)
    state = replace(state, aggregated=now)
    effects: list[CoordinatorEffect] = []
    for effect in step.effects:
        match effect:
            case SendTo():
                state = replace(state, charging=state.charging or isinstance(effect.message, DeliverShares))
                effects.append(effect)
            case SetDeadline():
                effects.append(effect)
            case Released(total):
                state = replace(state, stage=Stage.APPLYING, attempt=None, released=effect)
                effects.append(ApplySum(step.state.context.id.round, total))
            case Aborted():
                ended = _close(state, step.state.context.id, effect, None, now)
                return replace(ended, effects=(*effects, *ended.effects))
            case _:
                pass
    return JobStep(state, tuple(effects))


def _moved(state: CoordinatorJob, event: ModelMoved) -> CoordinatorStep:
    """The model has taken over a broadcast or a sum: save it before anybody hears of it."""
    before = state.standing
    if state.stage is Stage.RESTORING and state.offered is not None:
        start, _ = state.offered
        # The broadcast's own attempt may have been charged, and its sum is lost.
        used, charged = start.id.attempt + 1, start.charged + 1
        standing = Standing(rounds=start.id.round, attempts=used, charged=charged, accuracy=event.accuracy)
    elif state.stage is Stage.APPLYING:
        standing = Standing(
            rounds=before.rounds + 1,
            attempts=before.attempts + 1,
            charged=before.charged + 1,
            accuracy=event.accuracy,
        )
    else:
        return JobStep(state)
    state = replace(state, stage=Stage.SAVING, adapter=event.adapter, standing=standing)
    return JobStep(state, (SaveCheckpoint(standing),))


def _saved(state: CoordinatorJob, digest: str, now: float) -> CoordinatorStep:
    if state.stage is not Stage.SAVING:
        return JobStep(state)
    if state.released is None:
        restored = Restored(standing=state.standing, checkpoint=digest)
        return _go_on(state, (JournalCoordinator(restored),), now)
    attempt = AttemptId(round=state.standing.rounds - 1, attempt=state.standing.attempts - 1)
    return _close(state, attempt, state.released, digest, now)


def _close(
    state: CoordinatorJob, attempt: AttemptId, end: Released | Aborted, checkpoint: str | None, now: float
) -> CoordinatorStep:
    """Journal the attempt's end, tell the silos, report, go on."""
    applied = isinstance(end, Released)
    if isinstance(end, Aborted):
        before = state.standing
        used, charged = before.attempts + 1, before.charged + state.charging
        state = replace(state, standing=before.model_copy(update={"attempts": used, "charged": charged}))
    survivors = end.survivors if isinstance(end, Released) else ()
    dropped = tuple(sorted(state.invited - set(survivors))) if isinstance(end, Released) else end.dropped
    reason = end.reason[:512] if isinstance(end, Aborted) else ""
    over = AttemptOver(id=attempt, applied=applied, reason=reason)
    phases = phase_seconds(state.began, started=state.started, aggregated=state.aggregated, finished=now)
    report = ReportAttempt(attempt, applied, survivors, dropped, state.standing, phases, reason, state.why)
    state = replace(state, attempt=None, released=None)
    step = _next(state, now)
    closed = JournalCoordinator(Closed(standing=state.standing, checkpoint=checkpoint))
    told = tuple(SendTo(silo, over) for silo in sorted(state.invited))
    return replace(step, effects=(closed, *told, report, *step.effects))


# Losses and deadlines


def _lost(state: CoordinatorJob, silo: str, now: float) -> CoordinatorStep:
    state = replace(state, present=state.present - {silo}, ready=state.ready - {silo})
    if state.attempt is None:
        return JobStep(state)
    return _aggregated(state, coordinator_loses(state.attempt, silo, now), now)


def _timed_out(state: CoordinatorJob, now: float) -> CoordinatorStep:
    if now < state.deadline:
        return JobStep(state)
    if state.attempt is not None:
        return _aggregated(state, coordinator_times_out(state.attempt, now), now)
    if state.stage is Stage.WAITING:
        return finish(state)
    if state.stage is not Stage.JOINING:
        return JobStep(state)
    if len(state.ready) < state.rules.plan.privacy.threshold:
        # What an earlier process trained is paid for: it is delivered. Only a job without a round fails.
        return finish(state) if state.standing.rounds else failed(state, "the silos did not join in time")
    return _begin(state, now)

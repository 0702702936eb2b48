"""What a coordinator knows of its job while it runs, and how the job ends: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from foedus_contract.errors import JobFailed
from foedus_contract.exit_codes import ExitCode
from foedus_contract.plan import TrainingPlan
from foedus_contract.wire import LedgerHead, StartAttempt
from foedus_workloads.secagg.coordinator import CoordinatorAttempt, CoordinatorStage
from foedus_workloads.secagg.effects import Released
from foedus_workloads.training.broadcast import BroadcastChecker, BroadcastSigner
from foedus_workloads.training.coordinator_entries import Standing
from foedus_workloads.training.job_effects import CoordinatorEffect, Fail, Finish, JobStep, RoundVectors


class Stage(Enum):
    """What the coordinator does, or waits for."""

    JOINING = "silos to join"
    RESTORING = "the model to take over a silo's broadcast"
    WAITING = "a quorum to come back"
    ATTEMPT = "an attempt"
    APPLYING = "the released sum to be applied"
    SAVING = "the checkpoint"
    OVER = "nothing"


@dataclass(frozen=True)
class CoordinatorRules:
    """What does not change during a job: the plan, how broadcasts are signed, which start of the process this is."""

    plan: TrainingPlan
    plan_digest: str
    vectors: RoundVectors
    signer: BroadcastSigner
    checker: BroadcastChecker
    incarnation: int


@dataclass(frozen=True)
class CoordinatorJob:
    """The coordinator's state in one job; `ready` are the silos that joined and, where asked, made their offer."""

    rules: CoordinatorRules
    stage: Stage
    standing: Standing
    adapter: bytes = field(repr=False)
    deadline: float
    asking: bool
    present: frozenset[str] = frozenset()
    ready: frozenset[str] = frozenset()
    identities: Mapping[str, bytes] = field(default_factory=dict)
    heads: Mapping[str, LedgerHead] = field(default_factory=dict)  # for the engine, which knows the silos' keys
    offered: tuple[StartAttempt, bytes] | None = field(default=None, repr=False)
    attempt: CoordinatorAttempt | None = None
    invited: frozenset[str] = frozenset()
    charging: bool = False  # shares were delivered, on which silos charge their ledgers
    released: Released | None = field(default=None, repr=False)
    why: Mapping[str, str] = field(default_factory=dict)  # silos dropped out of the attempt that has just ended
    started: float = 0.0
    began: Mapping[CoordinatorStage, float] = field(default_factory=dict)  # of the attempt that has just ended
    aggregated: float = 0.0  # when it had its sum, or was aborted


CoordinatorStep = JobStep[CoordinatorJob, CoordinatorEffect]


def is_done(state: CoordinatorJob) -> bool:
    """Tell whether no further attempt can start."""
    plan, standing = state.rules.plan, state.standing
    return standing.rounds >= plan.rounds or standing.attempts >= plan.attempts


def finish(state: CoordinatorJob) -> CoordinatorStep:
    """End with what there is: an adapter when at least one round is done."""
    plan, standing = state.rules.plan, state.standing
    if standing.rounds >= plan.rounds:
        return JobStep(replace(state, stage=Stage.OVER), (Finish(standing),))
    ran_out = standing.attempts >= plan.attempts
    why = "all attempts are used" if ran_out else "too few silos are left"
    if standing.rounds == 0:
        return failed(state, why)
    reason = "AttemptsExhausted" if ran_out else "QuorumLost"
    message = f"{why}: {standing.rounds} of {plan.rounds} rounds are done"
    return JobStep(replace(state, stage=Stage.OVER), (Finish(standing, reason, message),))


def failed(state: CoordinatorJob, why: str) -> CoordinatorStep:
    """End without an adapter, naming the silos that are missing when too few are there."""
    plan, needed = state.rules.plan, state.rules.plan.privacy.threshold
    if len(state.present) < needed:
        missing = sorted({silo.name for silo in plan.silos} - state.present)
        error = JobFailed(
            f"{why}: {len(state.present)} are there, {needed} are needed; missing: {', '.join(missing)}",
            where=plan.job,
            cure="see why they stopped; raise spec.aggregation.joinTimeout if they are slow to start",
            code=ExitCode.QUORUM_LOST,
        )
    else:
        error = JobFailed(f"{why}, and no round was finished", where=plan.job, cure="see why silos dropped out")
    return JobStep(replace(state, stage=Stage.OVER), (Fail(error),))
